"""Result of the likelihood stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from salient.core.intervals import Interval
from salient.core.metrics import LogitsComparison, intervals
from salient.core.records import to_json
from salient.validate.policy.verdict import Measurement

from .protocols import EvaluationProtocol, PublishedComparison

MEASURES = ("kl", "top1", "perplexity_increase")  # that a policy judges


@dataclass(frozen=True)
class TextComparison:
    """Both models compared over the windows of a text, or of several.

    intervals: 95 % intervals by measure, by the bootstrap over windows; {} of too few windows
    """

    sums: LogitsComparison
    windows: int
    intervals: dict[str, Interval]

    @classmethod
    def of(cls, windows: Sequence[LogitsComparison]) -> "TextComparison":
        return cls(LogitsComparison.of(windows), len(windows), intervals(windows))

    def to_dict(self) -> dict[str, object]:
        ends = {measure: interval.ends for measure, interval in self.intervals.items()}
        return {**self.sums.figures(), "windows": self.windows, "intervals": ends}


@dataclass(frozen=True)
class LikelihoodResult:
    """KL, top-1 agreement and perplexity over texts.

    texts: by name, in the order of the run   total: all texts together
    published: published perplexities of the reference's shape
    """

    protocol: EvaluationProtocol
    seconds: float
    texts: dict[str, TextComparison]
    total: TextComparison
    published: tuple[PublishedComparison, ...]

    def worst_text(self, measure: str) -> str:
        """The text that fares worst by `measure`."""
        sign = -1 if measure == "top1" else 1
        return max(self.texts, key=lambda name: sign * getattr(self.texts[name].sums, measure))

    def measurements(self) -> list[Measurement]:
        """Of each text its own: a text that fares well makes up for none."""
        return [
            Measurement(
                "likelihood",
                measure,
                getattr(text.sums, measure),
                interval=text.intervals.get(measure),
                sample=text.windows,
                text=name,
                tokens=text.sums.tokens,
            )
            for measure in MEASURES
            for name, text in self.texts.items()
        ]

    def to_dict(self) -> dict[str, object]:
        return {
            "protocol": self.protocol.summary,
            "window_length": self.protocol.window,
            "stride": self.protocol.stride,
            "seconds": round(self.seconds, 1),
            "texts": {name: text.to_dict() for name, text in self.texts.items()},
            "all": self.total.to_dict(),
            "published": to_json(self.published),
        }
