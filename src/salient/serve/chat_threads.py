"""Threads of their own for chats, so that a slow chat template delays no completion."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from salient.core.errors import ResourceError

THREADS, MOST_CHATS = 8, 512  # most threads wait for one of the template's processes
P = ParamSpec("P")
T = TypeVar("T")


class ChatThreads:
    """A bounded queue before a few threads."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(THREADS, "salient-chat")
        self._waiting = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`. Raises its errors, and ResourceError if too many chats wait."""
        if self._waiting >= MOST_CHATS:
            raise ResourceError(f"{self._waiting} chats wait for the chat template. Try again.")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, partial(work, *args, **kwargs))
        finally:
            self._waiting -= 1


chat_threads = ChatThreads()
