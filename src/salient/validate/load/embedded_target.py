"""A load test of the embedded engine: the steps of a plan, without a server."""

import time
from array import array
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from salient.core.errors import RequestError
from salient.core.progress import Progress
from salient.loadtest.plan import LoadPlan, LoadStep, TokenCounter, check_plan, numbered_prompts
from salient.loadtest.result import LoadResult, RequestTiming, summarize_step
from salient.runtime.engine import Engine
from salient.runtime.sampling_params import SamplingParams
from salient.runtime.sequence import TokenSequence

TOOL = "salient (embedded engine)"


def run_embedded(engine: Engine, plan: LoadPlan, progress: Progress) -> list[LoadResult]:
    """Run every step of `plan` on `engine`: a request is sent as soon as one has ended.

    Raises RequestError for a step with a rate, which needs a server.
    """
    check_plan(plan)
    if any(step.rate is not None for step in plan.steps):
        raise RequestError("The embedded engine is tested by concurrency. Give a server's address.")
    prompts = _prompts(engine.tokenizer, plan)
    sampling = SamplingParams(max_new_tokens=plan.output_tokens, ignore_eos=plan.ignore_eos)
    results = []
    for number, step in enumerate(plan.steps):
        progress(number, len(plan.steps), step.label, results[-1].summary if results else "")
        if plan.warmups:
            _traffic(engine, prompts, sampling, step, replace(plan, requests=plan.warmups))
        started = time.perf_counter()
        timings = _traffic(engine, prompts, sampling, step, plan)
        seconds = time.perf_counter() - started
        peak, size = min(step.concurrency, len(timings)), plan.prompt_tokens
        result = summarize_step(
            step, timings, seconds=seconds, peak=peak, prompt_tokens=size, tool=TOOL
        )
        results.append(result)
    progress(len(plan.steps), len(plan.steps), "load test", results[-1].summary)
    return results


def counter(tokenizer: Any) -> TokenCounter:
    """Counts the tokens of a text."""
    return lambda text: len(tokenizer(text, add_special_tokens=True, verbose=False).input_ids)


def _prompts(tokenizer: Any, plan: LoadPlan) -> Iterator[list[int]]:
    """Endless prompts, no two of which begin alike."""
    for text in numbered_prompts(plan, counter(tokenizer)):
        yield tokenizer(text, add_special_tokens=True, verbose=False).input_ids


def _traffic(
    engine: Engine,
    prompts: Iterator[list[int]],
    sampling: SamplingParams,
    step: LoadStep,
    plan: LoadPlan,
) -> list[RequestTiming]:
    """Requests at the concurrency of `step`, until all have ended."""
    timings: list[RequestTiming] = []
    running: list[TokenSequence] = []
    sent, last = 0, time.perf_counter() + (plan.seconds or float("inf"))
    while True:
        late = time.perf_counter() > last
        while len(running) < step.concurrency and sent < (plan.requests or sent + 1) and not late:
            running.append(engine.submit(next(prompts), sampling))
            sent += 1
        if not running:
            return timings
        engine.step()
        timings += [_timing(answer) for answer in running if answer.finished]
        running = [answer for answer in running if not answer.finished]


def _timing(answer: TokenSequence) -> RequestTiming:
    """An answer's times, as a client would measure them."""
    if answer.error is not None or not answer.times:
        return RequestTiming(
            failure=answer.finished or "empty", message=str(answer.error or "no token")
        )
    times = answer.times
    return RequestTiming(
        ttft=times[0] - answer.started,
        e2e=times[-1] - answer.started,
        chunks=len(times),
        gaps=array("d", (later - sooner for sooner, later in pairwise(times))),
        usage=(len(answer.prompt), len(answer.picked)),
    )
