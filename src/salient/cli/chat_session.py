"""A chat in the terminal: a line, the answer as it comes, its speed."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Generator
from importlib import import_module
from typing import TYPE_CHECKING

from salient.core.errors import SalientError

from .terminal import Terminal

if TYPE_CHECKING:
    from salient.runtime.chat import Conversation

HELP = """/reset   clear the conversation
/system TEXT   clear it and set the system prompt
/help    show this help
/exit    end the chat (or Ctrl-D)
Ctrl-C stops an answer; at the prompt it ends the chat."""


def talk(conversation: "Conversation") -> None:
    """Read lines and answer them until /exit, Ctrl-D, or Ctrl-C at the prompt."""
    console = Terminal(stderr=True)
    console.print("Type a message; /help shows commands.", style="dim")
    with contextlib.suppress(ImportError):
        import_module("readline")  # gives input() a history and editing
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


def _command(conversation: "Conversation", line: str, console: Terminal) -> None:
    name, _, rest = line.partition(" ")
    if name in ("/reset", "/system"):
        conversation.reset()
        if name == "/system":
            conversation.system = rest.strip() or None
        console.print("Conversation cleared.", style="dim")
    else:
        message = "" if name == "/help" else f"Unknown command {name}.\n"
        console.print(message + HELP, style="dim")


def _answer(conversation: "Conversation", line: str, console: Terminal) -> None:
    start, dropped = time.perf_counter(), conversation.dropped_turns
    try:
        with _stoppable() as stopped:
            for piece in conversation.send(line):
                print(piece, end="", flush=True)
                if stopped():
                    break
    except SalientError as error:
        console.print(f"error: {error}", style="red")
        return
    print()
    answer = conversation.answer
    assert answer is not None
    seconds = time.perf_counter() - start
    summary = f"{len(answer.tokens)} tokens, first after {answer.seconds_to_first * 1e3:.0f} ms"
    if answer.tokens_a_second is not None:
        summary += f", {answer.tokens_a_second:.1f} tokens/s"
    if answer.finished in ("length", "cancelled"):
        summary += {"length": ", token limit reached", "cancelled": ", stopped"}[answer.finished]
    if conversation.dropped_turns > dropped:
        summary += ". The context is full: the oldest turns were dropped"
    console.print(f"[{summary}; {seconds:.1f} s]", style="dim")


@contextlib.contextmanager
def _stoppable() -> Generator[Callable[[], bool]]:
    """Ctrl-C takes effect between tokens, so that no step is interrupted; a second one interrupts
    a long step."""
    presses = 0

    def count(*_: object) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, count)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield lambda: presses > 0
    finally:
        signal.signal(signal.SIGINT, before)
