"""A chat on the terminal: one line in, the answer as it comes, figures after it."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from salient.core.errors import SalientError

HELP = """/reset   forget the conversation
/system TEXT   forget it, and tell the model TEXT before all
/help    this
/exit    end (or Ctrl-D)
Ctrl-C stops an answer; at the prompt it ends the chat."""


def talk(conversation: Any) -> None:
    """Read lines and answer them until /exit, Ctrl-D, or Ctrl-C at the prompt."""
    console = Console(stderr=True)
    console.print("Type a message; /help tells more.", style="dim")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history and editing
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if line in ("/exit", "/quit"):
            return
        if line.startswith("/"):
            _command(conversation, line, console)
        elif line:
            _answer(conversation, line, console)


def _command(conversation: Any, line: str, console: Console) -> None:
    name, _, rest = line.partition(" ")
    if name in ("/reset", "/system"):
        conversation.reset()
        if name == "/system":
            conversation.system = rest.strip() or None
        console.print("Forgotten.", style="dim")
    else:
        known = "" if name == "/help" else f"There is no {name}.\n"
        console.print(known + HELP, style="dim", markup=False, highlight=False)


def _answer(conversation: Any, line: str, console: Console) -> None:
    start, forgotten = time.perf_counter(), conversation.forgotten
    try:
        with _stoppable() as stopped:
            for piece in conversation.send(line):
                print(piece, end="", flush=True)
                if stopped():
                    break
    except SalientError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        return
    print()
    answer = conversation.answer
    seconds = time.perf_counter() - start
    words = f"{len(answer.tokens)} tokens, first after {answer.seconds_to_first * 1e3:.0f} ms"
    if answer.tokens_a_second is not None:
        words += f", {answer.tokens_a_second:.1f} tokens a second"
    if answer.finished in ("length", "cancelled"):
        words += {"length": ", cut at its longest", "cancelled": ", stopped"}[answer.finished]
    if conversation.forgotten > forgotten:
        words += ". The context is full: the oldest turns are forgotten"
    console.print(f"[{words}; {seconds:.1f} s]", style="dim", markup=False, highlight=False)


@contextlib.contextmanager
def _stoppable() -> Iterator[Any]:
    """Ctrl-C is remembered and looked at between tokens, so that no step is torn; a second one,
    when a step takes long, breaks in."""
    came = 0

    def note(*_: object) -> None:
        nonlocal came
        came += 1
        if came > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield lambda: came > 0
    finally:
        signal.signal(signal.SIGINT, before)
