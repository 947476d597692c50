"""The last number in a text, as a person would read it. Leaves out number words and units."""

import math
import re

LONGEST = 2_000  # characters of the end of a text that are looked at

_NUMBER = re.compile(
    r"""
    (?P<sign>(?<![\w)])[-\N{MINUS SIGN}])?  # "10-5" and "x-5" subtract: no sign there
    (?P<body>
        (?<!\w)(?<!\d\.)                  # not the "3" of "1.2.3"
        (?: \d{1,3}(?:,\d{3})+(?!\d) | \d+ )
        (?:\.\d+)?
      | (?<![\w.])\.\d+
    )
    (?P<power>[eE][-+]?\d{1,3}(?!\w))?
    (?P<under>(?:[ ]?/[ ]?\d+)*)
    """,
    re.VERBOSE,
)


def last_number(text: str) -> float | None:
    """The last number in `text`, None where it has none.

    Understood: a minus sign, decimals, commas between thousands, powers of ten ("1e-3") and
    fractions ("3/4"). A fraction over zero is no number.
    """
    numbers = list(_NUMBER.finditer(text[-LONGEST:]))
    if not numbers:
        return None
    found = numbers[-1]
    value = float(found["body"].replace(",", "") + (found["power"] or ""))
    under = [float(part) for part in found["under"].split("/")[1:]]
    if len(under) > 1:  # a date, or a path
        return under[-1] if math.isfinite(under[-1]) else None
    if under:
        value = value / under[0] if under[0] else math.nan
    if not math.isfinite(value):
        return None
    return -value if found["sign"] else value
