"""The figures of the long-context stage as data, and as tables and lines for people."""

from dataclasses import dataclass
from typing import Any

from salient.core.intervals import FEWEST, Interval
from salient.core.metrics import LogitsComparison, intervals
from salient.core.report import Table

from .haystack import DEPTHS
from .positions import Bucket, Growth
from .retrieval import RetrievalResult

COLUMNS = ("length", "windows", "KL (nats)", "top-1", "perplexity", "of the reference")


@dataclass(frozen=True)
class ContextFigures:
    """What windows of each length gave.

    lengths: length -> its windows   buckets: KL by position   growth: None of equal models
    """

    lengths: dict[int, list[LogitsComparison]]
    buckets: list[Bucket]
    growth: Growth | None
    notes: list[str]

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def data(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts."""
        return {
            "lengths": [
                {
                    "length": length,
                    "windows": len(windows),
                    **LogitsComparison.of(windows).figures(),
                    "intervals": {k: [i.low, i.high] for k, i in intervals(windows).items()},
                }
                for length, windows in self.lengths.items()
            ],
            "positions": [
                {
                    "first": b.first,
                    "last": b.last,
                    "kl": b.kl,
                    "windows": b.windows,
                    "interval": _ends(b.interval),
                }
                for b in self.buckets
            ],
            "positions_length": self.longest,
            "growth": self._growth(),
            "notes": self.notes,
        }

    def _growth(self) -> dict[str, Any]:
        found = self.growth
        if found is None:
            return {"value": None, "interval": None, "words": "there is no KL that could grow"}
        return {
            "value": found.value,
            "interval": _ends(found.interval),
            "drawn": found.drawn,
            "words": self.growth_words(found),
        }

    def growth_words(self, found: Growth) -> str:
        """What the growth says, for people."""
        says = {
            True: "errors grow with position",
            False: "errors shrink with position",
            None: "no growth of errors with position can be told",
        }[found.grows]
        return (
            f"{says}; it is the last quarter of {self.longest} positions over the same tokens in "
            "the first quarter"
        )


def length_table(figures: ContextFigures) -> Table:
    """A row for each length."""
    rows = [_row(length, windows) for length, windows in figures.lengths.items()]
    return Table("Long context: the same text in windows of each length", COLUMNS, rows)


def length_lines(figures: ContextFigures) -> list[str]:
    """Growth, the first positions, and what is missing."""
    lines = ["Both models in float32. In brackets 95 % intervals, by the bootstrap over windows."]
    found = figures.growth
    if found is not None:
        sure = f"; interval over {found.drawn}" if found.interval else ""
        lines.append(
            f"KL growth {found.value:.3f}{_bracketed(found.interval, '.3f')}: "
            f"{figures.growth_words(found)}{sure}."
        )
    if len(figures.buckets) > 1:
        first, rest = figures.buckets[0], figures.buckets[1:]
        later = sum(b.kl for b in rest) / len(rest)
        lines.append(
            f"KL of positions {first.first} to {first.last}: {first.kl:.4f}, of the later ones "
            f"{later:.4f}."
        )
    few = [f"{len(w)} of {n}" for n, w in figures.lengths.items() if len(w) < FEWEST]
    if few:
        lines.append(f"Windows too few for an interval ({FEWEST}): {', '.join(few)} tokens.")
    return lines + [f"{note[0].upper()}{note[1:]}." for note in figures.notes]


def retrieval_table(facts: RetrievalResult) -> Table:
    """A row for each length; right answers at each depth, checkpoint / reference."""
    rows = facts.rows()
    depths = [depth for depth in DEPTHS if any(row["depth"] == depth for row in rows)]
    lines = []
    for length in sorted({row["length"] for row in rows}):
        own = {row["depth"]: row for row in rows if row["length"] == length}
        sums = (
            sum(row[key] for row in own.values()) for key in ("count", "reference", "quantized")
        )
        cells = (f"{own[d]['quantized']}/{own[d]['reference']}" if d in own else "" for d in depths)
        lines.append((str(length), *map(str, sums), *cells))
    columns = ("length", "facts", "reference", "checkpoint", *(f"at {d:.0%}" for d in depths))
    return Table("Facts found again, by length and depth (checkpoint/reference)", columns, lines)


def retrieval_lines(facts: RetrievalResult) -> list[str]:
    """What was found of what was hidden."""
    reference, quantized = facts.totals
    count, kept = len(facts.probes), facts.retention()
    said = (
        "" if kept is None else f": {kept.middle:.1%}{_bracketed(kept, '.1%')} of the reference's"
    )
    asked = sum(len(probe.prompt) for probe in facts.probes)
    computed = max(facts.computed.values())
    return [
        f"Of {count} facts hidden in texts the reference finds {reference}, the checkpoint "
        f"{quantized}{said}.",
        f"Questions share their text: of {asked} prompt tokens {computed} were computed.",
    ]


def _row(length: int, windows: list[LogitsComparison]) -> tuple[str, ...]:
    c, sure = LogitsComparison.of(windows), intervals(windows)
    return (
        str(length),
        str(len(windows)),
        f"{c.kl:.4f}{_bracketed(sure.get('kl'), '.4f')}",
        f"{c.top1:.1%}{_bracketed(sure.get('top1'), '.1%')}",
        f"{c.perplexity_quantized:.3f}{_bracketed(sure.get('perplexity_quantized'), '.3f')}",
        f"{c.perplexity_reference:.3f}",
    )


def _bracketed(interval: Interval | None, form: str) -> str:
    return f" [{interval.low:{form}}, {interval.high:{form}}]" if interval else ""


def _ends(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None
