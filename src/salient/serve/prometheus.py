"""Prometheus metrics, under vLLM's names if they have the same meaning (vLLM 0.32, /metrics)."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .worker import Worker

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    def __init__(self, model: str, worker: Worker):
        self._registry = CollectorRegistry()
        self.model = model

        def add(kind: type, name: str, text: str, *labels: str, **options: object):
            names = ("model_name", *labels)
            metric = kind(f"vllm:{name}", text, names, registry=self._registry, **options)
            return metric if labels else metric.labels(model)

        def add_times(name: str, text: str):
            return add(Histogram, f"{name}_seconds", text, buckets=SECONDS)

        running = add(Gauge, "num_requests_running", "Sequences that are generated.")
        running.set_function(lambda: worker.running)
        waiting = add(Gauge, "num_requests_waiting", "Requests that wait for a slot.")
        waiting.set_function(lambda: worker.waiting)
        self.prompt_tokens = add(Counter, "prompt_tokens", "Prompt tokens.")
        self.new_tokens = add(Counter, "generation_tokens", "Generated tokens.")
        self.success = add(
            Counter, "request_success", "Finished sequences by reason.", "finished_reason"
        )
        self.first = add_times("time_to_first_token", "Time to the first token.")
        self.between = add_times("inter_token_latency", "Time between two tokens.")
        self.whole = add_times("e2e_request_latency", "Time of whole sequences.")

    def text(self) -> bytes:
        return generate_latest(self._registry)


class Clock:
    def __init__(self, metrics: Metrics, prompt_tokens: int):
        self._metrics, self._start = metrics, time.perf_counter()
        self._last: float | None = None
        metrics.prompt_tokens.inc(prompt_tokens)

    def token(self) -> None:
        now = time.perf_counter()
        if self._last is None:
            self._metrics.first.observe(now - self._start)
        else:
            self._metrics.between.observe(now - self._last)
        self._last = now
        self._metrics.new_tokens.inc()

    def end(self, reason: str) -> None:
        """The sequence has finished. reason: 'stop', 'length' or 'cancelled'"""
        self._metrics.whole.observe(time.perf_counter() - self._start)
        self._metrics.success.labels(self._metrics.model, reason).inc()
