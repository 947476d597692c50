"""Texts that no quantizer was calibrated with, split into windows of tokens.

Unseen by every stage, the choice of defaults included; each where its source is installed:

foldoc     the Free On-line Dictionary of Computing: `apt-get install dict-foldoc`
fortunes   sayings, jokes and dialogue: `apt-get install fortunes`
perldoc    Perl's manual, prose and code: `apt-get install perl-doc`
pytests    the tests of Python's standard library: Python code

Seen by people who chose defaults, and by the figures of earlier versions:

heldout    the held-out part of the built-in corpus
jargon     the Jargon File 4.4.7: `apt-get install dict-jargon`

FILE       a text file, one document per paragraph

Documents that share twelve consecutive words with the built-in calibration corpus are excluded from
every text; their number is printed. The order of the documents is shuffled by a seed.
"""

import gzip
import random
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from salient.core.corpus import Document, builtin, read_texts
from salient.models.token_packing import pack_tokens
from subprocess_run import log_step

SHARED = 12  # consecutive words that are not shared by chance
PIECE = 3000  # letters of a piece of a long document
DICTIONARIES = Path("/usr/share/dictd")
FORTUNES = Path("/usr/share/games/fortunes")


def dictionary(name: str) -> Iterator[str]:
    """The entries of a dictionary of dictd."""
    path = DICTIONARIES / f"{name}.dict.dz"
    if path.exists():
        for entry in re.split(r"\n\n(?=\S)", gzip.decompress(path.read_bytes()).decode()):
            # A headword is not indented, its entry is.
            if "\n   " in entry and not entry.strip().startswith("00-database"):
                yield unwrapped(entry)


def fortunes() -> Iterator[str]:
    """The sayings of every file of Debian's package."""
    for path in sorted(FORTUNES.glob("*")):
        if not path.suffix and path.name != "ascii-art":
            sayings = path.read_text(encoding="utf-8", errors="replace").split("\n%\n")
            yield from (saying.expandtabs() for saying in sayings if len(saying) > 100)


def perldoc() -> Iterator[str]:
    """Pieces of the pages of Perl's manual, in their markup."""
    for path in sorted(Path("/usr/share/perl").glob("5.*.*/pod/*.pod")):
        yield from pieces(path.read_text(encoding="utf-8", errors="replace"), "\n\n")


def pytests() -> Iterator[str]:
    """Pieces of the test modules of Python's standard library."""
    for path in sorted((Path(sysconfig.get_path("stdlib")) / "test").glob("test_*.py")):
        yield from pieces(path.read_text(encoding="utf-8", errors="replace"), "\n    def ")


def pieces(text: str, boundary: str) -> Iterator[str]:
    """`text` in pieces of PIECE letters and more that end at a boundary."""
    piece = ""
    for part in text.split(boundary):
        piece = f"{piece}{boundary}{part}" if piece else part
        if len(piece) >= PIECE:
            yield piece
            piece = ""


def unwrapped(text: str) -> str:
    """`text` with each paragraph on one line."""
    return "\n\n".join(" ".join(p.split()) for p in text.split("\n\n") if p.strip())


UNSEEN: dict[str, Callable[[], Iterator[str]]] = {
    "foldoc": lambda: dictionary("foldoc"),
    "fortunes": fortunes,
    "perldoc": perldoc,
    "pytests": pytests,
}


def unrelated(names: Sequence[str], seed: int = 0) -> dict[str, list[Document]]:
    """The documents of the named texts and files; of the unseen texts that are installed if none
    is named. Shuffled by `seed`."""
    texts = {name: _documents(name) for name in names or UNSEEN}
    texts = {name: without_shared_text(name, texts[name]) for name in texts if texts[name]}
    for documents in texts.values():
        random.Random(seed).shuffle(documents)
    return texts


def _documents(name: str) -> list[Document]:
    if name == "heldout":
        return builtin("heldout")
    if name == "jargon":
        return [Document(text) for text in dictionary("jargon")]
    return [Document(text) for text in UNSEEN[name]()] if name in UNSEEN else read_texts(name)


def without_shared_text(name: str, documents: list[Document]) -> list[Document]:
    """The documents that share no consecutive words with the calibration corpus."""
    selected = [d for d in documents if _known().isdisjoint(_runs(d))]
    if len(selected) < len(documents):
        log_step(f"{name}: {len(documents) - len(selected)} of {len(documents)} documents excluded")
    return selected


@cache
def _known() -> set[tuple[str, ...]]:
    return set().union(*(_runs(d) for d in builtin("calibration")))


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
