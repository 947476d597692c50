"""Text that others wrote: model answers, prompts, file names, causes of errors.

It is bounded here, and what a reader cannot see in it is made visible. Escaping is the templates'
(page.py) and Markdown's (markdown.py).
"""

import re
from typing import Any

# all of Unicode's controls, format and private characters and halves of pairs, but line feed and
# tab, and the joiners that Persian, Indic scripts and emoji are written with
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u115f\u1160\u180e\u200b"
    "\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0e\ufeff\uffa0"
    "\ufff0-\ufffb\ufffe\uffff\U000e0000-\U0010ffff]"
)


def visible(text: str) -> str:
    """`text` with a sign for each character that shows nothing, or that turns what is around it."""
    return _UNSEEN.sub(_sign, text)


def _sign(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found.group()):04X}⟩"


def cut(text: str, most: int) -> str:
    """At most `most` characters: the head, and the tail, where an answer tends to be."""
    if len(text) <= most:
        return text
    tail = most // 3
    return f"{text[: most - tail - 3]} … {text[len(text) - tail :]}"


def line(value: Any, most: int = 80) -> str:
    """A name or a short remark on one line; '' for what is no text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = f"{value:g}" if isinstance(value, float) else str(value)[:40]
    if not isinstance(value, str):
        return ""
    text = cut(value, most)
    return visible(text.replace("\n", " ↵ ").replace("\t", " "))
