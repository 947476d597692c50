"""vLLM's log as it comes: passed through unchanged, and what it means said between its lines."""

import socket
import sys
import time
from collections.abc import Callable

from salient.diagnose.finding import Finding
from salient.diagnose.log.log_reader import LogReader
from salient.diagnose.report import finding_lines

from .preflight import Address
from .supervisor import StopReason

NEWS = 0.5  # seconds between looks at what the log means, and whether the server answers
CONNECT = 0.5  # seconds that a connection may take
KNOCKS = 1.0  # seconds between attempts to connect
NAME = "vLLM's log"
# told at once, while vLLM runs; an error is told with its cause when vLLM has ended
_AT_ONCE = ("slow",)
_KERNEL = "kernel-awq-marlin"  # of older releases, which name no class


class LogWatch:
    """Passes a log on and says what it means.

    address: where the server will answer, None where it does not; quantized: whether a kernel for
    codes is to be named; ready: whether the server has taken a connection
    """

    def __init__(
        self, address: Address | None, *, quantized: bool, said: Callable[[str], None]
    ) -> None:
        self._address, self._quantized, self._said = address, quantized, said
        self._reader, self._told = LogReader(NAME), set[str]()
        self._waiting: list[str] = []
        self._news = self._knock = 0.0
        self._fresh, self._line_start, self._broken = False, True, False
        self._stop = StopReason()
        self.ready = False

    def heard(self, data: bytes) -> None:
        """A piece of the log."""
        if data:
            self._pass_on(data)
            self._reader.feed(data)
            self._fresh = True

    def tick(self, stop: StopReason) -> None:
        """Look what is new. Called several times a second."""
        now = time.monotonic()
        if self._fresh and now >= self._news:
            self._fresh, self._news = False, now + NEWS
            self._look()
        if not self.ready and self._address and now >= self._knock and not stop.signal:
            self._knock = now + KNOCKS
            self._try(self._address)
        self._tell_stop(stop)
        self._say_waiting()

    def end(self) -> list[Finding]:
        """What went wrong, by the whole log: causes before consequences."""
        self._reader.close()
        self._look()
        self._say_waiting(at_once=True)
        return [one for one in self._reader.reading().findings if one.level == "error"]

    def _pass_on(self, data: bytes) -> None:
        """To standard error, as it is. A reader that has gone does not end vLLM."""
        if self._broken:
            return
        self._line_start = data.endswith(b"\n")
        try:
            stream = getattr(sys.stderr, "buffer", None)
            if stream is None:
                sys.stderr.write(data.decode("utf-8", "replace"))
            else:
                stream.write(data)
            sys.stderr.flush()
        except (OSError, ValueError):
            self._broken = self._line_start = True

    def _look(self) -> None:
        """Say what the log newly means."""
        reading = self._reader.reading()
        for kernel in reading.facts.kernels:
            self._once(f"kernel {kernel}", f"vLLM runs the quantized weights through {kernel}.")
        for finding in reading.findings:
            if finding.id == _KERNEL:
                self._once("kernel Marlin", f"{finding.title}.")
            if finding.level in _AT_ONCE:
                self._once(finding.id, *finding_lines(finding))

    def _try(self, address: Address) -> None:
        """Connect: vLLM listens when its engine can answer, and not before."""
        if not answers(address):
            return
        self.ready = True
        self._look()
        if self._quantized and not any(one.startswith("kernel ") for one in self._told):
            self._once("no kernel", "vLLM's log names no kernel for the quantized weights.")
        self._once("ready", f"Ready: {address.words}")

    def _tell_stop(self, stop: StopReason) -> None:
        if stop.signal is not None:
            self._once("signal", "Handed on; vLLM is ending. A second signal kills it.")
        if stop.killed:
            self._once("killed", f"vLLM is killed: {stop.killed}.")

    def _once(self, key: str, *lines: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._waiting += lines

    def _say_waiting(self, *, at_once: bool = False) -> None:
        """Never within a line of the log's, unless there will be no end of it."""
        if self._waiting and (self._line_start or at_once):
            waiting, self._waiting = self._waiting, []
            for line in waiting:
                self._said(line)


def answers(address: Address) -> bool:
    """Whether a connection is taken at `address`."""
    unix = bool(address.path)
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    host = host.strip("[]")
    family = socket.AF_UNIX if unix else socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT)
        try:
            probe.connect(address.path if unix else (host, address.port))
        except OSError:
            return False
    return True
