"""The engine's thread: every request is answered, even if the engine breaks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from helpers.engines import never_dense, opened
from helpers.rtn_checkpoints import rounded_toy
from salient.core.errors import ResourceError
from salient.runtime.sampling_params import SamplingParams
from salient.serve.worker import OutputQueue, Worker

LONG = SamplingParams(max_new_tokens=40, ignore_eos=True)
LONGEST = SamplingParams(max_new_tokens=65, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rounded_toy(tmp_path_factory.mktemp("worked"))


def with_worker(folder, use: Callable[[Worker], Awaitable[Any]], slots: int = 2) -> Any:
    """The result of `use` with a running worker."""

    async def run() -> Any:
        worker = Worker(opened(folder, slots=slots).engine, max_waiting=4)
        worker.start()
        try:
            return await use(worker)
        finally:
            worker.stop()

    with pytest.MonkeyPatch.context() as patch:
        never_dense(patch)
        return asyncio.run(run())


async def text_of(ticket) -> str:
    text = ""
    while True:
        _, output = await ticket.outputs.get()
        if isinstance(output, Exception):
            raise output
        text += output.text
        if output.finished:
            return text


def test_work_between_steps_changes_no_output(folder):
    async def use(worker: Worker) -> tuple[str, str]:
        alone = await text_of(worker.submit([5, 6, 7], LONG))
        ticket = worker.submit([5, 6, 7], LONG)
        for _ in range(20):
            assert await worker.between_steps(lambda engine: engine.context) == 64
        return alone, await text_of(ticket)

    alone, disturbed = with_worker(folder, use)
    assert alone == disturbed


def test_an_error_between_steps_reaches_only_its_caller(folder):
    async def use(worker: Worker) -> str:
        ticket = worker.submit([5, 6, 7], LONG)
        with pytest.raises(ZeroDivisionError):
            await worker.between_steps(lambda _: 1 / 0)
        return await text_of(ticket)

    assert with_worker(folder, use)


def test_a_broken_engine_refuses_all_requests(folder):
    async def use(worker: Worker) -> None:
        def breaks() -> None:
            raise RuntimeError("broken")

        running = worker.submit([5, 6, 7], LONG)
        await running.outputs.get()
        worker.engine.step = breaks  # type: ignore[method-assign]
        with pytest.raises(ResourceError, match="stopped after an internal error; restart"):
            await text_of(running)
        with pytest.raises(ResourceError, match="restart the server"):
            await text_of(worker.submit([5], LONG))
        with pytest.raises(ResourceError, match="restart the server"):
            await worker.between_steps(lambda engine: engine)
        with pytest.raises(ResourceError, match="restart the server"):
            worker.admit(1)

    with_worker(folder, use)


def test_a_cancelled_ticket_ends_and_others_continue(folder):
    async def use(worker: Worker) -> tuple[str, str, int]:
        first, second = (worker.submit([5, 6, n], LONG) for n in (7, 8))
        await first.outputs.get()
        worker.cancel(first)
        cut, whole = await asyncio.gather(text_of(first), text_of(second))
        return cut, whole, worker.running

    cut, whole, running = with_worker(folder, use)
    assert len(cut) < len(whole)
    assert running == 0


def test_short_answers_do_not_wait_for_long_ones(folder):
    """One slot of eight is theirs."""

    async def use(worker: Worker) -> bool:
        long = [worker.submit([5, 6, n], LONGEST) for n in range(20)]
        await long[0].outputs.get()
        await text_of(worker.submit([5, 6, 7], LONG))
        return any(ticket.ended for ticket in long)

    assert not with_worker(folder, use, slots=8)


def test_requests_take_turns_at_free_slots(folder):
    async def use(worker: Worker) -> list[bool]:
        many = OutputQueue()
        first = [worker.submit([5, 6, n], LONG, None, many) for n in range(12)]
        other = [worker.submit([5, 7, n], LONG) for n in range(2)]
        for ticket in other:
            await text_of(ticket)
        return [ticket.ended for ticket in first]

    ended = with_worker(folder, use)
    assert 0 < sum(ended) <= 6


def test_what_waits_runs_when_the_engine_is_idle_again(folder):
    async def use(worker: Worker) -> list[str]:
        tickets = [worker.submit([5, 6, n], LONG) for n in range(4)]
        return [await asyncio.wait_for(text_of(ticket), 60) for ticket in tickets]

    assert len(with_worker(folder, use, slots=1)) == 4


def test_a_prompt_that_waits_for_a_slot_can_be_cancelled(folder):
    async def use(worker: Worker) -> int:
        first, second = (worker.submit([5, 6, n], LONG) for n in (7, 8))
        await first.outputs.get()
        worker.cancel(second)
        with pytest.raises(ResourceError, match="cancelled"):
            await text_of(second)
        await text_of(first)
        return worker.running

    assert with_worker(folder, use, slots=1) == 0
