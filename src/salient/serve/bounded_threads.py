"""Threads for work next to the event loop's, with bounded queues before them."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ClassVar, TypeVar

from salient.core.errors import ResourceError

T = TypeVar("T")
MOST_REST = 1.0  # seconds


class BoundedThreads:
    """`threads` threads; while `most` tasks run or wait, more are refused with `refusal`.

    They are daemons: what hangs in one does not keep the process alive. After a task a thread rests
    `rest` times as long as the task took: reading JSON holds the interpreter, for which the engine
    waits hundreds of times in a step.
    """

    rest: ClassVar[float] = 0.0
    threads: ClassVar[int]
    most: ClassVar[int]
    refusal: ClassVar[str]

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._submitted: dict[Future[Any], float] = {}  # those that no thread has taken
        self._running = 0
        self._started = False

    def initialize(self) -> None:
        """Called in each thread at its start."""

    async def run(self, task: Callable[[], T]) -> T:
        """The result of `task`. Raises its errors, and ResourceError if too many tasks wait."""
        if len(self._submitted) + self._running >= self.most:
            raise ResourceError(self.refusal)
        return await asyncio.wrap_future(self.submit(task))

    def submit(self, task: Callable[[], T]) -> "Future[T]":
        """Run `task` after the tasks that wait now."""
        future: Future[T] = Future()
        self._submitted[future] = time.monotonic()
        self._tasks.put((future, task))
        if not self._started:
            self._started = True
            for number in range(self.threads):
                name = f"{type(self).__name__}-{number}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    @property
    def waiting_seconds(self) -> float:
        """How long the first of the waiting tasks has waited."""
        return time.monotonic() - min(self._submitted.values(), default=time.monotonic())

    def _work(self) -> None:
        self.initialize()
        while True:
            future, task = self._tasks.get()
            self._submitted.pop(future, None)
            if not future.set_running_or_notify_cancel():  # the client has gone
                continue
            self._running += 1
            began = time.monotonic()
            try:
                future.set_result(task())
            except BaseException as error:  # noqa: BLE001  passed to the caller
                future.set_exception(error)
            finally:
                self._running -= 1
            del future, task
            time.sleep(min(MOST_REST, self.rest * (time.monotonic() - began)))


class ShortTexts(BoundedThreads):
    """For bodies that are read, checked and tokenized in milliseconds."""

    threads, most = 2, 512
    refusal = "512 requests wait for the tokenizer. Try again."


class LongTexts(BoundedThreads):
    """For large bodies: one at a time, so that they delay each other and no short request."""

    threads, most, rest = 1, 16, 3.0
    refusal = "16 large requests wait for the tokenizer. Try again."


class ShortChats(BoundedThreads):
    """For chats, so that a slow chat template delays no completion."""

    threads, most = 8, 512  # most threads wait for one of the template's processes
    refusal = "512 chats wait for the chat template. Try again."


class LongChats(BoundedThreads):
    """For large chats, which use one of the template's processes at most."""

    threads, most, rest = 1, 16, 3.0
    refusal = "16 large chats wait for the chat template. Try again."


class RequestThreads:
    """The threads that read, check and tokenize the bodies of requests."""

    LONG_BODY = 2**16  # bytes

    def __init__(self) -> None:
        self._texts = ShortTexts(), LongTexts()
        self._chats = ShortChats(), LongChats()

    def of(self, size: int, *, chat: bool = False) -> BoundedThreads:
        """The threads for a body of `size` bytes."""
        return (self._chats if chat else self._texts)[size > self.LONG_BODY]

    def slow(self, *, chat: bool = False) -> BoundedThreads:
        """The threads for a short body that takes long."""
        return self.of(self.LONG_BODY + 1, chat=chat)

    @property
    def waiting_seconds(self) -> float:
        """How long the first of all waiting requests has waited."""
        return max(threads.waiting_seconds for threads in (*self._texts, *self._chats))


request_threads = RequestThreads()
