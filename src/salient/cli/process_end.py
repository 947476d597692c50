"""The end of the process, whatever happens: one exit code, at most one message, no traceback.

Exit codes: 0 done, 1 a negative verdict and nothing else, 2 an error, 130 interrupted, 141 a closed
pipe at standard output.
"""

import contextlib
import json
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Generator, Sequence

from salient.core.errors import SalientError, is_out_of_memory, one_line
from salient.core.printable import printable
from salient.core.version import __version__

from .terminal import OutputError, discard_output, print_error

LONGEST_MESSAGE = 8192  # letters
CLOSED_PIPE = 141  # 128 + SIGPIPE, as shells report it


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
        discard_output()
        if isinstance(error.__cause__, BrokenPipeError):
            sys.exit(CLOSED_PIPE)
        print_error(f"Standard output cannot be written: {error}.")
    except BaseException as error:  # noqa: BLE001, a panic of Rust is no Exception
        message = str(error) if isinstance(error, SalientError) else _unexpected(error, argv)
        if len(message) > LONGEST_MESSAGE:  # a name in a stranger's file may have any length
            half = LONGEST_MESSAGE // 2
            message = f"{message[:half]} ... {message[-half:]}"
        if "--json" in argv:
            with contextlib.suppress(OutputError):
                document = {"error": type(error).__name__, "message": message}
                print(json.dumps(document, indent=2, ensure_ascii=False), flush=True)
        print_error(message)
    else:
        return
    sys.exit(2)


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
            file.write(printable(f"{command}\n{versions}\n\n{''.join(lines)}"))
    except OSError as full:
        return f"no file ({full.strerror or full}); it ends with: {lines[-1].strip()}"
    return path
