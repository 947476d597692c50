"""Texts that no quantizer was calibrated with, split into windows of tokens.

heldout   the held-out part of the built-in corpus, without documents of the calibration part
jargon    the Jargon File 4.4.7, if Debian's copy is installed: `apt-get install dict-jargon`
FILE      a text file, one document per paragraph

The built-in calibration corpus quotes some entries of the Jargon File. So documents that share
twelve consecutive words with the calibration corpus are excluded from every text; their number is
printed. The other entries of the Jargon File are new text in a register of the calibration corpus;
use `--text` for other registers.
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
from subprocess_run import log_step

JARGON = Path("/usr/share/dictd/jargon.dict.dz")
SHARED = 12  # consecutive words that are not shared by chance


def unrelated(files: Iterable[str]) -> dict[str, list[Document]]:
    """The documents of `files`, or of the default texts."""
    texts = {name: read_texts(name) for name in files}
    if not texts:
        texts["heldout"] = builtin("heldout")
        if JARGON.exists():
            texts["jargon"] = jargon()
    return {name: without_shared_text(name, documents) for name, documents in texts.items()}


def jargon() -> list[Document]:
    """The entries of the Jargon File, shuffled: a few windows then have entries of all letters."""
    text = gzip.decompress(JARGON.read_bytes()).decode()
    entries = re.split(r"\n\n(?=\S)", text)  # a headword is not indented, its entry is
    entries = [e for e in entries if "\n    " in e and not e.strip().startswith("00-database")]
    random.Random(0).shuffle(entries)
    return [Document(unwrapped(entry)) for entry in entries]


def unwrapped(text: str) -> str:
    """`text` with each paragraph on one line."""
    return "\n\n".join(" ".join(p.split()) for p in text.split("\n\n") if p.strip())


def without_shared_text(name: str, documents: list[Document]) -> list[Document]:
    """The documents that share no consecutive words with the calibration corpus."""
    known = set().union(*(_runs(d) for d in builtin("calibration")))
    selected = [d for d in documents if known.isdisjoint(_runs(d))]
    if len(selected) < len(documents):
        log_step(f"{name}: {len(documents) - len(selected)} of {len(documents)} documents excluded")
    return selected


def _runs(document: Document) -> set[tuple[str, ...]]:
    parts = (document.text or " ".join(m["content"] for m in document.messages)).split()
    return {tuple(parts[i : i + SHARED]) for i in range(len(parts) - SHARED + 1)}


def windows(
    texts: dict[str, list[Document]], tokenizer: Any, count: int, length: int
) -> dict[str, Tensor]:
    """`count` windows of `length` tokens of each text: int64 [windows, tokens]."""
    options = ("--windows", "--window-length")
    return {
        name: pack_tokens(documents, tokenizer, count, length, name, options).ids
        for name, documents in texts.items()
    }
