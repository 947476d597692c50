"""Threads for work next to the event loop's, with a bounded queue before them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, TypeVar

from salient.core.errors import ResourceError

T = TypeVar("T")


class BoundedThreads:
    """`threads` threads; while `most` tasks run or wait, more are refused with `refusal`."""

    threads: ClassVar[int]
    most: ClassVar[int]
    refusal: ClassVar[str]

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(
            self.threads, type(self).__name__, initializer=self.initialize
        )
        self._waiting = 0

    def initialize(self) -> None:
        """Called in each thread at its start."""

    async def run(self, task: Callable[[], T]) -> T:
        """The result of `task`. Raises its errors, and ResourceError if too many tasks wait."""
        if self._waiting >= self.most:
            raise ResourceError(self.refusal)
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self.executor.submit(task))
        finally:
            self._waiting -= 1


class ChatThreads(BoundedThreads):
    """For chats, so that a slow chat template delays no completion."""

    threads, most = 8, 512  # most threads wait for one of the template's processes
    refusal = "512 chats wait for the chat template. Try again."


chat_threads = ChatThreads()
