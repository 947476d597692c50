"""A load test: warm-up and measured requests of each step, one step after another.

Left out: measuring from the moment a request was due. Where a rate is more than the server
takes, requests queue in the server and their times show it, until MOST_TOGETHER are under way.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import count

from salient.core.errors import RequestError
from salient.core.progress import Progress, silent

from .arrivals import arrivals
from .client import Outcome, ask, question
from .latencies import LoadResult, summarize
from .plans import LoadPlan, Step, Target, check_plan, find_endpoint
from .prompts import Count, numbered, windows

# steps done, steps in all, what is being done, a word on the last step

GIVE_UP = 20  # failures without one answer: the step sends no more
MOST_GAPS = 20_000_000  # of a step, 160 MB: the step sends no more


def run_load(
    target: Target, plan: LoadPlan, progress: Progress = silent, count_tokens: Count | None = None
) -> list[LoadResult]:
    """Run every step of `plan` against `target`, a result each.

    count_tokens: tokens of a text, for prompts of the right length; None takes words for tokens

    Raises RequestError for what cannot be asked. A server that fails is no error: its failures
    are counted.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(measure_load(target, plan, progress, count_tokens))
    raise RequestError(
        "An event loop runs here already, as in notebooks. Use `await measure_load(...)` there."
    )


async def measure_load(
    target: Target, plan: LoadPlan, progress: Progress = silent, count_tokens: Count | None = None
) -> list[LoadResult]:
    """`run_load` for a running event loop."""
    check_plan(plan)
    shared = question(target, plan, find_endpoint(target))
    pieces = windows(plan.text, plan.prompt_tokens, plan.seed, count_tokens)
    numbers = count(plan.seed * 1_000_003)

    def next_request() -> Awaitable[Outcome]:
        number = next(numbers)
        return ask(shared, numbered(pieces[number % len(pieces)], number))

    results, note = [], ""
    for index, step in enumerate(plan.steps):
        tell = _teller(plan, index, progress, note)
        if plan.warmups:
            only_some = replace(plan, requests=plan.warmups, seconds=None)
            await _traffic(next_request, Step(step.concurrency), only_some, _unheard)
        traffic = await _traffic(next_request, step, plan, tell)
        found = summarize(step, traffic.outcomes, traffic.seconds, traffic.peak, plan.prompt_tokens)
        results.append(replace(found, note=traffic.note))
        note = f"{step.words}: {found.words}"
    progress(_share(plan) * len(plan.steps), _share(plan) * len(plan.steps), "load test", note)
    return results


def _share(plan: LoadPlan) -> int:
    """A step's part of the progress: its requests, or its seconds."""
    return plan.requests if plan.requests is not None else math.ceil(plan.seconds or 1)


def _teller(
    plan: LoadPlan, index: int, progress: Progress, note: str
) -> Callable[["_Traffic"], None]:
    share, words, started = _share(plan), plan.steps[index].words, time.perf_counter()

    def tell(traffic: "_Traffic") -> None:
        elapsed = int(time.perf_counter() - started)
        done = len(traffic.outcomes) if plan.requests is not None else elapsed
        progress(index * share + min(done, share), share * len(plan.steps), words, note)

    return tell


def _unheard(traffic: "_Traffic") -> None:
    """Warm-up is not told."""


@dataclass
class _Traffic:
    """A step's requests as they end."""

    outcomes: list[Outcome] = field(default_factory=list)
    gaps: int = 0
    answered: bool = False
    under_way: int = 0
    peak: int = 0
    seconds: float = 0.0
    note: str = ""

    def take(self, outcome: Outcome) -> None:
        self.gaps += len(outcome.gaps)
        self.answered |= not outcome.failed
        self.outcomes.append(outcome)

    def ended_early(self) -> bool:
        if not self.answered and len(self.outcomes) >= GIVE_UP:
            self.note = f"ended after {len(self.outcomes)} failures without an answer"
        elif self.gaps >= MOST_GAPS:
            self.note = f"ended after {self.gaps} tokens, the most that are kept in memory"
        return bool(self.note)


async def _traffic(
    next_request: Callable[[], Awaitable[Outcome]],
    step: Step,
    plan: LoadPlan,
    tell: Callable[[_Traffic], None],
) -> _Traffic:
    """Send a step's requests and wait for the last."""
    found, places = _Traffic(), asyncio.Semaphore(step.concurrency)
    most, last = plan.requests or math.inf, plan.seconds or math.inf
    started = time.perf_counter()

    async def one() -> None:
        found.under_way += 1
        found.peak = max(found.peak, found.under_way)
        try:
            found.take(await next_request())
        finally:
            found.under_way -= 1
            places.release()

    async with asyncio.TaskGroup() as group:
        for number, due in enumerate(arrivals(step, plan.seed)):
            if number >= most or due > last or found.ended_early():
                break
            if (wait := due - (time.perf_counter() - started)) > 0:
                await asyncio.sleep(wait)
            await places.acquire()
            tell(found)
            if time.perf_counter() - started > last or found.ended_early():
                places.release()
                break
            group.create_task(one())
        for _ in range(step.concurrency):  # all places free: the last request has ended
            await places.acquire()
            tell(found)
    found.seconds = time.perf_counter() - started
    return found
