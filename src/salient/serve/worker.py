"""The engine's thread: takes requests from the server's event loop and sends outputs back.

Only this thread touches the engine. Commands enter through a queue and run between steps; the
outputs of a step go to the event loop in one call. Requests take turns at free slots, and some
slots are for small ones: a request of many long answers does not keep others waiting.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from salient.core.errors import ModelError, ResourceError, SalientError
from salient.runtime.engine import Engine
from salient.runtime.grammar import Constraint
from salient.runtime.sampling_params import SamplingParams
from salient.runtime.sequence import StepOutput, TokenSequence, size_class

T = TypeVar("T")
HANGING = 4.0  # times the longest step before it: such a step does not end
log = logging.getLogger("salient.serve")
STOP_SECONDS = 5.0  # for the step that runs when the server stops
RESERVED = (0, 16, 8)  # by size class: one slot of so many is for the smaller ones
BROKEN = "The engine has stopped after an internal error; restart the server."


@dataclass(eq=False)
class Ticket:
    """A submitted prompt.

    outputs: gets the ticket with each output, or with the error that ended it; for the event loop
    sequence: None until the engine takes the prompt
    """

    ids: Sequence[int]
    sampling: SamplingParams
    constraint: Constraint | None
    outputs: "OutputQueue"
    sequence: TokenSequence | None = None
    ended: bool = False

    @cached_property
    def size(self) -> int:
        """Its size class."""
        return size_class(len(self.ids), self.sampling.max_new_tokens)


Output = tuple[Ticket, StepOutput | SalientError]
OutputQueue = asyncio.Queue[Output]


class Worker:
    """Runs `engine` for the tickets of one event loop.

    max_waiting: admitted tickets beyond the engine's slots; more are refused
    """

    def __init__(self, engine: Engine, max_waiting: int):
        self.engine, self.max_waiting = engine, max_waiting
        self.failure = ""  # why steps have stopped; '' while they run
        # None ends the thread
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets: dict[TokenSequence, Ticket] = {}
        self._waiting: deque[Ticket] = deque()
        self._open = 0  # admitted tickets that have not ended; counted in the event loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="salient-engine", daemon=True)
        self._began: float | None = None  # the step or command that runs
        self._longest = 0.0  # seconds of the steps and commands that have ended

    def start(self) -> None:
        """Start the thread. Called in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step; running sequences are cancelled."""
        self._commands.put(None)
        self._thread.join(timeout=STOP_SECONDS)

    @property
    def running(self) -> int:
        return min(self._open, self.engine.runner.slots)

    @property
    def waiting(self) -> int:
        return max(0, self._open - self.engine.runner.slots)

    def hangs(self, seconds: float) -> bool:
        """Whether a step has taken more than `seconds`, and many times those before it."""
        began = self._began
        slow = max(seconds, HANGING * self._longest)
        return began is not None and time.monotonic() - began > slow

    def admit(self, count: int) -> None:
        """Raise ResourceError if `count` more tickets are too many."""
        if self.failure:
            raise ResourceError(self.failure)
        if self._open and self._open + count > self.engine.runner.slots + self.max_waiting:
            raise ResourceError(
                f"{self._open} requests are running or waiting, the maximum of this server. Try "
                "again shortly."
            )

    def submit(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        constraint: Constraint | None = None,
        outputs: OutputQueue | None = None,
    ) -> Ticket:
        """Queue a prompt after `admit`. outputs: a queue that several tickets share"""
        ticket = Ticket(ids, sampling, constraint, outputs or OutputQueue())
        self._open += 1
        self._commands.put(lambda: self._take(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        if not ticket.ended:
            self._commands.put(lambda: self._drop(ticket))

    async def between_steps(self, work: Callable[[Engine], T]) -> T:
        """The result of `work`, run in the engine's thread between two steps. Raises its errors,
        and ResourceError if the engine has stopped."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():  # the caller was cancelled
                return
            try:
                if self.failure:
                    raise ResourceError(self.failure)
                future.set_result(work(self.engine))
            except Exception as error:  # noqa: BLE001  passed to the caller
                future.set_exception(error)

        self._commands.put(run)
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        while self._run_commands():
            if self.failure:
                continue
            try:
                self._timed(self._step)
            except Exception:
                log.exception("the engine stopped")
                self.failure = BROKEN
                tickets = [*self._tickets.values(), *self._waiting]
                self._send([(ticket, ResourceError(BROKEN)) for ticket in tickets])
                self._tickets.clear()
                self._waiting.clear()

    def _run_commands(self) -> bool:
        """Run the queued commands, waiting for one if the engine is idle; False ends the thread."""
        while True:
            try:
                command = self._commands.get(block=not self._busy)
            except queue.Empty:
                return True
            if command is None:
                return False
            self._timed(command)

    @property
    def _busy(self) -> bool:
        return not self.failure and (self.engine.busy or bool(self._waiting))

    def _timed(self, work: Callable[[], None]) -> None:
        self._began = began = time.monotonic()
        try:
            work()
        finally:
            self._began = None
            self._longest = max(self._longest, time.monotonic() - began)

    def _take(self, ticket: Ticket) -> None:
        if self.failure:
            self._send([(ticket, ResourceError(self.failure))])
        elif not self.engine.busy:
            self._submit(ticket)  # so that the next step has something to do
        else:
            self._waiting.append(ticket)

    def _step(self) -> None:
        while (ticket := self._next()) is not None:
            self._waiting.remove(ticket)
            self._submit(ticket)
        self._deliver(self.engine.step())

    def _next(self) -> Ticket | None:
        """The waiting ticket for a free slot: of the request that has the fewest running."""
        slots = self.engine.runner.slots
        free = slots - len(self._tickets)
        if not free or not self._waiting:
            return None
        running = Counter(id(ticket.outputs) for ticket in self._tickets.values())
        room = [free > (slots // share if share else 0) for share in RESERVED]
        fitting = (ticket for ticket in self._waiting if room[ticket.size])
        return min(fitting, key=lambda ticket: running[id(ticket.outputs)], default=None)

    def _submit(self, ticket: Ticket) -> None:
        """Give a prompt to the engine."""
        try:
            ticket.sequence = self.engine.submit(ticket.ids, ticket.sampling, ticket.constraint)
        except SalientError as error:
            self._send([(ticket, error)])
        except Exception:
            log.exception("a request was refused")
            self._send([(ticket, ModelError("The engine cannot take the request."))])
        else:
            self._tickets[ticket.sequence] = ticket

    def _drop(self, ticket: Ticket) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            self._send([(ticket, ResourceError("The request was cancelled."))])
        elif ticket.sequence in self._tickets:
            self.engine.cancel(ticket.sequence)
            del self._tickets[ticket.sequence]
            self._send([(ticket, StepOutput(ticket.sequence, "", None, "cancelled"))])

    def _deliver(self, step: list[StepOutput]) -> None:
        outputs: list[Output] = []
        for output in step:
            error = output.sequence.error
            outputs.append((self._tickets[output.sequence], output if error is None else error))
            if output.finished:
                del self._tickets[output.sequence]
        if outputs:
            self._send(outputs)

    def _send(self, outputs: list[Output]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._receive, outputs)
        except RuntimeError:  # the loop is closed, and no client waits
            log.debug("the event loop is closed")

    def _receive(self, outputs: list[Output]) -> None:
        """In the event loop."""
        for ticket, output in outputs:
            if not ticket.ended and (isinstance(output, SalientError) or output.finished):
                ticket.ended = True
                self._open -= 1
            ticket.outputs.put_nowait((ticket, output))
