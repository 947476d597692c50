"""What commands share: a progress bar, error messages, Ctrl-C, and reports."""

import contextlib
import os
import signal
import sys
from collections.abc import Generator
from typing import NoReturn

from salient.core.printable import printable_line
from salient.core.progress import Progress, silent
from salient.core.report import Report

from .terminal import Terminal, guard_streams


@contextlib.contextmanager
def cli_session(*, json: bool, resumes: str = "") -> Generator[Progress]:
    """A progress bar on a terminal, nothing elsewhere; exit code 130 after an interruption.

    resumes: how to continue after an interruption; '': nothing is stored
    """
    console, stop = Terminal(stderr=True), _Stop()
    try:
        with _bar(console, shown=console.is_terminal and not json) as progress:
            yield stop.checked_by(progress)
    except BaseException as error:
        if stop.came:
            console.print(f"Interrupted. {resumes}".rstrip(), soft_wrap=True)
            sys.exit(130)
        if isinstance(error, SystemExit):  # of a library: exit code 1 is a verdict's alone
            raise RuntimeError(f"a library called exit({error.code!r})") from error
        raise


class _Stop:
    """Ctrl-C or a SIGTERM, remembered: libraries turn the exception into others, or swallow it."""

    def __init__(self) -> None:
        self.came = False
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as a shell starts background jobs
                signal.signal(number, self._note)

    def _note(self, *_: object) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt

    def checked_by(self, progress: Progress) -> Progress:
        """`progress`, which also ends the run if a library swallowed the signal's exception."""

        def step(done: int, total: int, action: str, note: str) -> None:
            if self.came:
                raise KeyboardInterrupt
            progress(done, total, action, note)

        return Progress(step, progress.close)


@contextlib.contextmanager
def _bar(console: Terminal, *, shown: bool) -> Generator[Progress]:
    _quiet_libraries()
    if not shown:
        yield silent
        return
    from rich import progress as rich
    from rich.table import Column

    action = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        rich.SpinnerColumn(),
        rich.BarColumn(bar_width=24),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("left"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.description}", markup=False, table_column=action),
    )
    with rich.Progress(*columns, console=console, expand=True) as bar:
        guard_streams()
        task = bar.add_task("preparing", total=None)
        last = ""

        def step(done: int, total: int, action: str, note: str) -> None:
            nonlocal last
            last = note or last
            description = printable_line(f"{action}  {last}".rstrip())
            bar.update(task, completed=done, total=total or None, description=description)

        yield Progress(step, bar.stop)


def _quiet_libraries() -> None:
    """Transformers' and the Hub's own bars and warnings would tear ours."""
    import logging

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("transformers").setLevel(logging.ERROR)


def show(report: Report, *, json: bool) -> None:
    """Print a report, as tables or as one JSON document.

    In a pipe or a file the lines of its summary are whole, unless COLUMNS says how wide it is.
    """
    if json:
        print(report.to_json())
    else:
        console = Terminal()
        report.show(console, wrap=console.is_terminal or "COLUMNS" in os.environ)
