"""Files of texts: paragraphs, JSON lines, JSON arrays, CSV and Parquet; also compressed."""

import bz2
import csv
import gzip
import io
import lzma
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from .conversations import CONVERSATIONS, Document, to_document
from .errors import CalibrationError, MissingExtra
from .input_files import irregular, parse_json
from .records import is_list, is_object

LARGEST_FILE = 4 * 2**30  # bytes; more is a mistake, not a calibration
MOST_UNPACKED = 2**30  # bytes of a compressed file
MOST_FAULTS = 1000  # rows at fault that are counted
LISTED = 5
PACKED = {
    ".gz": (gzip.open, b"\x1f\x8b"),
    ".bz2": (bz2.open, b"BZh"),
    ".xz": (lzma.open, b"\xfd7zXZ"),
}
LINES, TABLES = (".jsonl", ".ndjson", ".json"), {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".txt", ".md", ".parquet", *LINES, *TABLES, *PACKED)
UNREAD = {
    ".zst": "Unpack it with zstd -d.",
    ".zip": "Unpack it.",
    ".7z": "Unpack it.",
    ".tar": "Unpack it and give one file.",
    ".arrow": "Convert it to Parquet or .jsonl.",
    ".xlsx": "Export it as .csv.",
    ".pdf": "Export its text as .txt.",
    ".docx": "Export its text as .txt.",
}
KINDS = ".txt, .jsonl, .json, .csv or .parquet file"

Row = tuple[str, object]


def read_file(path: Path) -> list[Document]:
    """The documents of a file. Raises CalibrationError naming the file and row at fault."""
    if path.exists() and not path.is_dir() and (reason := irregular(path)):
        raise CalibrationError(f"{path} {reason}. Give a {KINDS}.")
    if not path.is_file():
        raise CalibrationError(
            f"No text file {str(path)!r}. Give a .txt or .jsonl file, 'builtin', or a Hub data "
            "set; .json, .csv and .parquet files are read, too."
        )
    if path.stat().st_size > LARGEST_FILE:
        raise CalibrationError(
            f"{path} has {path.stat().st_size / 2**30:.0f} GiB. Give at most 4 GiB; a sample is "
            "enough."
        )
    if path.suffix.lower() in UNREAD:
        raise CalibrationError(
            f"{path} is no text file. {UNREAD[path.suffix.lower()]} Salient reads a {KINDS}."
        )
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in PACKED]
    kind = suffixes[-1] if suffixes else ""
    with path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    if parquet or kind == ".parquet":
        documents = documents_of(_parquet_rows(path))
    elif kind in LINES:
        documents = documents_of(_json_rows(_text(path), str(path)))
    elif kind in TABLES:
        documents = documents_of(_table_rows(_text(path), str(path), TABLES[kind]))
    else:
        paragraphs = _text(path).replace("\r\n", "\n").split("\n\n")
        stripped = (paragraph.strip() for paragraph in paragraphs)
        documents = [
            Document(text, where=f"{path}, paragraph {number}")
            for number, text in enumerate(filter(None, stripped), 1)
        ]
    if not documents:
        raise CalibrationError(
            f"{path} has no text. Use a file with at least a few pages of text like your "
            "model's use."
        )
    return documents


def documents_of(rows: Iterable[Row]) -> list[Document]:
    """The documents of named rows. Raises CalibrationError for the first fault, and counts all."""
    documents: list[Document] = []
    faults: list[tuple[str, CalibrationError]] = []
    for where, row in rows:
        try:
            documents.append(to_document(row, where))
        except CalibrationError as error:
            faults.append((where, error))
            if len(faults) == MOST_FAULTS:
                break
    if not faults:
        return documents
    others = [where.rpartition(", ")[2] for where, _ in faults[1:]]
    more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
    also = f" Also at fault: {', '.join(others[:LISTED])}{more}." if others else ""
    raise CalibrationError(f"{faults[0][1]}{also}") from None


def _text(path: Path) -> str:
    """The text of a file, unpacked if it is compressed."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((opener for opener, magic in PACKED.values() if start.startswith(magic)), None)
    try:
        if opener is None:
            data = path.read_bytes()
        else:
            with opener(path, "rb") as file:
                data = file.read(MOST_UNPACKED + 1)
            if len(data) > MOST_UNPACKED:
                raise CalibrationError(
                    f"{path} unpacks to more than {MOST_UNPACKED / 2**30:.0f} GiB. Give less; a "
                    "sample is enough."
                )
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path} is not UTF-8 text (byte {error.start}). Convert it, for example with iconv; "
            f"Salient reads a {KINDS}, also compressed with gzip."
        ) from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise CalibrationError(
            f"{path} cannot be read ({error}). Write or pack it again."
        ) from None


def _json_rows(text: str, name: str) -> Iterator[Row]:
    """The rows of a JSON array, of an object that holds one, or of one value a line.

    An array of messages is one conversation, not rows.
    """
    whole = _whole(text)
    if is_list(whole) and not (whole and all(is_object(row) and "role" in row for row in whole)):
        yield from ((f"{name}, row {number}", row) for number, row in enumerate(whole, 1))
        return
    if is_object(whole):
        lists = [value for value in whole.values() if is_list(value) and value]
        is_row = any(key in whole for key in (*CONVERSATIONS, "text", "prompt", "instruction"))
        if len(lists) != 1 or is_row:
            yield f"{name}, line 1", whole
        else:
            yield from ((f"{name}, row {number}", row) for number, row in enumerate(lists[0], 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = parse_json(line, half_pairs=True)
            except ValueError as error:
                raise CalibrationError(
                    f"{name}, line {number}: not JSON ({error}). A .jsonl file has one object a "
                    "line, a .json file may have one array of them."
                ) from None
            yield f"{name}, line {number}", row


def _whole(text: str) -> Any:
    """A file's single JSON value; None for a file of lines."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return parse_json(text, half_pairs=True)
    except ValueError:
        return None


def _table_rows(text: str, name: str, delimiter: str) -> Iterator[Row]:
    """The rows of a CSV file with a header."""
    csv.field_size_limit(2**31 - 1)
    header = text.split("\n", 1)[0]
    if delimiter not in header:
        delimiter = next((mark for mark in (";", "\t", "|") if mark in header), delimiter)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    number = 0
    try:
        for number, row in enumerate(reader, 1):
            columns = {key: value for key, value in row.items() if isinstance(key, str)}
            yield f"{name}, row {number}", columns
    except csv.Error as error:
        raise CalibrationError(
            f"{name}, row {number + 1}: not CSV ({error}). Quote fields that hold quotes, commas "
            "or line ends, or use .jsonl."
        ) from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file, without columns of bytes, such as images."""
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtra(
            f"{path} is a Parquet file, which needs the extra 'parquet': pip install "
            "'salient-awq[parquet]'"
        ) from None
    count = 0
    try:
        file = parquet.ParquetFile(path)
        columns = [column.name for column in file.schema_arrow if "binary" not in str(column.type)]
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                count += 1
                yield f"{path}, row {count}", row
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these classes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CalibrationError(
            f"{path} cannot be read as Parquet ({reason}). Fetch or write it again."
        ) from None
