"""The explorer's computation: one low-priority thread next to the engine's."""

import asyncio
import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

from salient.core.errors import ResourceError

T = TypeVar("T")
NICENESS = 10
MAX_WAITING = 16  # requests of all clients before more are refused


class BackgroundWorker:
    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "salient-explorer", initializer=_lower_priority)
        self._waiting = 0

    async def run(self, task: Callable[[], T]) -> T:
        """The result of `task`. Raises its errors, and ResourceError if too many tasks wait."""
        if self._waiting >= MAX_WAITING:
            raise ResourceError("The explorer has too much to compute. Try again shortly.")
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._thread.submit(task))
        finally:
            self._waiting -= 1

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task` after the tasks that wait now."""
        with contextlib.suppress(RuntimeError):  # the process is ending
            self._thread.submit(task)


def _lower_priority() -> None:
    """Let the other threads of this process run first (Linux only)."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class RecentResults:
    """A cache of the `size` most recently used results."""

    def __init__(self, size: int):
        self._size = size
        self._results: OrderedDict[Hashable, object] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        if key not in self._results:
            self._results[key] = compute()
            while len(self._results) > self._size:
                self._results.popitem(last=False)
        self._results.move_to_end(key)
        return cast("T", self._results[key])
