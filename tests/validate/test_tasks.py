"""Task files: valid lines are read, each invalid one names what fits."""

import json
from pathlib import Path

import pytest

from salient.core.errors import CalibrationError
from salient.validate.tasks import task_sets
from salient.validate.tasks.task_sets import BUNDLED, read_tasks

WRITTEN = {"prompt": "Question: 1 + 1?\nAnswer:", "expected": "2"}
CHOSEN = {"prompt": "The sky is", "choices": ["blue", "loud"], "answer": 0}


def file_of(folder: Path, *rows: object) -> str:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return str(path)


def test_a_written_answer_is_exact_and_of_kind_task_by_default(tmp_path):
    plain, explicit = read_tasks(
        file_of(tmp_path, WRITTEN, WRITTEN | {"match": "contains", "kind": "sums"})
    )
    assert (plain.match, plain.kind, plain.expected) == ("exact", "task", ("2",))
    assert (explicit.match, explicit.kind) == ("contains", "sums")
    assert (plain.choices, plain.answer, plain.chance) == ((), None, 0)


def test_an_answer_is_an_index_or_the_text_of_a_choice(tmp_path):
    by_index, by_text = read_tasks(
        file_of(tmp_path, CHOSEN | {"answer": 1}, CHOSEN | {"answer": "loud"})
    )
    assert by_index.answer == by_text.answer == 1
    assert by_index.expected == by_text.expected == ("loud",)
    assert by_index.match == "choice"
    assert by_index.chance == 0.5


def test_choices_that_are_digits_are_texts_and_not_indices(tmp_path):
    (example,) = read_tasks(file_of(tmp_path, CHOSEN | {"choices": ["1", "0"], "answer": "0"}))
    assert example.answer == 1


def test_several_expected_answers_and_numbers_are_read(tmp_path):
    rows = {"expected": ["2", "two"]}, {"expected": 2.5, "match": "numeric"}
    example = read_tasks(file_of(tmp_path, *(WRITTEN | row for row in rows)))
    assert [example.expected for example in example] == [("2", "two"), ("2.5",)]


def test_an_example_is_named_by_its_file_and_line(tmp_path):
    examples = read_tasks(file_of(tmp_path, WRITTEN, "", "  \r", CHOSEN))
    assert [example.id for example in examples] == ["mine:1", "mine:4"]


@pytest.mark.parametrize(
    ("prompt", "context", "first"),
    [("The sky is", "The sky is", " blue"), ("def f():\n    ", "def f():", "\n    blue")],
)
def test_white_space_at_a_prompts_end_goes_to_the_choices(tmp_path, prompt, context, first):
    (example,) = read_tasks(file_of(tmp_path, CHOSEN | {"prompt": prompt}))
    assert example.context == context
    assert example.continuations[0] == first


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "marked.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(WRITTEN).encode())
    assert len(read_tasks(str(path))) == 1


