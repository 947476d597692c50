"""Text without the characters that control a terminal or change the direction of a line.

Foreign text (configs, tensor names, templates, model output, logs) may hold escape sequences.
Standard output, standard error, reports and cards show them as escapes. Imports no torch.
"""

import re

# Unicode's controls but for line feed and tab; its controls of direction (Bidi_Control); its line
# and paragraph separators; halves of pairs, which UTF-8 cannot encode.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""`text` with an escape such as \u001b in place of each control, and LF for CRLF.

    The escapes are those of JSON: a JSON document stays the same document.
    """
    return CONTROLS.sub(_escape, text.replace("\r\n", "\n"))


def printable_line(text: str) -> str:
    r"""`printable` on one line: with \n in place of a line feed, and a space of a tab."""
    return printable(text).replace("\n", "\\n").replace("\t", " ")


def half_pair(text: str) -> str:
    """Half of a surrogate pair in `text`, which no UTF-8 holds: what and where; '' for none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a character at position {error.start} ({text[error.start]!a})"
    return ""


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"
