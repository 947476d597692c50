"""The command line as processes of their own, without the seconds that torch takes to import.

They are forked from a server that has imported it all: the processes, their signals, exit codes and
pipes are real.
"""

import multiprocessing
import os
import runpy
import signal
import sys
from multiprocessing.reduction import DupFd
from typing import IO, Any, Self

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "transformers.models.llama.modeling_llama", "fastapi", "uvicorn", "salient.cli"]
)


def _main(argv: list[str], environment: dict[str, str], pipes: list[Any]) -> None:
    for number, pipe in enumerate(pipes):
        os.dup2(pipe.detach(), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.argv = open(0, encoding="utf-8"), ["salient", *argv]  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    if argv[0] == "-c":
        exec(argv[1], {"__name__": "__main__"})
    else:
        runpy.run_module("salient", run_name="__main__", alter_sys=True)


class Command:
    """`salient` with `argv`, or Python with ("-c", code), started, with pipes as its streams.

    Leaving it as a context kills what still runs, and closes the pipes.
    """

    def __init__(self, *argv: object, **environment: str):
        ends = [os.pipe() for _ in range(3)]
        (inner_in, self_in), (self_out, inner_out), (self_err, inner_err) = ends
        theirs = (inner_in, inner_out, inner_err)
        self.stdin: IO[str] = os.fdopen(self_in, "w", encoding="utf-8", buffering=1)
        self.stdout: IO[str] = os.fdopen(self_out, encoding="utf-8")
        self.stderr: IO[str] = os.fdopen(self_err, encoding="utf-8")
        arguments = ([str(a) for a in argv], {**os.environ, **environment}, _Pipes(theirs))
        self._process = CONTEXT.Process(target=_main, args=arguments, daemon=True)
        self._process.start()
        for end in theirs:
            os.close(end)

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid
        os.kill(self._process.pid, number)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 120) -> int:
        """The exit code: that of the process, or minus the signal that ended it."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running after {timeout} s"
        return self._process.exitcode

    def communicate(self, text: str = "") -> tuple[int, str, str]:
        """Write `text` and wait for the end: exit code, rest of the output, rest of the errors."""
        self.stdin.write(text)
        self.stdin.close()
        output, errors = self.stdout.read(), self.stderr.read()
        return self.wait(), output, errors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()


class _Pipes(list):
    """File descriptors that become the child's own when they are pickled for it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return list, ([DupFd(number) for number in self],)
