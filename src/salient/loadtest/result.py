"""The measurements of one step, in one format for every tool.

Definitions are those of `vllm bench serve` (vLLM 0.32, vllm/benchmarks/serve.py):

ttft   from sending a request to its first chunk of text
itl    between two chunks of one request, each with a token
tpot   (e2e - ttft) / (output tokens - 1), one value per request, none where it has one token
e2e    from sending to the last chunk with a token

Percentiles are numpy's default: linear between the two nearest values. Failed requests have no
times; the step's duration includes them.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from salient.core.intervals import Interval, bootstrap_ratio, quantile

from .plan import LoadStep


@dataclass
class RequestTiming:
    """One request's times in seconds; no text is stored.

    e2e: to the last chunk with a token; gaps: between chunks with tokens
    usage: (prompt tokens, output tokens) as counted by the server, None where it did not
    failure, message: kind of failure and its details; the times are then meaningless
    """

    ttft: float = 0.0
    e2e: float = 0.0
    chunks: int = 0
    gaps: array = field(default_factory=lambda: array("d"))
    usage: tuple[int, int] | None = None
    failure: str = ""
    message: str = ""

    @property
    def output_tokens(self) -> int:
        """The server's count, else one token per chunk."""
        return self.usage[1] if self.usage else self.chunks

    def add_token(self, now: float) -> None:
        """Add a chunk with a token, received `now` seconds after the start."""
        if self.chunks:
            self.gaps.append(now - self.e2e)
        else:
            self.ttft = now
        self.chunks, self.e2e = self.chunks + 1, now


@dataclass(frozen=True)
class LatencySummary:
    """Milliseconds; None where the tool does not report it.

    p90_interval: None where only the figures are known, not the requests' own times
    """

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    p90_interval: Interval | None = None


@dataclass(frozen=True)
class FailureCount:
    """The number of requests that failed in one way, and the first one's message."""

    kind: str
    count: int
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """One step. A latency is None where nothing was measured.

    concurrency: requests in flight at most; rate: requested requests per second
    counted: who counted the tokens: "server", "chunks" (one token per chunk), or "tool"
    note: why the step ended early, or a doubt about its times
    peak: the most requests in flight at once, None where the tool does not report it
    output_rate_interval: of the output tokens a second; None as for a latency
    """

    tool: str
    concurrency: int | None
    rate: float | None
    ttft: LatencySummary | None
    itl: LatencySummary | None
    tpot: LatencySummary | None
    e2e: LatencySummary | None
    counted: str = "tool"
    note: str = ""
    seconds: float
    completed: int
    input_tokens: int
    output_tokens: int
    failures: tuple[FailureCount, ...] = ()
    peak: int | None = None
    output_rate_interval: Interval | None = None

    @property
    def failed(self) -> int:
        return sum(failure.count for failure in self.failures)

    @property
    def requests(self) -> int:
        return self.completed + self.failed

    @property
    def request_rate(self) -> float:
        return self._per_second(self.completed)

    @property
    def output_rate(self) -> float:
        return self._per_second(self.output_tokens)

    @property
    def total_rate(self) -> float:
        return self._per_second(self.input_tokens + self.output_tokens)

    def _per_second(self, count: int) -> float:
        return count / self.seconds if self.seconds > 0 else 0.0

    @property
    def label(self) -> str:
        """ "4 at once", "2.5 requests/s"."""
        return LoadStep(self.concurrency or 0, self.rate).label

    @property
    def summary(self) -> str:
        failures = "; ".join(f"{f.count} {f.kind} ({f.message})" for f in self.failures)
        if not self.completed:
            return f"no request completed: {failures or 'none was sent'}"
        line = f"{self.output_rate:.1f} output tokens/s, {self.request_rate:.2f} requests/s"
        if self.ttft and self.ttft.p50 is not None:
            line += f", first token after {self.ttft.p50:.0f} ms"
        return f"{line}; {self.failed} of {self.requests} failed: {failures}" if failures else line

    def to_dict(self) -> dict[str, object]:
        failures = [{"kind": f.kind, "count": f.count, "words": f.message} for f in self.failures]
        return {
            **asdict(self),
            "failures": failures,
            "requests": self.requests,
            "failed": self.failed,
            "requests_per_second": self.request_rate,
            "output_tokens_per_second": self.output_rate,
            "total_tokens_per_second": self.total_rate,
        }


def summarize_latencies(
    seconds: Sequence[float] | np.ndarray, requests: int
) -> LatencySummary | None:
    """Mean and percentiles in milliseconds, of durations in seconds that `requests` requests had.

    The interval counts requests: the gaps of one depend on each other.
    """
    if not len(seconds):
        return None
    values = np.asarray(seconds, dtype=np.float64) * 1e3
    p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
    interval = quantile(values, 0.9, min(requests, len(values)))
    return LatencySummary(float(values.mean()), p50, p90, p99, interval)


def summarize_step(
    step: LoadStep,
    timings: Sequence[RequestTiming],
    *,
    seconds: float,
    peak: int,
    prompt_tokens: int,
    tool: str = "salient",
    note: str = "",
) -> LoadResult:
    """One step's result. prompt_tokens: of each request, where the server does not count."""
    completed = [timing for timing in timings if not timing.failure]
    tpots = [(t.e2e - t.ttft) / (t.output_tokens - 1) for t in completed if t.output_tokens > 1]
    gaps = np.concatenate([np.frombuffer(t.gaps) for t in completed if t.gaps] or [[]])

    def latencies(values: Sequence[float] | np.ndarray) -> LatencySummary | None:
        return summarize_latencies(values, len(completed))

    return LoadResult(
        tool=tool,
        concurrency=step.concurrency,
        rate=step.rate,
        ttft=latencies([t.ttft for t in completed]),
        itl=latencies(gaps),
        tpot=latencies(tpots),
        e2e=latencies([t.e2e for t in completed]),
        counted="server" if all(t.usage for t in completed) else "chunks",
        note=note,
        seconds=seconds,
        completed=len(completed),
        input_tokens=sum(t.usage[0] if t.usage else prompt_tokens for t in completed),
        output_tokens=sum(t.output_tokens for t in completed),
        failures=_count_failures(timings),
        peak=peak,
        output_rate_interval=_rate_interval(completed, seconds),
    )


def _rate_interval(completed: Sequence[RequestTiming], seconds: float) -> Interval | None:
    """The step's rate of output tokens; relative to it as wide as that of a request's own rate."""
    tokens = np.array([t.output_tokens for t in completed], dtype=np.float64)
    times = np.array([t.e2e for t in completed], dtype=np.float64)
    if not tokens.sum() or not times.sum() or seconds <= 0:
        return None
    one = bootstrap_ratio(tokens, times)
    rate = float(tokens.sum()) / seconds
    return one.through(lambda each: each / one.middle * rate)


def _count_failures(timings: Sequence[RequestTiming]) -> tuple[FailureCount, ...]:
    failed = [timing for timing in timings if timing.failure]
    messages = {timing.failure: timing.message for timing in reversed(failed)}
    kinds = Counter(timing.failure for timing in failed)
    return tuple(FailureCount(kind, count, messages[kind]) for kind, count in kinds.most_common())
