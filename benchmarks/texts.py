"""Texts to measure on that no quantizer was calibrated with, cut into windows of tokens.

heldout   the held-out part of the built-in corpus: no document of the calibration part is in it
jargon    the Jargon File 4.4.7, if Debian's copy is there: `apt-get install dict-jargon`
FILE      any text of the user's, one document a paragraph

The built-in calibration corpus quotes some entries of the Jargon File. So whatever document shares
twelve words in a row with the calibration corpus is left out, in every text, and told on standard
error. The other entries of the Jargon File are new text, but in a register that the calibration
knows; `--text` takes whatever is further away.
"""

import gzip
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from salient.core.corpus import Document, builtin, read_texts
from salient.models.tokens import pack_tokens
from subprocess_run import say

JARGON = Path("/usr/share/dictd/jargon.dict.dz")
SHARED = 12  # words in a row that two texts do not have in common by chance


def unrelated(files: Iterable[str]) -> dict[str, list[Document]]:
    """The documents of each text: of `files`, or of the default texts if there are none."""
    texts = {name: read_texts(name) for name in files}
    if not texts:
        texts["heldout"] = builtin("heldout")
        if JARGON.exists():
            texts["jargon"] = jargon()
    return {name: unseen(name, documents) for name, documents in texts.items()}


def jargon() -> list[Document]:
    """The entries of the Jargon File, shuffled so that a few windows do not all come from 'A'."""
    text = gzip.decompress(JARGON.read_bytes()).decode()
    entries = re.split(r"\n\n(?=\S)", text)  # a headword is not indented, its entry is
    entries = [e for e in entries if "\n    " in e and not e.strip().startswith("00-database")]
    random.Random(0).shuffle(entries)
    return [Document(unwrapped(entry)) for entry in entries]


def unwrapped(text: str) -> str:
    """`text` with each of its paragraphs on one line."""
    return "\n\n".join(" ".join(p.split()) for p in text.split("\n\n") if p.strip())


def unseen(name: str, documents: list[Document]) -> list[Document]:
    """Those of `documents` that share no run of words with the calibration corpus."""
    known = set().union(*(_runs(d) for d in builtin("calibration")))
    kept = [d for d in documents if known.isdisjoint(_runs(d))]
    if len(kept) < len(documents):
        say(f"{name}: {len(documents) - len(kept)} of {len(documents)} documents left out")
    return kept


def _runs(document: Document) -> set[tuple[str, ...]]:
    words = (document.text or " ".join(m["content"] for m in document.messages)).split()
    return {tuple(words[i : i + SHARED]) for i in range(len(words) - SHARED + 1)}


def windows(
    texts: dict[str, list[Document]], tokenizer: Any, count: int, length: int
) -> dict[str, Tensor]:
    """`count` windows of `length` tokens of each text: int64 [windows, tokens]."""
    options = ("--windows", "--window-length")
    return {
        name: pack_tokens(documents, tokenizer, count, length, name, options).ids
        for name, documents in texts.items()
    }
