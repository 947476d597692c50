"""The engine in a thread of its own: requests come in from the server, pieces go out to it.

The engine is no thread's but this one's. Commands go in through a queue, a step at a time runs,
and what it gave is handed to the server's event loop in one call.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from salient.core.errors import ResourceError, SalientError
from salient.runtime.engine import Answer, Engine, Piece
from salient.runtime.sampling import Sampling

log = logging.getLogger("salient.serve")
BROKEN = "The engine has stopped after an internal error; restart the server."


@dataclass(eq=False)
class Ticket:
    """A request that was let in.

    pieces: what the engine gave it, or the error that ended it; read in the event loop
    answer: None while it waits for the engine to take it
    """

    ids: Sequence[int]
    sampling: Sampling
    pieces: "asyncio.Queue[Piece | SalientError]" = field(default_factory=asyncio.Queue)
    answer: Answer | None = None
    ended: bool = False


@dataclass(frozen=True)
class Load:
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
        self._commands: queue.SimpleQueue[tuple[str, Ticket | None]] = queue.SimpleQueue()
        self._tickets: dict[Answer, Ticket] = {}
        self._inside = 0  # tickets let in and not ended; the event loop's own count
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="salient-engine", daemon=True)

    def start(self) -> None:
        """Begin to run steps. Call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step; what is under way is cancelled."""
        self._commands.put(("stop", None))
        self._thread.join(timeout=30)

    @property
    def load(self) -> Load:
        slots = self.engine.runner.slots
        return Load(min(self._inside, slots), max(0, self._inside - slots))

    def admit(self, count: int) -> None:
        """Raise ResourceError where `count` more would wait behind too many."""
        if self.failure:
            raise ResourceError(self.failure)
        if self._inside and self._inside + count > self.engine.runner.slots + self.most_waiting:
            raise ResourceError(
                f"{self._inside} requests are under way, which is all that this server takes. Try "
                "again shortly."
            )

    def submit(self, ids: Sequence[int], sampling: Sampling) -> Ticket:
        """Let a prompt in; its pieces come through the ticket. `admit` first."""
        ticket = Ticket(ids, sampling)
        self._inside += 1
        self._commands.put(("submit", ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Stop a ticket's answer, if it has not ended."""
        if not ticket.ended:
            self._commands.put(("cancel", ticket))

    def _run(self) -> None:
        try:
            while self._obey():
                self._deliver(self.engine.step())
        except Exception:
            log.exception("the engine stopped")
            self.failure = BROKEN
            self._fail_all()

    def _obey(self) -> bool:
        """Do what was commanded; wait for a command where there is nothing else to do."""
        while True:
            try:
                word, ticket = self._commands.get(block=not self.engine.busy)
            except queue.Empty:
                return True
            if word == "stop":
                return False
            assert ticket is not None
            if word == "submit":
                self._take(ticket)
            elif ticket.answer is not None and not ticket.answer.finished:
                self.engine.cancel(ticket.answer)
                del self._tickets[ticket.answer]
                self._tell([(ticket, Piece(ticket.answer, "", None, "cancelled"))])

    def _take(self, ticket: Ticket) -> None:
        try:
            ticket.answer = self.engine.submit(ticket.ids, ticket.sampling)
        except SalientError as error:
            self._tell([(ticket, error)])
            return
        self._tickets[ticket.answer] = ticket

    def _deliver(self, pieces: list[Piece]) -> None:
        found: list[tuple[Ticket, Piece | SalientError]] = []
        for piece in pieces:
            ticket = self._tickets[piece.sequence]
            error = piece.sequence.error
            found.append((ticket, error if error is not None else piece))
            if piece.finished:
                del self._tickets[piece.sequence]
        if found:
            self._tell(found)

    def _tell(self, found: list[tuple[Ticket, Piece | SalientError]]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._hand_over, found)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("the event loop is closed")

    def _hand_over(self, found: list[tuple[Ticket, Piece | SalientError]]) -> None:
        """In the event loop."""
        for ticket, piece in found:
            if not ticket.ended and (isinstance(piece, SalientError) or piece.finished):
                ticket.ended = True
                self._inside -= 1
            ticket.pieces.put_nowait(piece)

    def _fail_all(self) -> None:
        waiting = list(self._tickets.values())
        while True:
            try:
                word, ticket = self._commands.get_nowait()
            except queue.Empty:
                break
            if word == "submit" and ticket is not None:
                waiting.append(ticket)
        self._tell([(ticket, ResourceError(BROKEN)) for ticket in waiting])
