"""Files of texts of every usual kind, packed or not."""

import bz2
import gzip
import json
import lzma
import sys
from types import ModuleType, SimpleNamespace

import pytest

from helpers.chat_templates import ANSWER, USER
from salient.core import text_files
from salient.core.conversations import Document
from salient.core.corpus import read_texts
from salient.core.errors import CalibrationError, MissingExtra

ROWS = [{"text": "One, two"}, {"messages": [USER, ANSWER]}]
READ = [Document("One, two"), Document(messages=(USER, ANSWER))]
LINES = "\n".join(map(json.dumps, ROWS))


def read(tmp_path, name, content) -> list[Document]:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    return read_texts(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES),
        ("a.json", LINES),
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.jsonl", json.dumps(ROWS)),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
        ("a.jsonl.bz2", bz2.compress(LINES.encode())),
        ("a.jsonl.xz", lzma.compress(LINES.encode())),
        ("a.jsonl", gzip.compress(LINES.encode(), mtime=0)),
        ("A.JSONL", LINES),
    ],
)
def test_rows_are_read_from_lines_and_arrays_packed_or_not(name, content, tmp_path):
    assert read(tmp_path, name, content) == READ


def test_rows_have_their_place(tmp_path):
    assert [d.where.rpartition(", ")[2] for d in read(tmp_path, "a.jsonl", LINES)] == [
        "line 1",
        "line 2",
    ]
    assert [d.where.rpartition(", ")[2] for d in read(tmp_path, "a.json", json.dumps(ROWS))] == [
        "row 1",
        "row 2",
    ]


def test_one_conversation_may_be_a_file_of_its_own(tmp_path):
    assert read(tmp_path, "a.json", json.dumps(ROWS[1], indent=1)) == READ[1:]
    assert read(tmp_path, "b.jsonl", json.dumps(ROWS[1])) == READ[1:]
    assert read(tmp_path, "c.jsonl", "\n".join([json.dumps(ROWS[1]["messages"])] * 2)) == (
        READ[1:] * 2
    )


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
def test_a_table_is_read_by_its_columns(name, mark, tmp_path):
    content = f'id{mark}text\n1{mark}"One, two\nthree; four"\n2{mark}Five\n'
    assert [d.text for d in read(tmp_path, name, content)] == ["One, two\nthree; four", "Five"]


def test_a_table_may_hold_conversations_as_json(tmp_path):
    cell = json.dumps([USER, ANSWER]).replace('"', '""')
    assert read(tmp_path, "a.csv", f'messages\n"{cell}"\n') == READ[1:]
    alpaca = "instruction,input,output\nAdd.,1 2,3\n"
    (document,) = read(tmp_path, "b.csv", alpaca)
    assert [m["content"] for m in document.messages] == ["Add.\n\n1 2", "3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,b\n1,2\n", r"row 1: found 'a', 'b'\. Each line needs a 'text' string"),
        (
            "a.csv",
            "messages\n\"[{'role': 1}]\"\n",
            r"row 1: 'messages' is a string that is not JSON",
        ),
        ("a.json", '[{"text": "One"}, {"text": null}]', r"row 2: .*'text' is null"),
        ("a.json", '{"a": 1}', r"found 'a'\. Each line needs"),
        ("a.json", '[{"text": "One"', r"line 1: not JSON .* a \.json file may have one array"),
        ("a.jsonl", "[" * 10**5, r"line 1: not JSON"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd", r"is no text file\. Unpack it with zstd -d"),
        ("a.zip", b"PK", r"is no text file\. Unpack it\. Salient reads a \.txt, \.jsonl"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00broken", r"cannot be read"),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], r"cannot be read"),
        ("a.txt.gz", gzip.compress(b"\xff\xfe1", mtime=0), r"is not UTF-8 text \(byte 0\)"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_it_is(name, content, message, tmp_path):
    with pytest.raises(CalibrationError, match=message):
        read(tmp_path, name, content)


def test_a_packed_file_that_grows_without_bound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MOST_UNPACKED", 2**20)
    with pytest.raises(CalibrationError, match=r"unpacks to more than .* a sample is enough"):
        read(tmp_path, "a.txt.gz", gzip.compress(b"a " * 2**20, mtime=0))


# Parquet: with the package if it is installed, else with a stand-in


def test_a_parquet_file_without_its_extra_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for name in ("a.parquet", "a.bin"):
        with pytest.raises(MissingExtra, match=r"a Parquet file, .* 'salient-awq\[parquet\]'"):
            read(tmp_path, name, b"PAR1...")


def test_a_parquet_file_is_read_without_its_images(tmp_path, monkeypatch):
    columns = [("text", "string"), ("image", "struct<bytes: binary>")]

    def batches(batch_size, columns):
        assert columns == ["text"]
        for rows in ([{"text": "One"}], [{"text": "Two"}, {"text": None}]):
            yield SimpleNamespace(to_pylist=lambda rows=rows: rows)

    schema = [SimpleNamespace(name=name, type=kind) for name, kind in columns]
    module = ModuleType("pyarrow.parquet")
    module.ParquetFile = lambda _: SimpleNamespace(schema_arrow=schema, iter_batches=batches)
    monkeypatch.setitem(sys.modules, "pyarrow", ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", module)
    with pytest.raises(CalibrationError, match=r"a\.parquet, row 3: .*'text' is null"):
        read(tmp_path, "a.parquet", b"PAR1")


def test_a_real_parquet_file_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"messages": [USER | {"tool_calls": None}, ANSWER], "image": b"\x00"}] * 3
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_texts(str(tmp_path / "a.parquet")) == READ[1:] * 3
    (tmp_path / "b.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(CalibrationError, match=r"b\.parquet cannot be read as Parquet \("):
        read_texts(str(tmp_path / "b.parquet"))
