"""Lines of Salient between the lines of vLLM's log."""

import io
import os
import signal
import socket
import sys

import pytest

from helpers.vllm_process import LOGS, gone
from salient.core.errors import RequestError
from salient.diagnose.finding import Finding
from salient.serve.vllm.log_watch import LogWatch, accepts
from salient.serve.vllm.preflight import Address
from salient.serve.vllm.supervisor import ExitStatus, StopReason, exit_code, exit_lines, run_child

KERNEL = (
    b"(Worker pid=2) INFO 11-21 01:38:10 [auto_awq.py:451] Using MarlinLinearKernel for "
    b"AutoAWQMarlinLinearMethod\n"
)
OLDER = (
    b"INFO 02-12 19:01:25 [awq_marlin.py:114] The model is convertible to awq_marlin during "
    b"runtime. Using awq_marlin kernel.\n"
)
DIED = Finding("engine-died", "error", "The engine died", do=("look above",))


class Closed(io.TextIOBase):
    """A standard error without a reader."""

    def write(self, text):
        raise BrokenPipeError


@pytest.fixture
def watched(capfdbinary):
    lines = []
    watch = LogWatch(None, quantized=True, on_line=lines.append)

    def feed(*pieces):
        for piece in pieces:
            watch.feed(piece)
            watch._next_reading = 0.0  # read the new lines now
            watch.tick(StopReason())
        return lines

    feed.watch = watch
    return feed


@pytest.mark.parametrize(
    ("line", "text"), [(KERNEL, "through MarlinLinearKernel."), (OLDER, "through Marlin.")]
)
def test_a_kernel_is_named_once_for_old_and_new_releases(watched, line, text):
    lines = watched(line, line)
    assert len(lines) == 1
    assert lines[0].endswith(text)


def test_no_line_interrupts_a_line_of_the_log(watched):
    lines = watched(KERNEL + b"Loading: 40%")
    assert lines == []
    watched(b" done\n")
    assert len(lines) == 1


def test_waiting_lines_are_shown_at_the_end_of_the_log(watched):
    lines = watched(KERNEL + b"no end of it")
    assert watched.watch.end() == []
    assert len(lines) == 1


def test_the_text_of_the_log_passes(watched, capfdbinary):
    log = (LOGS / "healthy_cpu.txt").read_bytes().replace(b"\r\n", b"\n")
    watched(log[:1001], log[1001:])
    assert capfdbinary.readouterr().err == log.replace(b"\r", b"\n")  # of progress bars


def test_colours_of_the_log_are_dropped_and_other_controls_escaped(watched, capfdbinary):
    watched(
        b"\x1b[31mred\x1b[0m\r\n 40%\r 80%\n", b"\xff\x00half \xe2", b"\x80\xae\x1b]2;line\x07\n"
    )
    text = "red\n 40%\n 80%\n\\xff\\u0000half \\u202e\\u001b]2;line\\u0007\n"
    assert capfdbinary.readouterr().err.decode() == text


def test_a_closed_standard_error_ends_nothing(watched, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Closed())
    assert len(watched(KERNEL, b"more\n")) == 1


def test_a_listening_server_accepts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert accepts(Address("127.0.0.1", port))
        assert accepts(Address("0.0.0.0", port))
    assert not accepts(Address("127.0.0.1", port))
    path = str(tmp_path / "socket")
    assert not accepts(Address("", 0, path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert accepts(Address("", 0, path))


@pytest.mark.parametrize(
    ("code", "stop", "errors", "ours", "text"),
    [
        (0, StopReason(), [], 0, "vLLM ended by itself (exit code 0)."),
        (0, StopReason(), [DIED], 1, "vLLM stopped by itself (exit code 0)."),
        (0, StopReason(signal.SIGTERM), [DIED], 0, "vLLM ended after SIGTERM (exit code 0)."),
        (5, StopReason(), [DIED], 5, "vLLM stopped by itself (exit code 5)."),
        (-15, StopReason(), [], 143, "killed by SIGTERM (exit code 143), and not by Salient."),
        (
            -11,
            StopReason(),
            [],
            139,
            "vLLM crashed with SIGSEGV (exit code 139): a fault in its native",
        ),
        (
            -9,
            StopReason(2, "it had not ended after 30 seconds"),
            [],
            137,
            "had not ended after 30 sec",
        ),
        (-40, StopReason(), [], 168, "killed by signal 40"),
    ],
)
def test_each_end_has_its_line_and_exit_code(code, stop, errors, ours, text):
    status = ExitStatus(code, stop, 0)
    lines = exit_lines(status, errors, ready=True)
    assert exit_code(status, errors) == ours
    assert text in lines[0]
    assert ("    do: look above" in lines) is (bool(errors) and stop.signal is None)


STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); "
    "time.sleep(60)"
)
SHORT = "print('up', flush=True); import time; time.sleep(0.5)"


@pytest.mark.parametrize(
    ("code", "number", "ended", "killed"),
    [
        (STUBBORN, signal.SIGTERM, -signal.SIGKILL, "it had not ended after 0.5 seconds"),
        (SHORT, signal.SIGHUP, 0, ""),  # ignored, as under nohup
    ],
    ids=["stubborn", "ignored"],
)
def test_a_stubborn_child_is_killed_and_an_ignored_signal_stays_ignored(
    code, number, ended, killed
):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    outputs, sent = [], []

    def tick(stop):
        if b"up" in b"".join(outputs) and not sent:
            sent.append(os.kill(os.getpid(), number))

    try:
        status = run_child(
            [sys.executable, "-c", code],
            dict(os.environ),
            on_output=outputs.append,
            on_tick=tick,
            grace=0.5,
        )
        after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (status.code, status.stop.killed, len(sent)) == (ended, killed, 1)
    assert after == handlers


def test_a_missing_program_is_refused_by_name(tmp_path):
    with pytest.raises(RequestError, match=r"none cannot be started \(No such file.*--vllm-python"):
        run_child([str(tmp_path / "none")], {}, on_output=print, on_tick=print)


def test_an_error_of_ours_ends_the_child():
    children = []

    def tick(stop):
        if children:
            raise ZeroDivisionError

    def outputs(data):
        children.extend(int(word) for word in data.split())

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(ZeroDivisionError):
        run_child([sys.executable, "-c", code], dict(os.environ), on_output=outputs, on_tick=tick)
    assert children
    assert gone(children[0])
