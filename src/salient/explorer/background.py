"""Where the page's arithmetic is done: one thread that gives way to the engine."""

import asyncio
import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from salient.core.errors import ResourceError

T = TypeVar("T")
NICENESS = 10
MOST_WAITING = 16  # requests of all who look, before more are refused


class BackgroundWorker:
    """Does one thing after another, off the event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "salient-explorer", initializer=_give_way)
        self._waiting = 0

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` gives. Raises what it raises, and ResourceError where too much waits."""
        if self._waiting >= MOST_WAITING:
            raise ResourceError("The explorer has too much to compute. Try again shortly.")
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._thread.submit(work))
        finally:
            self._waiting -= 1

    def later(self, work: Callable[[], None]) -> None:
        """Do `work` after what waits now."""
        with contextlib.suppress(RuntimeError):  # the process is ending
            self._thread.submit(work)


def _give_way() -> None:
    """Let every other thread of this process go first (Linux; elsewhere nothing is to be done)."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class RecentResults:
    """Keeps the last few results of each kind of work."""

    def __init__(self, most: int):
        self._most = most
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave for `key`; made if it is not kept."""
        if key not in self._kept:
            self._kept[key] = make()
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
