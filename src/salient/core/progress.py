"""How long work reports its progress. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass

FINE = 1000  # steps of a whole for each unit of a part's share


@dataclass(frozen=True)
class Progress:
    """Receives the steps of long work; without functions it ignores them.

    on_step: gets steps done, steps in all (0: unknown), the current action, and a note on the last
        step ('': none)
    on_close: no more steps follow, although the command may go on for long, as a server does
    """

    on_step: Callable[[int, int, str, str], None] | None = None
    on_close: Callable[[], None] | None = None

    def __call__(self, done: int, total: int, action: str, note: str = "") -> None:
        """Report a step."""
        if self.on_step:
            self.on_step(done, total, action, note)

    def close(self) -> None:
        """Report that no more steps follow."""
        if self.on_close:
            self.on_close()

    def part(self, start: int, share: int, whole: int, label: str = "") -> "Progress":
        """The progress of a part that begins at `start` of `whole` and is `share` of it."""

        def step(done: int, total: int, action: str, note: str) -> None:
            inside = FINE * share * min(done, total) // max(total, 1)
            text = ": ".join(filter(None, (label, action)))
            self(FINE * start + inside, FINE * whole, text, note)

        return Progress(step)


silent = Progress()