WRONG = [
    ("{'prompt': 1}", r"not JSON.*one object a line"),
    ("[" * 100_000, r"not JSON"),
    ('{"prompt": "a", "expected": ' + "9" * 5000 + "}", r"not JSON"),
    ([1, 2], r"found \[1, 2\], not an object"),
    ({}, r"found no keys.*'expected'"),
    ({"prompt": "a"}, r"found 'prompt'.*'expected'"),
    ({"expected": "a"}, r"found 'expected'"),
    (WRITTEN | CHOSEN, r"found 'prompt', 'expected', 'choices', 'answer'"),
    ({"prompt": "a", "choices": ["b", "c"]}, r"found 'prompt', 'choices'"),
    (WRITTEN | {"label": "2"}, r"unknown key 'label' next to 'expected'"),
    (WRITTEN | {"answer": 2}, r"unknown key 'answer' next to 'expected'"),
    (CHOSEN | {"match": "exact"}, r"unknown key 'match' next to 'choices'"),
    (WRITTEN | {"prompt": 7}, r"'prompt' is 7\. Give a string"),
    (WRITTEN | {"prompt": " \n"}, r"'prompt' is ' \\n'"),
    (WRITTEN | {"prompt": "half \ud800"}, r"'prompt' is 'half"),
    (WRITTEN | {"kind": None}, r"'kind' is None"),
    (WRITTEN | {"match": "fuzzy"}, r"'match' is 'fuzzy'.*exact, contains, regex, numeric"),
    (WRITTEN | {"match": ["exact"]}, r"'match' is \['exact'\]"),
    (WRITTEN | {"match": "choice"}, r"'choices' and 'answer' instead"),
    (WRITTEN | {"expected": 2}, r"'expected' is 2\..*\"match\": \"numeric\""),
    (WRITTEN | {"expected": []}, r"'expected' is \[\]"),
    (WRITTEN | {"expected": ["a", None]}, r"'expected' is \['a', None\]"),
    (WRITTEN | {"expected": "two", "match": "numeric"}, r"'two', which has no number"),
    (WRITTEN | {"expected": True, "match": "numeric"}, r"'expected' is True"),
    (WRITTEN | {"expected": float("nan"), "match": "numeric"}, r"has no number"),
    (WRITTEN | {"expected": "(", "match": "regex"}, r"'\(' is no regular expression.*contains"),
    (WRITTEN | {"expected": "a{9999999999}", "match": "regex"}, r"is no regular expression"),
    (WRITTEN | {"expected": "a" * 501, "match": "regex"}, r"of 501 characters.*at most 500"),
    (CHOSEN | {"choices": "ab"}, r"'choices' is 'ab'.*2 to 26"),
    (CHOSEN | {"choices": ["a"]}, r"'choices' is \['a'\]"),
    (CHOSEN | {"choices": ["a", 2]}, r"'choices' is \['a', 2\]"),
    (CHOSEN | {"choices": ["a"] * 27}, r"2 to 26"),
    (CHOSEN | {"choices": ["a", "b", "a "]}, r"the choice 'a' is there twice"),
    (CHOSEN | {"answer": 2}, r"'answer' is 2\..*0 to 1, or its text"),
    (CHOSEN | {"answer": -1}, r"'answer' is -1"),
    (CHOSEN | {"answer": True}, r"'answer' is True"),
    (CHOSEN | {"answer": 0.0}, r"'answer' is 0\.0"),
    (CHOSEN | {"answer": "red"}, r"'answer' is 'red'"),
    (CHOSEN | {"answer": None}, r"'answer' is None"),
]


@pytest.mark.parametrize(("row", "message"), WRONG)
def test_an_invalid_line_names_what_fits(tmp_path, row, message):
    with pytest.raises(CalibrationError, match=r"mine\.jsonl, line 1: .*" + message):
        read_tasks(file_of(tmp_path, row))


def test_an_invalid_line_is_named(tmp_path):
    with pytest.raises(CalibrationError, match=r"mine\.jsonl, line 3: found"):
        read_tasks(file_of(tmp_path, WRITTEN, "", {"prompt": "a"}))


def test_bytes_that_are_not_utf8_name_their_line(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(WRITTEN).encode() + b"\n\xe9\n")
    with pytest.raises(CalibrationError, match=r"latin\.jsonl, line 2: not UTF-8.*iconv"):
        read_tasks(str(path))


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_examples_is_refused(tmp_path, text):
    with pytest.raises(CalibrationError, match=r"mine\.jsonl holds no example.*'expected'"):
        read_tasks(file_of(tmp_path, text))


def test_a_file_above_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(task_sets, "LARGEST_FILE", 2**20)
    with pytest.raises(CalibrationError, match=r"has 2,097,153 bytes; at most 1,048,576 fit"):
        read_tasks(file_of(tmp_path, " " * 2**21))


@pytest.mark.parametrize("name", ["none.jsonl", "nul\0.jsonl", "folder.jsonl"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(CalibrationError, match=r"Cannot read the task file .*\.jsonl.*arithmetic"):
        read_tasks(str(tmp_path / name))


@pytest.mark.parametrize("name", ["", "arithmetics", "tasks.json"])
def test_an_unknown_name_lists_the_bundled_sets(name):
    with pytest.raises(CalibrationError, match=f"No task set '{name}'.*bundled.*arithmetic, code"):
        read_tasks(name)


def test_bundled_is_all_bundled_sets():
    everything = read_tasks("bundled")
    assert everything == tuple(e for name in BUNDLED for e in read_tasks(name))
