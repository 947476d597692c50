"""Result of the load stage."""

from dataclasses import dataclass

from salient.core.intervals import wilson
from salient.loadtest.result import LatencySummary, LoadResult
from salient.validate.policy.verdict import Measurement

MOST_FAILED = 0.1  # of a step's requests: what P90 leaves out
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
        errors is measured: the answers of those that got through prove nothing.
        """
        sent = sum(step.requests for step in self.steps)
        if not sent:
            reason = "no request was sent"
            return [Measurement("load", name, None, why=reason) for name in MEASURES]
        worst = max(self.steps, key=_failed_share)
        share = _failed_share(worst)
        interval = wilson(worst.failed, worst.requests) if worst.failed else None
        values = (
            _longest([step.ttft for step in self.steps]),
            _longest([step.itl for step in self.steps]),
            max(step.output_rate for step in self.steps),
        )
        reason = f"{self.tool} does not report it"
        if share > MOST_FAILED:
            values = (None, None, None)
            reason = f"{worst.failed} of {worst.requests} requests failed with {worst.label}"
        return [
            Measurement("load", "error_rate", share, interval=interval, sample=worst.requests),
            *(
                Measurement("load", name, value, sample=sent, why=reason * (value is None))
                for name, value in zip(MEASURES[1:], values, strict=True)
            ),
        ]

    @property
    def judged(self) -> str:
        """Which steps the measurements are of."""
        slowest = max(self.steps, key=lambda step: _longest([step.ttft]) or 0.0)
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


def _longest(latencies: list[LatencySummary | None]) -> float | None:
    """The largest P90, seconds; None where a step has none."""
    known = [latency.p90 for latency in latencies if latency is not None]
    known = [p90 for p90 in known if p90 is not None]
    return max(known) / 1e3 if len(known) == len(latencies) else None
