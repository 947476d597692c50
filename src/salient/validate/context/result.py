"""Result of the long-context stage."""

from dataclasses import dataclass, field

from salient.core.intervals import Interval, mcnemar, ratio
from salient.core.records import to_json
from salient.validate.likelihood.result import TextComparison
from salient.validate.policy.verdict import Measurement

from .haystack import RetrievalProbe


@dataclass(frozen=True)
class PositionBucket:
    """Mean KL, nats, of positions `first` to `last`; no interval of too few windows."""

    first: int
    last: int
    kl: float
    windows: int
    interval: Interval | None

    def to_dict(self) -> dict[str, object]:
        return {**vars(self), "interval": self.interval.ends if self.interval else None}


@dataclass(frozen=True)
class KlGrowth:
    """KL of tokens late in a window over the KL of the same tokens early in one.

    drawn: what the interval resampled, with how many there were
    """

    value: float
    interval: Interval | None
    drawn: str

    @property
    def grows(self) -> bool | None:
        """Whether errors grow with position; None where the interval holds 1."""
        if self.interval is None or self.interval.low <= 1 <= self.interval.high:
            return None
        return self.interval.low > 1


@dataclass(frozen=True)
class RetrievalCount:
    """Right answers to the probes of one length and depth."""

    length: int
    depth: float
    count: int
    reference: int
    quantized: int


@dataclass(frozen=True)
class RetrievalResult:
    """Probes and which of them each model got right.

    computed: role -> tokens of prompts that the model computed instead of taking from its cache
    """

    probes: list[RetrievalProbe]
    reference: list[bool]
    quantized: list[bool]
    computed: dict[str, int]

    @property
    def totals(self) -> tuple[int, int]:
        """Right answers of the reference and of the checkpoint."""
        return sum(self.reference), sum(self.quantized)

    @property
    def retention(self) -> Interval | None:
        """Right answers of the checkpoint over the reference's; None where it has none."""
        return ratio(self.quantized, self.reference) if any(self.reference) else None

    @property
    def p_value(self) -> float:
        """That the probes that one model alone got right fell so by luck."""
        pairs = list(zip(self.reference, self.quantized, strict=True))
        return mcnemar(sum(r and not q for r, q in pairs), sum(q and not r for r, q in pairs))

    @property
    def rows(self) -> list[RetrievalCount]:
        """Counts by length and depth, sorted."""
        keys = [(probe.length, probe.depth) for probe in self.probes]
        rows = list(zip(keys, self.reference, self.quantized, strict=True))
        return [
            RetrievalCount(
                *key,
                keys.count(key),
                sum(right for each, right, _ in rows if each == key),
                sum(right for each, _, right in rows if each == key),
            )
            for key in sorted(set(keys))
        ]

    @property
    def notes(self) -> list[str]:
        """The result as text."""
        reference, quantized = self.totals
        share = ""
        if (retention := self.retention) is not None:
            low, high = retention.ends
            share = f": {retention.middle:.1%} [{low:.1%}, {high:.1%}] of the reference's"
        prompts = sum(len(probe.prompt) for probe in self.probes)
        return [
            f"Of {len(self.probes)} facts hidden in texts the reference finds {reference}, the "
            f"checkpoint {quantized}{share}.",
            f"Questions share their text: of {prompts} prompt tokens "
            f"{max(self.computed.values())} were computed.",
        ]

    def to_dict(self) -> dict[str, object]:
        reference, quantized = self.totals
        return {
            "rows": to_json(self.rows),
            "reference": reference,
            "quantized": quantized,
            "count": len(self.probes),
            "notes": self.notes,
        }


@dataclass(frozen=True)
class ContextResult:
    """Measures at several window lengths, KL by position, hidden facts.

    lengths: window length -> both models compared   growth: None of equal models
    retrieval: None where hidden facts could not be searched for, for `retrieval_error`
    """

    text: str
    lengths: dict[int, TextComparison]
    positions: list[PositionBucket]
    growth: KlGrowth | None
    notes: list[str] = field(default_factory=list)
    retrieval: RetrievalResult | None = None
    retrieval_error: str = ""

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def growth_summary(self) -> str:
        """The growth of KL with position as text."""
        if self.growth is None:
            return "there is no KL that could grow"
        trend = {
            True: "errors grow with position",
            False: "errors shrink with position",
            None: "no significant growth of errors with position",
        }[self.growth.grows]
        return (
            f"{trend}; it is the last quarter of {self.longest} positions over the same tokens in "
            "the first quarter"
        )

    def measurements(self) -> list[Measurement]:
        return [self._growth_measurement(), self._retention_measurement()]

    def _growth_measurement(self) -> Measurement:
        what, growth = ("context", "kl_growth"), self.growth
        if growth is None:
            reason = "both models give the same distributions: no KL to grow"
            return Measurement(*what, None, why=reason)
        windows = self.lengths[self.longest].windows
        return Measurement(*what, growth.value, interval=growth.interval, sample=windows)

    def _retention_measurement(self) -> Measurement:
        what, retrieval = ("context", "retrieval_retention"), self.retrieval
        if retrieval is None:
            return Measurement(*what, None, why=self.retrieval_error)
        count, retention = len(retrieval.probes), retrieval.retention
        if retention is None:
            reason = f"the reference finds none of {count} facts: no retention"
            return Measurement(*what, None, why=reason, sample=count)
        middle, p_value = retention.middle, retrieval.p_value
        return Measurement(*what, middle, interval=retention, sample=count, p_value=p_value)

    def to_dict(self) -> dict[str, object]:
        error = {"error": self.retrieval_error}
        return {
            "text": self.text,
            "lengths": [
                {"length": length, "windows": each.windows, **each.to_dict()}
                for length, each in self.lengths.items()
            ],
            "positions": [bucket.to_dict() for bucket in self.positions],
            "positions_length": self.longest,
            "growth": self._growth_dict(),
            "notes": self.notes,
            "retrieval": self.retrieval.to_dict() if self.retrieval else error,
        }

    def _growth_dict(self) -> dict[str, object]:
        growth = self.growth
        if growth is None:
            return {"value": None, "interval": None, "words": self.growth_summary}
        interval = growth.interval.ends if growth.interval else None
        return {**vars(growth), "interval": interval, "words": self.growth_summary}
