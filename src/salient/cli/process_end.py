"""The end of the process, whatever happens: one exit code, at most one message, no traceback.

Exit codes: 0 done, 1 a negative verdict and nothing else, 2 an error, 130 interrupted, 141 a closed
pipe at standard output.
"""

import contextlib
import io
import json
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Generator, Sequence
from typing import Any

from rich.console import Console

from salient.core.errors import SalientError, is_out_of_memory, one_line
from salient.core.version import __version__

CLOSED_PIPE = 141  # 128 + SIGPIPE, as shells report it


class OutputError(Exception):
    """Standard output takes no more; its cause is the system's error."""


class _Stream:
    """Standard output, whose failures are told from all others; of standard error, ignored."""

    def __init__(self, stream: Any, *, ignore: bool):
        self._stream, self._ignore = stream, ignore

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._errors():
            self._stream.write(text)
        return len(text)

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


def open_streams() -> None:
    """Make the three streams usable: one that is closed is /dev/null, and no character fails."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a file opened later must not become standard output
    os.close(handle)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # its file may have been replaced
                stream.reconfigure(errors="backslashreplace")
        if not isinstance(stream, _Stream):
            setattr(sys, name, _Stream(stream, ignore=name == "stderr"))


@contextlib.contextmanager
def process_end(argv: Sequence[str]) -> Generator[None]:
    """Turn whatever ends the command line `argv` into an exit code and at most one message."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except SystemExit:
        raise
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr, flush=True)
        sys.exit(130)
    except OutputError as error:
        _discard_output()
        if isinstance(error.__cause__, BrokenPipeError):
            sys.exit(CLOSED_PIPE)
        print_error(f"Standard output cannot be written: {error}.")
    except BaseException as error:  # noqa: BLE001, a panic of Rust is no Exception
        message = str(error) if isinstance(error, SalientError) else _unexpected(error, argv)
        if "--json" in argv:
            with contextlib.suppress(OutputError):
                document = {"error": type(error).__name__, "message": message}
                print(json.dumps(document, indent=2, ensure_ascii=False), flush=True)
        print_error(message)
    else:
        return
    sys.exit(2)


def print_error(message: str) -> None:
    """Print an error to standard error."""
    console = Console(stderr=True)
    console.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)


def _unexpected(error: BaseException, argv: Sequence[str]) -> str:
    """The message for an error that Salient has no words for, with the file of its traceback."""
    name, reason = type(error).__name__, one_line(error)
    start, end = f"Unexpected {name}: {reason}.", ""
    if is_out_of_memory(error):
        start = f"Memory does not suffice ({name}: {reason})."
    elif isinstance(error, OSError):
        start = f"The system refused: {error.strerror or reason}"
        start += f" ({error.filename})." if error.filename else "."
    else:
        end = " This is a fault in Salient: please report it with that file."
    return f"{start} The traceback is in {_write_traceback(error, argv)}.{end}"


def _write_traceback(error: BaseException, argv: Sequence[str]) -> str:
    """Write the traceback with the versions to a new file; its path."""
    command = shlex.join(["salient", *argv])
    versions = f"salient {__version__}, Python {platform.python_version()}, {platform.platform()}"
    lines = traceback.format_exception(error)
    try:
        handle, path = tempfile.mkstemp(prefix="salient-traceback-", suffix=".txt")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{command}\n{versions}\n\n{''.join(lines)}")
    except OSError as full:
        return f"no file ({full.strerror or full}); it ends with: {lines[-1].strip()}"
    return path


def _discard_output() -> None:
    """Send what is left of the output nowhere: Python would fail on it once more at its exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout.flush()
