"""Reports: tables and lines for people, one JSON document for programs, from the same record."""

import io
import json

import pytest
from rich.console import Console

from salient.core.report import Report, Table, duration, mebibytes


def printed(report: Report, width: int = 120) -> str:
    out = io.StringIO()
    report.show(Console(file=out, width=width))
    return out.getvalue()


def one(*cells: str, title: str = "Blocks") -> Report:
    return Report({}, [Table(title, tuple(f"c{i}" for i in range(len(cells))), [cells])])


def test_the_json_of_a_report_reads_back_as_its_data():
    data = {"kl": 0.0125, "blocks": [1, 2], "who": "Zoë", "none": None, "deep": {"yes": True}}
    text = Report(data).to_json()
    assert json.loads(text) == data
    assert "Zoë" in text


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_the_json_of_a_report_is_json_whatever_was_measured(number):
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads(Report({"kl": number}).to_json(), parse_constant=refuse)


def test_a_table_prints_title_columns_and_every_cell():
    table = Table("Blocks", ("block", "loss"), [("0", "0.5"), ("1", "0.25")])
    text = printed(Report({}, [table]))
    for word in ("Blocks", "block", "loss", "0.5", "0.25"):
        assert word in text


def test_the_first_column_is_left_and_the_others_right():
    report = Report({}, [Table("T", ("name", "figure"), [("a", "1"), ("long-name", "12345678")])])
    row = next(line for line in printed(report).splitlines() if "│ a" in line)
    assert row.startswith("│ a ")
    assert row.endswith(" 1 │")


def test_a_cell_too_long_for_the_screen_is_folded_and_not_cut():
    long = "model.layers.0.self_attn." + "q" * 100
    text = printed(one(long, "1"), width=40)
    assert "".join(c for c in text if c == "q") == "q" * 100


@pytest.mark.parametrize("cell", ["notes[old].txt", "[/]", "[red]x", "a:car:b"])
def test_a_cell_is_printed_as_it_is(cell):
    assert cell in printed(one("row", cell))


@pytest.mark.parametrize("title", ["On notes[old].txt", "[/x]"])
def test_a_title_is_printed_as_it_is(title):
    assert title in printed(one("a row wider than its title", title=title))


def test_lines_follow_the_tables_as_they_are_and_unbroken():
    line = "Wrote /a/[b]/c " + "x" * 200
    text = printed(Report({}, [Table("T", ("a",), [("1",)])], ["first", line]), width=40)
    assert text.endswith(f"first\n{line}\n")


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "0 B"),
        (3000, "3 KiB"),
        (2**20, "1 MiB"),
        (2**29, "512 MiB"),
        (2**30, "1.00 GiB"),
        (5e10, "46.57 GiB"),
    ],
)
def test_bytes_are_shown_in_mebibytes_and_from_one_gibibyte_in_gibibytes(count, message):
    assert mebibytes(count) == message


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (60, "1 min 00 s"),
        (119.6, "2 min 00 s"),
        (3725, "62 min 05 s"),
    ],
)
def test_seconds_are_shown_in_minutes_from_one_minute(seconds, message):
    assert duration(seconds) == message


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_table_wraps_at_spaces_or_lists_its_cells(width):
    row = ("compressed-tensors w4-g128", "torch._scaled_mm (slow)", "24.02 GiB")
    table = Table("Formats", ("format", "kernel", "memory"), [row], text_columns=("kernel",))
    message = printed(Report({}, [table]), width).split()
    assert {word for cell in row for word in cell.split()} <= set(message)
    assert ("┃" in message) == (width > 40)
