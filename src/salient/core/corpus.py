"""Texts to calibrate and evaluate with: the built-in corpus, files, data sets of the Hub.

The built-in corpus (corpus/README.md lists the sources) has two parts that share no
document: `calibration` for the statistics, `heldout` for measuring.
"""

import json
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Literal

from .conversations import Document, Message
from .errors import CalibrationError, MissingExtra
from .text_files import SUFFIXES, documents_of, read_file

__all__ = ["BUILTIN", "Document", "Message", "builtin", "read_texts"]

BUILTIN_CORPUS = "the built-in corpus"  # in the `where` of its documents
BUILTIN = "builtin"  # the corpus that Salient brings
MOST_ROWS = 4096  # of a Hub data set, taken from its start
# Sets of the published tables: name -> the Hub's path, configuration and split. Their rows are
# lines of one text, joined as the papers of GPTQ and AWQ do (arXiv 2210.17323, 2306.00978).
JOINED_SETS = {"wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "test")}


def builtin(part: Literal["calibration", "heldout"]) -> list[Document]:
    """The documents of a part of the built-in corpus, kinds mixed evenly."""
    text = (files("salient.core") / "corpus_data" / f"{part}.jsonl").read_text(encoding="utf-8")
    name = f"{BUILTIN_CORPUS} ({part})"
    lines = enumerate(filter(None, text.split("\n")), 1)
    return documents_of((f"{name}, line {number}", json.loads(line)) for number, line in lines)


def read_texts(name: str) -> list[Document]:
    """The documents called `name`: 'builtin', a file, 'wikitext2', or another Hub data set.

    A .txt file has one document a paragraph, a .jsonl file one a line, a table one a row.

    Raises CalibrationError naming the file and row of invalid input.
    """
    if name == BUILTIN:
        return builtin("calibration")
    path = Path(name).expanduser()
    if path.suffix.lower() in SUFFIXES or path.exists():
        return read_file(path)
    return _read_data_set(name)


def _read_data_set(name: str) -> list[Document]:
    try:
        load: Callable[..., Iterable[dict[str, str]]] = import_module("datasets").load_dataset
    except ImportError:
        raise MissingExtra(
            f"{name!r} is no file here; as a Hub data set it needs the extra 'data': pip install "
            "'salient-awq[data]'"
        ) from None
    path, _, split = name.partition(":")
    try:
        if name in JOINED_SETS:
            path, part, split = JOINED_SETS[name]
            lines = load(path, part, split=split, streaming=True)
            return [Document("\n\n".join(row["text"] for row in lines))]
        rows = load(path, split=split or "train", streaming=True)
        return documents_of(
            (f"{path}, row {i}", row) for i, row in zip(range(MOST_ROWS), rows, strict=False)
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CalibrationError(
            f"{path!r} is neither a local file nor a data set of the Hub "
            f"({(str(error) or type(error).__name__).splitlines()[0]}). "
            "Check the name and the network, or use a .txt or .jsonl file."
        ) from error
