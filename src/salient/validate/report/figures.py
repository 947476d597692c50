"""Numbers as people read them. What is missing is said to be missing and never becomes 0.

A figure of a report is a number, or None or NaN where it was not measured.
"""

import math
from collections.abc import Callable
from typing import Any

MISSING = "\N{EN DASH}"  # what a table shows in place of a figure; the table explains it
UNMEASURED = "not measured"
Form = Callable[[float], str]


def number(value: Any) -> float | None:
    """`value` as a finite float; None for everything that is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def ends(interval: Any) -> tuple[float, float] | None:
    """The ends of an interval, written [low, high] or {"low", "high"}; None if it has not both."""
    if isinstance(interval, dict):
        interval = [interval.get("low"), interval.get("high")]
    if not isinstance(interval, (list, tuple)) or len(interval) != 2:
        return None
    low, high = number(interval[0]), number(interval[1])
    return None if low is None or high is None else (low, high)


def show(value: Any, form: Form, missing: str = MISSING) -> str:
    """A figure in words."""
    found = number(value)
    return missing if found is None else form(found)


def between(interval: Any, form: Form) -> str:
    """An interval in words; '' if there is none."""
    found = ends(interval)
    return f"{form(found[0])} to {form(found[1])}" if found else ""


def short(value: float) -> str:
    """Three significant digits: 0.0124, 54.1, 1,235."""
    if 1000 <= abs(value) < 1e12:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def nats(value: float) -> str:
    """A KL: 0.1124, and three significant digits where it is small."""
    if 0.01 <= abs(value) < 10:
        return f"{value:.4f}"
    return "0" if value == 0 else f"{value:#.3g}" if abs(value) < 10 else short(value)


def perplexity(value: float) -> str:
    """A perplexity: 15.10."""
    return f"{value:.2f}" if abs(value) < 1000 else short(value)


def whole(value: float) -> str:
    """A count: 16,384."""
    return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.3g}"


def share(value: float) -> str:
    """A share, 0 to 1, in percent: 86.4%. A small one never reads as none."""
    return _percent(value, 1)


def finely(value: float) -> str:
    """A share with the digits that tell it from a bound beside it: 93.96%."""
    return _percent(value, 2)


def _percent(value: float, digits: int) -> str:
    if abs(value) >= 1e6:
        return f"{100 * value:.3g}%"
    least = 10.0**-digits
    if 0 < 100 * value < least / 2:
        return f"<{least:g}%"
    return f"{100 * value:.{digits}f}%"


def change(value: float) -> str:
    """A ratio - 1 in percent, with its sign: +6.51%."""
    return f"{100 * value:+.2f}%" if abs(value) < 1e6 else f"{100 * value:+.3g}%"


def ratio(value: float) -> str:
    """A ratio: 1.33 times."""
    return f"{short(value)}\N{MULTIPLICATION SIGN}"


def tick(value: float) -> str:
    """A round number beside an axis: 0.05, 1,500, 2e+06."""
    return f"{value:,.6g}"


def share_tick(value: float) -> str:
    """A round share beside an axis: 20%."""
    return f"{100 * value:,.6g}%"


def milliseconds(value: float) -> str:
    """Milliseconds: 0.84 ms, 412 ms, 1.24 s."""
    if abs(value) >= 1000:
        return seconds(value / 1000)
    return f"{value:.0f} ms" if abs(value) >= 10 else f"{value:.2g} ms"


def seconds(value: float) -> str:
    """Seconds, or milliseconds below one."""
    if abs(value) < 1 and value:
        return milliseconds(1000 * value)
    return f"{short(value)} s"


def rate(value: float) -> str:
    """Tokens a second: 54.1 tokens/s."""
    return f"{short(value)} tokens/s"


def size(value: float) -> str:
    """Bytes: 16.5 KiB, 110 MiB, 1.13 GiB."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if abs(value) >= 2**power:
            return f"{short(value / 2**power)} {unit}"
    return f"{value:.0f} bytes"
