"""The explorer's computation: one low-priority thread next to the engine's."""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

from salient.serve.bounded_threads import BoundedThreads

T = TypeVar("T")


class BackgroundWorker(BoundedThreads):
    threads, most = 1, 16  # requests of all clients
    refusal = "The explorer has too much to compute. Try again shortly."

    def initialize(self) -> None:
        """Let the other threads of this process run first (Linux only)."""
        with contextlib.suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


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
