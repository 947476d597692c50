"""Texts: what a file holds, and what is said of one that holds nothing to use."""

import json
import re
import sys
import unicodedata
from collections import Counter
from importlib.resources import files
from types import ModuleType

import pytest

from salient.core import corpus
from salient.core.corpus import Document, builtin, read_texts
from salient.core.errors import CalibrationError, MissingExtra

CHAT = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]


def lines_of(folder, *rows, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return str(path)


# The built-in corpus

KINDS = ("prose", "code", "maths", "dialogue", "multilingual", "structured", "long")


def test_the_parts_of_the_built_in_corpus_share_no_document():
    parts = [
        {d.text or str(d.messages) for d in builtin(part)} for part in ("calibration", "heldout")
    ]
    assert len(parts[0]) > 400
    assert len(parts[1]) > 100
    assert not parts[0] & parts[1]


def test_no_long_paragraph_is_in_both_parts_of_the_built_in_corpus():
    def paragraphs(part):
        for document in builtin(part):
            for text in (document.text, *(m["content"] for m in document.messages)):
                yield from (p for p in text.split("\n\n") if len(p) > 50)

    assert not set(paragraphs("calibration")) & set(paragraphs("heldout"))


def test_the_built_in_corpus_is_less_than_three_megabytes():
    folder = files("salient.core") / "corpus_data"
    assert sum(len(path.read_bytes()) for path in folder.iterdir()) < 3 * 10**6


def test_the_built_in_corpus_has_many_languages_and_long_documents():
    documents = builtin("calibration")
    letters = Counter(
        unicodedata.name(letter, "?").split()[0]
        for d in documents
        for letter in set(d.text)
        if letter.isalpha() and ord(letter) > 0x24F
    )
    scripts = {"CYRILLIC", "ARABIC", "DEVANAGARI", "THAI", "HANGUL", "HIRAGANA", "CJK", "HEBREW"}
    assert scripts <= letters.keys()
    assert sum(len(d.text) > 30_000 for d in documents if d.kind == "long") >= 6


def test_the_parts_of_the_built_in_corpus_share_no_run_of_twelve_tokens():
    def runs(part):
        for document in builtin(part):
            text = document.text or " ".join(m["content"] for m in document.messages)
            parts = text.split()
            yield from (tuple(parts[i : i + 12]) for i in range(len(parts) - 11))

    assert set(runs("heldout")).isdisjoint(runs("calibration"))


@pytest.mark.parametrize("part", ["calibration", "heldout"])
def test_any_prefix_of_the_built_in_corpus_mixes_the_kinds_as_the_whole(part):
    kinds = [d.kind for d in builtin(part)]
    whole = Counter(kinds)
    assert set(whole) == set(KINDS if part == "calibration" else KINDS[:5])
    for length in range(60, len(kinds), 20):
        prefix = Counter(kinds[:length])
        assert all(abs(prefix[k] / length - whole[k] / len(kinds)) < 0.1 for k in whole)


@pytest.mark.parametrize("part", ["calibration", "heldout"])
def test_every_built_in_document_holds_text(part):
    for document in builtin(part):
        assert bool(document.text.strip()) != bool(document.messages)
        assert all(m["content"].strip() for m in document.messages)


def test_builtin_is_the_calibration_part():
    assert read_texts("builtin") == builtin("calibration")


# Files


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a"])
def test_a_text_file_holds_one_document_a_paragraph(name, tmp_path):
    (tmp_path / name).write_bytes("One\nline.\r\n\r\nTwo, Zoë.\n\n\n\n  \n\nThree\n".encode())
    result = read_texts(str(tmp_path / name))
    assert [d.text for d in result] == ["One\nline.", "Two, Zoë.", "Three"]
    assert {d.kind for d in result} == {"text"}


def test_a_jsonl_file_holds_one_text_or_conversation_a_line(tmp_path):
    name = lines_of(
        tmp_path, {"text": "One"}, "", {"messages": CHAT, "kind": "chat"}, {"text": "", "x": 1}
    )
    assert read_texts(name) == [
        Document("One"),
        Document(messages=tuple(CHAT), kind="chat"),
        Document(""),
    ]


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85"], ids=ascii)
def test_a_line_ends_at_a_line_feed_and_at_nothing_else(letter, tmp_path):
    # JSON may hold these unescaped, and web text does
    row = json.dumps({"text": f"One{letter}line"}, ensure_ascii=False)
    (tmp_path / "rows.jsonl").write_text(row + "\n", encoding="utf-8")
    assert read_texts(str(tmp_path / "rows.jsonl")) == [Document(f"One{letter}line")]


def test_a_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("One")
    assert read_texts("~/a.txt") == [Document("One")]


def test_a_line_that_is_not_json_is_named(tmp_path):
    name = lines_of(tmp_path, {"text": "One"}, "", '{"text": ')
    message = rf"{re.escape(name)}, line 3: not JSON \(.*\)\. A \.jsonl file has one object a line"
    with pytest.raises(CalibrationError, match=message):
        read_texts(name)


@pytest.mark.parametrize(
    ("row", "result"),
    [
        ({"prompt": "a", "answer": "b"}, "'prompt', 'answer'"),
        ({"messages": []}, "'messages'; 'messages' is empty"),
        ({"messages": None, "id": 3}, "'messages', 'id'; 'messages' is null"),
        ("null", "null"),
        ([1, 2], "list"),
        ("5", "int"),
        ({}, "dict"),
    ],
    ids=str,
)
def test_a_row_without_text_says_what_it_holds_and_what_is_needed(row, result, tmp_path):
    name = lines_of(tmp_path, {"text": "One"}, row)
    message = (
        rf"line 2: found {result}\. .* 'text' string or a 'messages' list .* 'role' and 'content'"
    )
    with pytest.raises(CalibrationError, match=message):
        read_texts(name)


def test_an_empty_conversation_does_not_hide_the_text_next_to_it(tmp_path):
    assert read_texts(lines_of(tmp_path, {"messages": [], "text": "One"})) == [Document("One")]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize("content", ["", " \n\n \n"])
def test_a_file_without_text_asks_for_a_few_pages(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(CalibrationError, match=rf"{name} has no text\. Use a file .* pages"):
        read_texts(str(tmp_path / name))


@pytest.mark.parametrize("name", ["no/such.txt", "such.jsonl", "such.json", "such.md"])
def test_a_file_that_is_not_there_is_never_sought_on_the_hub(name):
    message = rf"No text file '{name}'\. Give a \.txt or \.jsonl file, 'builtin', or a Hub data set"
    with pytest.raises(CalibrationError, match=message):
        read_texts(name)


def test_a_folder_is_no_text_file(tmp_path):
    with pytest.raises(CalibrationError, match=r"No text file .* Give a \.txt or \.jsonl file"):
        read_texts(str(tmp_path))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_text_in_another_encoding_says_at_which_byte_and_what_to_do(name, tmp_path):
    (tmp_path / name).write_bytes('{"text": "Zoë"}'.encode("latin-1"))
    with pytest.raises(CalibrationError, match=rf"{name} is not UTF-8 text \(byte 12\).* iconv"):
        read_texts(str(tmp_path / name))


def test_a_file_of_gibibytes_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(5 * 2**30)  # sparse: takes no disk
    with pytest.raises(
        CalibrationError, match=r"huge\.txt has 5 GiB\. Give at most 4 GiB; a sample"
    ):
        read_texts(str(path))


# Data sets of the Hub: a stand-in for the optional package, which needs a network


def data_sets(monkeypatch, load):
    module = ModuleType("datasets")
    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_data_set_without_its_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = r"'someone/some-set' is no file here; .* pip install 'salient-awq\[data\]'"
    with pytest.raises(MissingExtra, match=message):
        read_texts("someone/some-set")


@pytest.mark.parametrize(("name", "split"), [("some/set", "train"), ("some/set:test", "test")])
def test_a_data_set_is_streamed_from_the_split_named_after_the_colon(name, split, monkeypatch):
    requested = []

    def load(path, *, split, streaming):
        requested.append((path, split, streaming))
        return iter([{"text": "One"}, {"messages": CHAT}])

    data_sets(monkeypatch, load)
    assert read_texts(name) == [Document("One"), Document(messages=tuple(CHAT))]
    assert requested == [("some/set", split, True)]


def test_wikitext2_is_one_text_its_lines_joined_as_the_papers_join_them(monkeypatch):
    requested = []

    def load(*path, split, streaming):
        requested.append((path, split))
        return iter([{"text": " = Title = \n"}, {"text": ""}, {"text": " Words . \n"}])

    data_sets(monkeypatch, load)
    assert read_texts("wikitext2") == [Document(" = Title = \n\n\n\n\n Words . \n")]
    assert requested == [(("Salesforce/wikitext", "wikitext-2-raw-v1"), "test")]


def test_a_data_set_is_read_no_further_than_its_share(monkeypatch):
    monkeypatch.setattr(corpus, "MOST_ROWS", 3)
    data_sets(monkeypatch, lambda *_, **__: ({"text": str(i)} for i in range(10**9)))
    assert [d.text for d in read_texts("some/set")] == ["0", "1", "2"]


def test_a_row_of_a_data_set_without_text_is_named(monkeypatch):
    data_sets(monkeypatch, lambda *_, **__: iter([{"text": "One"}, {"question": "?"}]))
    with pytest.raises(CalibrationError, match=r"some/set, row 1: found 'question'\. .* 'text'"):
        read_texts("some/set")


@pytest.mark.parametrize(
    "error", [OSError("no network\nat all"), ValueError("no split"), RuntimeError()]
)
def test_a_data_set_that_the_hub_does_not_give_asks_for_name_and_network(error, monkeypatch):
    def load(*_, **__):
        raise error

    data_sets(monkeypatch, load)
    message = r"'some/set' is neither a local file nor a data set .* Check the name and the network"
    with pytest.raises(CalibrationError, match=message) as raised:
        read_texts("some/set")
    assert "\n" not in str(raised.value)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "One"}')
    for name in ("a.txt", "a.jsonl"):
        assert read_texts(str(tmp_path / name)) == [Document("One")]
