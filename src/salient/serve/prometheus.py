"""Figures for Prometheus, under vLLM's names where they mean the same (vLLM 0.32, /metrics)."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .worker import Worker

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one server."""

    def __init__(self, model: str, worker: Worker):
        self._registry = CollectorRegistry()
        self._model = model

        def make(kind: type, name: str, words: str, *labels: str, **more: object):
            made = kind(
                f"vllm:{name}", words, ("model_name", *labels), registry=self._registry, **more
            )
            return made if labels else made.labels(model)

        running = make(Gauge, "num_requests_running", "Answers that are being computed.")
        running.set_function(lambda: worker.load.running)
        waiting = make(Gauge, "num_requests_waiting", "Requests that wait for a slot.")
        waiting.set_function(lambda: worker.load.waiting)
        self.prompt_tokens = make(Counter, "prompt_tokens", "Tokens of prompts.")
        self.new_tokens = make(Counter, "generation_tokens", "Tokens that were generated.")
        self._ended = make(
            Counter, "request_success", "Answers that ended, by why.", "finished_reason"
        )
        seconds = {"buckets": SECONDS}
        self.first = make(
            Histogram, "time_to_first_token_seconds", "To the first token.", **seconds
        )
        self.between = make(
            Histogram, "inter_token_latency_seconds", "Between two tokens.", **seconds
        )
        self.whole = make(Histogram, "e2e_request_latency_seconds", "Of whole answers.", **seconds)

    def ended(self, why: str) -> None:
        """An answer has ended: 'stop', 'length' or 'cancelled'."""
        self._ended.labels(self._model, why).inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class Clock:
    """Times one answer into the histograms."""

    def __init__(self, metrics: Metrics, prompt_tokens: int):
        self._metrics, self._started = metrics, time.perf_counter()
        self._last: float | None = None
        metrics.prompt_tokens.inc(prompt_tokens)

    def token(self) -> None:
        """One more token has come."""
        now = time.perf_counter()
        if self._last is None:
            self._metrics.first.observe(now - self._started)
        else:
            self._metrics.between.observe(now - self._last)
        self._last = now
        self._metrics.new_tokens.inc()

    def end(self, why: str) -> None:
        """The answer has ended."""
        self._metrics.whole.observe(time.perf_counter() - self._started)
        self._metrics.ended(why)
