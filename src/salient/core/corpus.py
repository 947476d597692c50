"""Texts to calibrate and evaluate with: the built-in corpus, files, data sets of the Hub.

The built-in corpus (corpus/README.md lists the sources) has two parts that share no
document: `calibration` for the statistics, `heldout` for measuring.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from .errors import CalibrationError, MissingExtra
from .model_files import as_list, as_object
from .records import is_object, is_sequence

LARGEST_FILE = 4 * 2**30  # bytes; more is a mistake, not a calibration
MOST_ROWS = 4096  # of a Hub data set, taken from its start
# Sets of the published tables: name -> the Hub's path, configuration and split. Their rows are
# lines of one text, joined as the papers of GPTQ and AWQ do (arXiv 2210.17323, 2306.00978).
JOINED_SETS = {"wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "test")}


Message = Mapping[str, Any]


@dataclass(frozen=True)
class Document:
    """One text, or one conversation in the messages format of chat templates.

    messages, tools, documents: as the row has them, with all their keys
    variables: other keys of the row, which a template may read
    where: file and row, for messages
    """

    text: str = ""
    messages: tuple[Message, ...] = ()
    kind: str = "text"
    tools: tuple[Mapping[str, Any], ...] = ()
    documents: tuple[Mapping[str, Any], ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    where: str = field(default="", compare=False)


def builtin(part: Literal["calibration", "heldout"]) -> list[Document]:
    """The documents of a part of the built-in corpus, kinds mixed evenly."""
    text = (files("salient.core") / "corpus_data" / f"{part}.jsonl").read_text(encoding="utf-8")
    return _documents(text.split("\n"), f"the built-in corpus ({part})")


def read_texts(name: str) -> list[Document]:
    """The documents called `name`: 'builtin', a file, 'wikitext2', or another Hub data set.

    A .txt file has one document a paragraph, a .jsonl file one a line.

    Raises CalibrationError naming the file and line of invalid input.
    """
    if name == "builtin":
        return builtin("calibration")
    path = Path(name).expanduser()
    if path.suffix in (".txt", ".jsonl", ".json", ".md") or path.exists():
        return _read_file(path)
    return _read_data_set(name)


def _read_file(path: Path) -> list[Document]:
    if not path.is_file():
        raise CalibrationError(
            f"No text file {str(path)!r}. Give a .txt or .jsonl file, 'builtin', or a Hub data set."
        )
    if path.stat().st_size > LARGEST_FILE:
        raise CalibrationError(
            f"{path} has {path.stat().st_size / 2**30:.0f} GiB. Give at most 4 GiB; a sample is "
            "enough."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path} is not UTF-8 text (byte {error.start}). Convert it, for example with iconv."
        ) from None
    if path.suffix in (".jsonl", ".json"):
        documents = _documents(text.split("\n"), str(path))
    else:
        documents = [
            Document(p.strip()) for p in text.replace("\r\n", "\n").split("\n\n") if p.strip()
        ]
    if not documents:
        raise CalibrationError(
            f"{path} has no text. Use a file with at least a few pages of text like your "
            "model's use."
        )
    return documents


def _documents(lines: Iterable[str], where: str) -> list[Document]:
    documents: list[Document] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CalibrationError(
                f"{where}, line {number}: not JSON ({error}). A .jsonl file has one object a line."
            ) from None
        documents.append(_document(row, f"{where}, line {number}"))
    return documents


def _document(row: object, where: str) -> Document:
    fields = as_object(row)
    kind = str(fields.get("kind", "text"))
    messages = [as_object(message) for message in as_list(fields.get("messages"))]
    if messages and all({"role", "content"} <= message.keys() for message in messages):
        turns = [{"role": str(m["role"]), "content": _content(m["content"])} for m in messages]
        return Document(messages=tuple(turns), kind=kind)
    if isinstance(text := fields.get("text"), str):
        return Document(text, kind=kind)
    raise CalibrationError(
        f"{where}: found {', '.join(map(repr, fields)) or type(row).__name__}. Each line needs a "
        "'text' string or a 'messages' list of objects with 'role' and 'content'."
    )


def _content(content: object) -> str:
    """A message's text: its text parts joined, '' where it only calls a tool."""
    if not is_sequence(content):
        return "" if content is None else str(content)
    return "".join(str(p.get("text", "") if is_object(p) else p) for p in content)


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
        return [
            _document(row, f"{path}, row {i}")
            for i, row in zip(range(MOST_ROWS), rows, strict=False)
        ]
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CalibrationError(
            f"{path!r} is neither a local file nor a data set of the Hub "
            f"({(str(error) or type(error).__name__).splitlines()[0]}). "
            "Check the name and the network, or use a .txt or .jsonl file."
        ) from error
