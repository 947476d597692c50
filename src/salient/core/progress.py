"""How long work tells where it is. Imports no torch."""

from collections.abc import Callable

# steps done, steps in all, what is being done, a word on the last step. No steps in all: that was
# all the long work there is, and what follows shows itself.
Progress = Callable[[int, int, str, str], None]


def silent(done: int, total: int, doing: str, note: str) -> None:
    """A progress that shows nothing."""
