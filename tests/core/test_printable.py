"""Foreign text without the characters that control a terminal."""

import json
import unicodedata

import pytest

from salient.core.markdown import escape_markdown
from salient.core.printable import printable, printable_line
from salient.core.source_card import join_card

BIDI_CONTROL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def test_every_control_of_unicode_is_escaped_but_line_feed_and_tab():
    for code in range(0x10000):
        letter = chr(code)
        control = unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") or letter in BIDI_CONTROL
        shown = f"\\u{code:04x}" if control and letter not in "\n\t" else letter
        assert printable(letter) == shown


@pytest.mark.parametrize("text", ["שלום عربى", "👩‍👧 naïve — ok\n\tindented", "मनीष"])
def test_text_of_any_language_stays(text):
    assert printable(text) == text


def test_windows_line_ends_become_line_feeds_and_a_lone_return_is_escaped():
    assert printable("a\r\nb\rc") == "a\nb\\u000dc"


def test_a_line_has_no_line_feed_and_no_tab():
    assert printable_line("a\nb\tc\x1b") == r"a\nb c\u001b"


def test_a_json_document_stays_the_same_document():
    value = {"\x1b[2J\x9b": ["\x7f\u202e\u2028", "\ud800", "ü\r\n"]}
    text = printable(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert printable(text) == text


def test_markdown_and_cards_hold_no_control():
    assert escape_markdown("a\x1b]2;x\x07") == "a&#92;u001b&#93;2;x&#92;u0007"
    assert printable(card := join_card({"license": "mit\u202e"}, "by \x9b2J")) == card
