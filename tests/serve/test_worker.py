"""The engine's thread: every request is answered, even if the engine breaks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from helpers.engines import never_dense, opened
from helpers.rtn_checkpoints import rounded_toy
from salient.core.errors import ResourceError
from salient.runtime.sampling_params import SamplingParams
from salient.serve.worker import Worker

LONG = SamplingParams(max_new_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rounded_toy(tmp_path_factory.mktemp("worked"))


def with_worker(folder, use: Callable[[Worker], Awaitable[Any]]) -> Any:
    """The result of `use` with a running worker."""

    async def run() -> Any:
        worker = Worker(opened(folder).engine, max_waiting=4)
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
