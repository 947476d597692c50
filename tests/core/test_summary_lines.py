"""Laws of labelled lines: margins, wrapped commands, no controls."""

import io
import shlex

import pytest
from rich.console import Console

from salient.core.summary_lines import COMMAND, SummaryLine, show_lines


def printed(*lines: SummaryLine, width: int = 40, wrap: bool = True) -> list[str]:
    text = io.StringIO()
    show_lines(lines, Console(file=text, width=width), wrap=wrap)
    return text.getvalue().splitlines()


def test_a_text_is_wrapped_next_to_its_label():
    assert printed(SummaryLine("Why", "seven words " * 5)) == [
        "Why  seven words seven words seven words",
        "     seven words seven words",
    ]


def test_a_label_is_printed_once_where_it_repeats():
    lines = [SummaryLine("Note", "one"), SummaryLine("Note", "two"), SummaryLine("Why", "three")]
    assert printed(*lines) == ["Note  one", "      two", "Why   three"]


def test_a_long_label_has_a_row_of_its_own():
    lines = printed(SummaryLine("deployments/with-a-long-name", "text"))
    assert lines == ["deployments/with-a-long-name", " " * 18 + "text"]


@pytest.mark.parametrize("width", [20, 30, 40, 200])
@pytest.mark.parametrize(
    "command",
    ["serve", "serve x --a 1 --b '{\"k\": true}' --c", "python x.py 'two words' -o " + "y" * 50],
)
def test_a_wrapped_command_is_the_same_command(command, width):
    rows = printed(SummaryLine(COMMAND, command), width=width)
    joined = "\n".join(rows).replace("\\\n", " ").removeprefix("  $ ")
    assert shlex.split(joined) == shlex.split(command)
    longest = max(map(len, shlex.split(command)))
    assert all(len(row) <= max(width, longest + len("      '' \\")) for row in rows)


def test_lines_are_whole_without_wrapping_and_have_no_controls():
    lines = [
        SummaryLine("Note", "a " * 60 + "\x1b[31m\n"),
        SummaryLine(COMMAND, "run " + "-x 1 " * 40),
    ]
    rows = printed(*lines, wrap=False)
    assert len(rows) == 2
    assert rows[0].endswith("\\u001b[31m\\n")
