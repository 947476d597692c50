"""Runs the steps of a load test, one after another: warm-up, then measured requests.

Not included: measuring from the moment a request was due. Where a rate is more than the server
takes, requests queue in the server and their times show it, until MAX_CONCURRENCY are in flight.
"""

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

from salient.core.errors import RequestError
from salient.core.progress import Progress, silent

from .client import LoadClient
from .plan import LoadPlan, LoadStep, LoadTarget, TokenCounter, check_plan, numbered_prompts
from .result import LoadResult, RequestTiming, summarize_step

MAX_FAILURES = 20  # without one answer: the step sends no more
MAX_GAPS = 20_000_000  # of a step, 160 MB: the step sends no more
BUSY = 0.8  # of a core: from here on the client's own delays show in the times


def run_load(
    target: LoadTarget,
    plan: LoadPlan,
    progress: Progress = silent,
    count_tokens: TokenCounter | None = None,
) -> list[LoadResult]:
    """Run every step of `plan` against `target`, which names its model.

    count_tokens: for prompts of the right length; None counts words

    Raises RequestError for an invalid target or plan. Failing requests are counted, not raised.
    """
    check_plan(plan)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        prompts = numbered_prompts(plan, count_tokens)
        return asyncio.run(_run_steps(LoadClient(target, plan), plan, prompts, progress))
    raise RequestError(
        "An event loop is already running, as in notebooks. Use `await asyncio.to_thread(...)` "
        "with this function there."
    )


async def _run_steps(
    client: LoadClient, plan: LoadPlan, prompts: Iterator[str], progress: Progress
) -> list[LoadResult]:
    units = plan.requests if plan.requests is not None else math.ceil(plan.seconds or 1)
    total, results, note = units * len(plan.steps), [], ""

    def send() -> Awaitable[RequestTiming]:
        return client.send(next(prompts))

    def show(index: int, note: str, done: float) -> None:
        done = index * units + min(int(done), units)
        progress(done, total, plan.steps[index].label, note)

    async with client.http:
        for index, step in enumerate(plan.steps):
            if plan.warmups:
                warmup = replace(plan, requests=plan.warmups, seconds=None)
                await run_step(LoadStep(step.concurrency), warmup, send)
            results.append(await run_step(step, plan, send, partial(show, index, note)))
            note = f"{step.label}: {results[-1].summary}"
    progress(total, total, "load test", note)
    return results


async def run_step(
    step: LoadStep,
    plan: LoadPlan,
    send: Callable[[], Awaitable[RequestTiming]],
    show: Callable[[float], None] = lambda _: None,
) -> LoadResult:
    """Send a step's requests and wait for the last. `show` takes the requests or seconds done."""
    timings: list[RequestTiming] = []
    arrivals = islice(step.arrivals(plan.seed), plan.requests)
    limit, turn = plan.seconds or sys.float_info.max, asyncio.Lock()
    answered, gaps, in_flight, peak, note = False, 0, 0, 0, ""
    started, busy = time.perf_counter(), time.thread_time()

    def elapsed() -> float:
        return time.perf_counter() - started

    async def send_in_turn() -> None:
        nonlocal answered, gaps, in_flight, peak, note
        while True:
            async with turn:  # one waits for the next arrival, the others for their turn
                due = next(arrivals, math.inf)
                if due > limit:
                    return
                await asyncio.sleep(max(0.0, due - elapsed()))
            if note or elapsed() > limit:
                return
            in_flight += 1
            peak = max(peak, in_flight)
            timing = await send()
            in_flight -= 1
            timings.append(timing)
            answered |= not timing.failure
            gaps += len(timing.gaps)
            show(elapsed() if plan.requests is None else len(timings))
            if not answered and len(timings) >= MAX_FAILURES:
                note = f"ended after {len(timings)} failures without an answer"
            elif gaps >= MAX_GAPS:
                note = f"ended after {gaps} tokens, the most that are stored"

    show(0)
    async with asyncio.TaskGroup() as group:
        for _ in range(min(step.concurrency, plan.requests or step.concurrency)):
            group.create_task(send_in_turn())
    seconds = elapsed()
    share = (time.thread_time() - busy) / seconds
    if share > BUSY and answered and not note:
        note = f"the client used {share:.0%} of a core: times include its own delays"
    return summarize_step(
        step, timings, seconds=seconds, peak=peak, prompt_tokens=plan.prompt_tokens, note=note
    )
