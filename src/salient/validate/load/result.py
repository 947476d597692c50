"""Result of the load stage."""

from dataclasses import dataclass, replace

from salient.core.intervals import Interval, wilson
from salient.loadtest.result import LatencySummary, LoadResult
from salient.validate.policy.verdict import Measurement

MOST_FAILED = 0.1  # of a step's requests: what P90 leaves out
Figure = tuple[float | None, Interval | None]
_UNMEASURED: Figure = (None, None)
MEASURES = ("error_rate", "ttft_p90", "itl_p90", "throughput")


@dataclass(frozen=True)
class LoadTestStageResult:
    """A load test, step by step. target: a server's address, or "embedded"."""

    target: str
    model: str
    tool: str
    steps: tuple[LoadResult, ...]

    def measurements(self) -> list[Measurement]:
        """Errors and latencies of the worst step, throughput of the best.

        A failed request has no time. Where more than a tenth of a step's failed, nothing but the
        errors is measured: the answers of those that got through prove nothing. The interval of the
        errors is that of all steps together, up to the worst step's own share.
        """
        sent = sum(step.requests for step in self.steps)
        if not sent:
            reason = "no request was sent"
            return [Measurement("load", name, None, why=reason) for name in MEASURES]
        worst = max(self.steps, key=_failed_share)
        share = _failed_share(worst)
        pooled = wilson(sum(step.failed for step in self.steps), sent)
        errors = replace(pooled, middle=share, high=max(pooled.high, share))
        best = max(self.steps, key=lambda step: step.output_rate)
        figures = (
            _longest([step.ttft for step in self.steps]),
            _longest([step.itl for step in self.steps]),
            (best.output_rate, best.output_rate_interval),
        )
        reason = f"{self.tool} does not report it"
        if share > MOST_FAILED:
            figures = (_UNMEASURED,) * len(figures)
            reason = f"{worst.failed} of {worst.requests} requests failed with {worst.label}"
        return [
            Measurement("load", "error_rate", share, interval=errors, sample=sent),
            *(
                Measurement(
                    "load",
                    name,
                    value,
                    interval=interval,
                    sample=sent,
                    why=reason * (value is None),
                )
                for name, (value, interval) in zip(MEASURES[1:], figures, strict=True)
            ),
        ]

    @property
    def judged(self) -> str:
        """Which steps the measurements are of."""
        slowest = max(self.steps, key=lambda step: _longest([step.ttft])[0] or 0.0)
        best = max(self.steps, key=lambda step: step.output_rate)
        return (
            "Judged are errors and times of the worst step, here first tokens with "
            f"{slowest.label}, and the throughput of the best, with {best.label}."
        )

    def to_dict(self) -> dict[str, object]:
        return {
            "target": self.target,
            "model": self.model,
            "tool": self.tool,
            "steps": [step.to_dict() for step in self.steps],
        }


def _failed_share(step: LoadResult) -> float:
    """1 where nothing was sent: a step that was requested and did not run."""
    return step.failed / step.requests if step.requests else 1.0


def _longest(latencies: list[LatencySummary | None]) -> Figure:
    """The largest P90, seconds, and the interval that ends last; None where a step has none."""
    known = [latency for latency in latencies if latency is not None]
    values = [latency.p90 for latency in known if latency.p90 is not None]
    if len(values) < len(latencies):
        return _UNMEASURED
    intervals = [latency.p90_interval for latency in known if latency.p90_interval is not None]
    if len(intervals) < len(latencies):
        return max(values) / 1e3, None
    widest = max(intervals, key=lambda interval: interval.high)
    return max(values) / 1e3, widest.through(lambda milliseconds: milliseconds / 1e3)
