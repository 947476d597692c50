"""What a step of a load test measured, in one format for every tool that measures.

Definitions are those of `vllm bench serve` (vLLM 0.32, vllm/benchmarks/serve.py):

ttft   from sending a request to its first chunk of text
itl    between two chunks of one request, each with a token
tpot   (e2e - ttft) / (output tokens - 1), one value a request, none where it has one token
e2e    from sending to the last chunk with a token

Percentiles are numpy's default: linear between the two nearest values. Failed requests have no
times; the step's duration holds them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .client import Outcome
from .plans import Step


@dataclass(frozen=True)
class Spread:
    """Milliseconds; None where the tool that measured does not tell."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True)
class Failure:
    """How many requests failed in one way, and what the first of them saw."""

    kind: str
    count: int
    words: str = ""


@dataclass(frozen=True)
class Totals:
    """Sums over a step: its seconds, requests that completed, their tokens, and failures.

    peak: the most requests under way at once, None where the tool does not tell
    """

    seconds: float
    completed: int
    input_tokens: int
    output_tokens: int
    failures: tuple[Failure, ...] = ()
    peak: int | None = None


@dataclass(frozen=True)
class LoadResult:
    """One step. A spread is None where nothing was measured.

    concurrency: requests under way at most; rate: requests a second that were asked for
    counted: who counted the tokens: "server", "chunks" (a chunk taken for a token), or "tool"
    note: why the step ended early, '' if it did not
    """

    tool: str
    concurrency: int | None
    rate: float | None
    totals: Totals
    ttft: Spread | None
    itl: Spread | None
    tpot: Spread | None
    e2e: Spread | None
    counted: str = "tool"
    note: str = ""

    @property
    def failed(self) -> int:
        return sum(failure.count for failure in self.totals.failures)

    @property
    def requests(self) -> int:
        return self.totals.completed + self.failed

    @property
    def request_rate(self) -> float:
        """Completed requests a second."""
        return self._per_second(self.totals.completed)

    @property
    def output_rate(self) -> float:
        """Output tokens a second, of all requests together."""
        return self._per_second(self.totals.output_tokens)

    @property
    def total_rate(self) -> float:
        """Input and output tokens a second."""
        return self._per_second(self.totals.input_tokens + self.totals.output_tokens)

    def _per_second(self, count: int) -> float:
        return count / self.totals.seconds if self.totals.seconds > 0 else 0.0

    @property
    def words(self) -> str:
        """One line for people; says so where nothing completed."""
        told = "; ".join(f"{f.count} {f.kind} ({f.words})" for f in self.totals.failures)
        if not self.totals.completed:
            return f"no request completed: {told or 'none was sent'}"
        line = f"{self.output_rate:.1f} output tokens/s, {self.request_rate:.2f} requests/s"
        if self.ttft and self.ttft.p50 is not None:
            line += f", first token after {self.ttft.p50:.0f} ms"
        return f"{line}; {self.failed} of {self.requests} failed: {told}" if told else line

    def data(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dicts."""
        return {
            **{k: v for k, v in asdict(self).items() if k != "totals"},
            **asdict(self.totals),
            "requests": self.requests,
            "failed": self.failed,
            "requests_per_second": self.request_rate,
            "output_tokens_per_second": self.output_rate,
            "total_tokens_per_second": self.total_rate,
        }


def spread(seconds: Sequence[float] | np.ndarray) -> Spread | None:
    """Mean and percentiles in milliseconds, of durations in seconds."""
    if not len(seconds):
        return None
    values = np.asarray(seconds, dtype=np.float64) * 1e3
    p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
    return Spread(float(values.mean()), p50, p90, p99)


def summarize(
    step: Step, outcomes: Sequence[Outcome], seconds: float, peak: int, prompt_tokens: int
) -> LoadResult:
    """One step's result. prompt_tokens: of each request, where the server does not count."""
    good = [outcome for outcome in outcomes if not outcome.failed]
    counted = all(outcome.usage for outcome in good)
    return LoadResult(
        tool="salient",
        concurrency=step.concurrency,
        rate=step.rate,
        totals=Totals(
            seconds=seconds,
            completed=len(good),
            input_tokens=sum(o.usage[0] if o.usage else prompt_tokens for o in good),
            output_tokens=sum(o.output_tokens for o in good),
            failures=_failures(outcomes),
            peak=peak,
        ),
        ttft=spread([o.ttft for o in good]),
        itl=spread(np.concatenate([np.frombuffer(o.gaps) for o in good if o.gaps] or [[]])),
        tpot=spread(list(_tpots(good))),
        e2e=spread([o.e2e for o in good]),
        counted="server" if counted else "chunks",
    )


def _tpots(outcomes: Iterable[Outcome]) -> Iterable[float]:
    for outcome in outcomes:
        if outcome.output_tokens > 1:
            yield (outcome.e2e - outcome.ttft) / (outcome.output_tokens - 1)


def _failures(outcomes: Sequence[Outcome]) -> tuple[Failure, ...]:
    """The most frequent first."""
    bad = [outcome for outcome in outcomes if outcome.failed]
    first = {outcome.failed: outcome.words for outcome in reversed(bad)}
    kinds = Counter(outcome.failed for outcome in bad)
    return tuple(Failure(kind, count, first[kind]) for kind, count in kinds.most_common())
