"""The command line in this process: its exit code, and what it prints."""

import contextlib
import io
import sys
import traceback
from dataclasses import dataclass
from unittest import mock

from salient.cli import main


@dataclass(frozen=True)
class CommandResult:
    """exception: what ended the command, None where it exited"""

    exit_code: int
    stdout: str
    stderr: str
    exception: Exception | None = None

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def invoke(*arguments: object, typed: str = "") -> CommandResult:
    """Run `salient` with `arguments`, and `typed` as standard input."""
    out, errors, code, exception = io.StringIO(), io.StringIO(), 0, None
    with (
        mock.patch.object(sys, "stdin", io.StringIO(typed)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except Exception as error:  # noqa: BLE001
            code, exception = 1, error
            traceback.print_exc()
    return CommandResult(code, out.getvalue(), errors.getvalue(), exception)
