"""Markdown: escaped text reads as written, and a table has its columns in every row."""

import pytest
from markdown_it import MarkdownIt

from helpers.html_tree import tree
from salient.core.markdown import escape_markdown, markdown_table

PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")


@pytest.mark.parametrize("text", ["*a* _b_ `c`", "a|b", "<b>x</b>", "&amp; # @x", "1 > 0 [x](y)"])
def test_escaped_text_reads_as_written(text):
    paragraph = tree(PARSER.render(escape_markdown(text))).one("p")
    assert [child for child in paragraph.children if not isinstance(child, str)] == []
    assert paragraph.text.replace("\u2060", "") == text


def test_a_table_aligns_text_left_and_numbers_right_and_escapes_pipes():
    text = markdown_table(("name", "size", "note"), [("a|b", "1", "x")], ("note",))
    assert text.splitlines() == ["| name | size | note |", "|---|--:|---|", "| a\\|b | 1 | x |"]
    assert tree(PARSER.render(text)).one("tbody").one("td").text == "a|b"
