"""Numbers and text of a report as people read them.

A figure is a finite number; None, NaN and infinity are not measured and never become 0. Text that
others wrote (model answers, prompts, file names, causes of errors) is cut, and characters that show
nothing are made visible; escaping is the templates' and Markdown's.
"""

import math
import re
from collections.abc import Callable
from itertools import takewhile

from salient.core.intervals import Interval

MISSING = "\N{EN DASH}"  # in place of a figure in a table, which explains it
UNMEASURED = "not measured"
Form = Callable[[float], str]

# All of Unicode's controls, format and private characters and halves of pairs, except line feed,
# tab, and the joiners of Persian, Indic scripts and emoji.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u115f\u1160\u180e\u200b"
    "\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0e\ufeff\uffa0"
    "\ufff0-\ufffb\ufffe\uffff\U000e0000-\U0010ffff]"
)


def finite(value: float | None) -> float | None:
    """`value` if it is a finite number, else None."""
    return value if value is not None and math.isfinite(value) else None


def show(value: float | None, form: Form, missing: str = MISSING) -> str:
    """A figure as text."""
    return missing if finite(value) is None else form(value or 0.0)


def bounds(interval: Interval | None) -> tuple[float, float] | None:
    """The ends of an interval; None where one is missing or infinite."""
    if interval is None or not math.isfinite(interval.low + interval.high):
        return None
    return interval.low, interval.high


def between(interval: Interval | None, form: Form) -> str:
    """An interval as text; '' without one."""
    ends = bounds(interval)
    return f"{form(ends[0])} to {form(ends[1])}" if ends else ""


def short(value: float) -> str:
    """Three significant digits: 0.0124, 54.1, 1,235."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.3g}"


def nats(value: float) -> str:
    """A KL: 0.1124, and three significant digits where it is small."""
    if 0.01 <= abs(value) < 10:
        return f"{value:.4f}"
    return "0" if value == 0 else f"{value:#.3g}" if abs(value) < 10 else short(value)


def perplexity(value: float) -> str:
    """15.10"""
    return f"{value:.2f}" if abs(value) < 1000 else short(value)


def integer(value: float) -> str:
    """16,384"""
    return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.3g}"


def share(value: float, digits: int = 1) -> str:
    """A share, 0 to 1, in percent: 86.4%. A small one never reads as 0."""
    if abs(value) >= 1e6:
        return f"{100 * value:.3g}%"
    least = 10.0**-digits
    return f"<{least:g}%" if 0 < 100 * value < least / 2 else f"{100 * value:.{digits}f}%"


def precise_share(value: float) -> str:
    """A share with the digits that tell it from a bound next to it: 93.96%."""
    return share(value, 2)


def change(value: float) -> str:
    """A ratio - 1 in percent, with its sign: +6.51%."""
    return f"{100 * value:+.2f}%" if abs(value) < 1e6 else f"{100 * value:+.3g}%"


def ratio(value: float) -> str:
    """1.33 times, with the sign for it."""
    return f"{short(value)}\N{MULTIPLICATION SIGN}"


def tick(value: float) -> str:
    """A round number at an axis: 0.05, 1,500, 2e+06."""
    return f"{value:,.6g}"


def share_tick(value: float) -> str:
    """A round share at an axis: 20%."""
    return f"{100 * value:,.6g}%"


def milliseconds(value: float) -> str:
    """0.84 ms, 412 ms, 1.24 s."""
    if abs(value) >= 1000:
        return f"{short(value / 1000)} s"
    return f"{value:.0f} ms" if abs(value) >= 10 else f"{value:.2g} ms"


def milliseconds_tick(value: float) -> str:
    """A round time at an axis: 0, 250 ms, 1.5 s."""
    if not value:
        return "0"
    return f"{value / 1000:,.4g} s" if abs(value) >= 1000 else f"{value:,.4g} ms"


def seconds(value: float) -> str:
    """Seconds; milliseconds below one."""
    return milliseconds(1000 * value) if value else "0 s"


def rate(value: float) -> str:
    """54.1 tokens/s"""
    return f"{short(value)} tokens/s"


def size(value: float) -> str:
    """Bytes: 16.5 KiB, 110 MiB, 1.13 GiB."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if abs(value) >= 2**power:
            return f"{short(value / 2**power)} {unit}"
    return f"{value:.0f} bytes"


def visible(text: str) -> str:
    """`text` with a code in place of each character that shows nothing or changes direction."""
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match.group()):04X}⟩", text)


def cut(text: str, most: int) -> str:
    """At most `most` characters: the head, and the tail, where an answer tends to be."""
    if len(text) <= most:
        return text
    tail = most // 3
    return f"{text[: most - tail - 3]} … {text[len(text) - tail :]}"


def line(text: str | None, most: int = 80) -> str:
    """A name or a short remark on one line."""
    return visible(cut(text or "", most).replace("\n", " ↵ ").replace("\t", " "))


def common_start(first: str, second: str) -> int:
    """How many characters both begin with, in whole words."""
    pairs = zip(first, second, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    while 0 < same < max(len(first), len(second)) and first[same - 1].isalnum():
        same -= 1
    return same
