"""The engine in a thread of its own: requests come in from the server, pieces go out to it.

The engine is no thread's but this one's. Commands go in through a queue, a step at a time runs,
and what it gave is handed to the server's event loop in one call.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from salient.core.errors import ResourceError, SalientError
from salient.runtime.engine import Engine
from salient.runtime.grammar import Constraint
from salient.runtime.sampling_params import SamplingParams
from salient.runtime.token_sequence import StepOutput, TokenSequence

T = TypeVar("T")
log = logging.getLogger("salient.serve")
BROKEN = "The engine has stopped after an internal error; restart the server."


@dataclass(eq=False)
class Ticket:
    """A request that was let in.

    pieces: what the engine gave it, or the error that ended it; read in the event loop
    answer: None while it waits for the engine to take it
    """

    ids: Sequence[int]
    sampling: SamplingParams
    constraint: Constraint | None = None
    pieces: "asyncio.Queue[StepOutput | SalientError]" = field(default_factory=asyncio.Queue)
    answer: TokenSequence | None = None
    ended: bool = False


@dataclass(frozen=True)
class WorkerLoad:
    """How much is under way: answers that run, and tickets that wait for a slot."""

    running: int
    waiting: int


class Worker:
    """Runs `engine` for the tickets of one event loop.

    most_waiting: tickets beyond the engine's slots that are let in; more are refused
    """

    def __init__(self, engine: Engine, most_waiting: int):
        self.engine, self.most_waiting = engine, most_waiting
        self.failure = ""  # why no more steps run; '' while they do
        # None ends the thread
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets: dict[TokenSequence, Ticket] = {}
        self._inside = 0  # tickets let in and not ended; the event loop's own count
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="salient-engine", daemon=True)

    def start(self) -> None:
        """Begin to run steps. Call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step; what is under way is cancelled."""
        self._commands.put(None)
        self._thread.join(timeout=30)

    @property
    def load(self) -> WorkerLoad:
        slots = self.engine.runner.slots
        return WorkerLoad(min(self._inside, slots), max(0, self._inside - slots))

    def admit(self, count: int) -> None:
        """Raise ResourceError where `count` more would wait behind too many."""
        if self.failure:
            raise ResourceError(self.failure)
        if self._inside and self._inside + count > self.engine.runner.slots + self.most_waiting:
            raise ResourceError(
                f"{self._inside} requests are under way, which is all that this server takes. Try "
                "again shortly."
            )

    def submit(
        self, ids: Sequence[int], sampling: SamplingParams, constraint: Constraint | None = None
    ) -> Ticket:
        """Let a prompt in; its pieces come through the ticket. `admit` first."""
        ticket = Ticket(ids, sampling, constraint)
        self._inside += 1
        self._commands.put(lambda: self._take(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Stop a ticket's answer, if it has not ended."""
        if not ticket.ended:
            self._commands.put(lambda: self._drop(ticket))

    async def between_steps(self, work: Callable[[Engine], T]) -> T:
        """What `work` gives, run in the engine's thread between two steps. Raises what it raises,
        and ResourceError where the engine has stopped."""
        assert self._loop is not None
        made = self._loop.create_future()
        self._commands.put(lambda: self._visited(work, made))
        return await made

    def _run(self) -> None:
        while self._obey():
            if self.failure:
                continue
            try:
                self._deliver(self.engine.step())
            except Exception:
                log.exception("the engine stopped")
                self.failure = BROKEN
                self._tell([(ticket, ResourceError(BROKEN)) for ticket in self._tickets.values()])
                self._tickets.clear()

    def _obey(self) -> bool:
        """Do what was commanded; wait for a command where there is nothing else to do."""
        while True:
            try:
                command = self._commands.get(block=bool(self.failure) or not self.engine.busy)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _take(self, ticket: Ticket) -> None:
        try:
            if self.failure:
                raise ResourceError(self.failure)
            ticket.answer = self.engine.submit(ticket.ids, ticket.sampling, ticket.constraint)
        except SalientError as error:
            self._tell([(ticket, error)])
            return
        self._tickets[ticket.answer] = ticket

    def _drop(self, ticket: Ticket) -> None:
        if ticket.answer in self._tickets:
            self.engine.cancel(ticket.answer)
            del self._tickets[ticket.answer]
            self._tell([(ticket, StepOutput(ticket.answer, "", None, "cancelled"))])

    def _visited(self, work: Callable[[Engine], Any], made: "asyncio.Future[Any]") -> None:
        result, error = None, None
        try:
            if self.failure:
                raise ResourceError(self.failure)
            result = work(self.engine)
        except Exception as raised:  # noqa: BLE001  whoever waits for it is told
            error = raised
        self._in_loop(_settle, made, result, error)

    def _deliver(self, pieces: list[StepOutput]) -> None:
        found: list[tuple[Ticket, StepOutput | SalientError]] = []
        for piece in pieces:
            ticket = self._tickets[piece.sequence]
            error = piece.sequence.error
            found.append((ticket, error if error is not None else piece))
            if piece.finished:
                del self._tickets[piece.sequence]
        if found:
            self._tell(found)

    def _tell(self, found: list[tuple[Ticket, StepOutput | SalientError]]) -> None:
        self._in_loop(self._hand_over, found)

    def _in_loop(self, what: Callable[..., None], *given: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(what, *given)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("the event loop is closed")

    def _hand_over(self, found: list[tuple[Ticket, StepOutput | SalientError]]) -> None:
        """In the event loop."""
        for ticket, piece in found:
            if not ticket.ended and (isinstance(piece, SalientError) or piece.finished):
                ticket.ended = True
                self._inside -= 1
            ticket.pieces.put_nowait(piece)


def _settle(future: "asyncio.Future[Any]", made: Any, error: Exception | None) -> None:
    """In the event loop; whoever waited may have gone."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(made)
