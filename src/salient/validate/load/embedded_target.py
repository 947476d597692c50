"""A load test of the embedded engine: the steps of a plan, without a server between."""

import time
from array import array
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, pairwise
from typing import Any

from salient.core.errors import RequestError
from salient.core.progress import Progress
from salient.evals.load.client import Outcome
from salient.evals.load.latencies import LoadResult, summarize
from salient.evals.load.plans import LoadPlan, Step, check_plan
from salient.evals.load.prompts import Count, numbered, windows
from salient.runtime.engine import Engine
from salient.runtime.sampling_params import SamplingParams
from salient.runtime.token_sequence import TokenSequence

TOOL = "salient (embedded engine)"


def run_embedded(engine: Engine, plan: LoadPlan, progress: Progress) -> list[LoadResult]:
    """Run every step of `plan` on `engine`: requests are sent as soon as one has ended.

    Raises RequestError for a step with a rate, which only a server can be asked at.
    """
    check_plan(plan)
    if any(step.rate is not None for step in plan.steps):
        raise RequestError("The embedded engine is tested by concurrency. Give a server's address.")
    prompts = _prompts(engine.tokenizer, plan)
    sampling = SamplingParams(max_new_tokens=plan.output_tokens, ignore_eos=plan.ignore_eos)
    found = []
    for number, step in enumerate(plan.steps):
        progress(number, len(plan.steps), step.words, found[-1].words if found else "")
        if plan.warmups:
            _traffic(engine, prompts, sampling, step, replace(plan, requests=plan.warmups))
        started = time.perf_counter()
        outcomes = _traffic(engine, prompts, sampling, step, plan)
        seconds = time.perf_counter() - started
        peak = min(step.concurrency, len(outcomes))
        result = summarize(step, outcomes, seconds, peak, plan.prompt_tokens)
        found.append(replace(result, tool=TOOL))
    progress(len(plan.steps), len(plan.steps), "load test", found[-1].words)
    return found


def counter(tokenizer: Any) -> Count:
    """Counts the tokens of a text."""
    return lambda text: len(tokenizer(text, add_special_tokens=True, verbose=False).input_ids)


def _prompts(tokenizer: Any, plan: LoadPlan) -> Iterator[list[int]]:
    """Prompts without end, no two of which begin alike."""
    pieces = windows(plan.text, plan.prompt_tokens, plan.seed, counter(tokenizer))
    for number in count(plan.seed * 1_000_003):
        text = numbered(pieces[number % len(pieces)], number)
        yield tokenizer(text, add_special_tokens=True, verbose=False).input_ids


def _traffic(
    engine: Engine,
    prompts: Iterator[list[int]],
    sampling: SamplingParams,
    step: Step,
    plan: LoadPlan,
) -> list[Outcome]:
    """As many requests at once as the step says, until all have ended."""
    outcomes: list[Outcome] = []
    running: list[TokenSequence] = []
    sent, last = 0, time.perf_counter() + (plan.seconds or float("inf"))
    while True:
        late = time.perf_counter() > last
        while len(running) < step.concurrency and sent < (plan.requests or sent + 1) and not late:
            running.append(engine.submit(next(prompts), sampling))
            sent += 1
        if not running:
            return outcomes
        engine.step()
        outcomes += [_outcome(answer) for answer in running if answer.finished]
        running = [answer for answer in running if not answer.finished]


def _outcome(answer: TokenSequence) -> Outcome:
    """An answer's times, as a client would have seen them."""
    if answer.error is not None or not answer.times:
        return Outcome(failed=answer.finished or "empty", words=str(answer.error or "no token"))
    times = answer.times
    return Outcome(
        ttft=times[0] - answer.started,
        e2e=times[-1] - answer.started,
        chunks=len(times),
        gaps=array("d", (later - sooner for sooner, later in pairwise(times))),
        usage=(len(answer.prompt), len(answer.picked)),
    )
