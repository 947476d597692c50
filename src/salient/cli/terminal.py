"""The only way to standard output and standard error.

Every stream and console of the process escapes controls in text (`core/printable.py`); the only
escape sequences that reach a terminal are those of rich's own styles and bars. No markup is read.
"""

import contextlib
import io
import os
import sys
from collections.abc import Generator, Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from salient.core.printable import printable


class OutputError(Exception):
    """Standard output takes no more; its cause is the system's error."""


class SafeStream:
    """A standard stream. Failures of standard output are told from all others; of standard error,
    ignored.

    escape: whether to escape controls
    """

    def __init__(self, stream: Any, *, ignore: bool, escape: bool = True):
        self._stream, self._ignore, self._escape = stream, ignore, escape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def styled(self) -> "SafeStream":
        """The stream for text that is escaped and has styles."""
        return SafeStream(self._stream, ignore=self._ignore, escape=False)

    def write(self, text: str) -> int:
        with self._errors():
            self._stream.write(printable(text) if self._escape else text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with self._errors():
            self._stream.flush()

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            if not self._ignore:
                raise OutputError(error.strerror or str(error)) from error


class Terminal(Console):
    """A console of standard output, or with `stderr` of standard error."""

    def __init__(self, *, stderr: bool = False):
        stream = sys.stderr if stderr else sys.stdout
        styled = getattr(stream, "styled", stream)
        super().__init__(file=styled, stderr=stderr, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)


def open_streams() -> None:
    """Make the three streams usable: one that is closed is /dev/null, and no character fails."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a file opened later must not become standard output
    os.close(handle)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    # Bytes of standard input that are no text reach the check of the prompt.
    written = dict.fromkeys(("stdout", "stderr"), "backslashreplace")
    for name, errors in {"stdin": "surrogateescape", **written}.items():
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # its file may have been replaced
                stream.reconfigure(errors=errors)
    guard_streams()


def guard_streams() -> None:
    """Put a SafeStream in front of the streams, also in front of a bar's redirection."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, SafeStream):
            setattr(sys, name, SafeStream(stream, ignore=name == "stderr"))


def print_error(message: str) -> None:
    """Print an error to standard error."""
    Terminal(stderr=True).print(f"error: {message}", style="red", soft_wrap=True)


def discard_output() -> None:
    """Send what is left of the output nowhere: Python would fail on it once more at its exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout.flush()
