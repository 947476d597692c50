"""vLLM's log as it comes: its text passed through, its meaning printed between its lines.

Colours are dropped, each state of a progress bar is a line, and other controls are escaped: the
log holds text of requests and of the model folder.
"""

import codecs
import re
import socket
import sys
import time
from collections.abc import Callable

from salient.core.printable import printable
from salient.diagnose.finding import Finding
from salient.diagnose.log.log_reader import LogReader
from salient.diagnose.report import finding_lines

from .preflight import Address
from .supervisor import StopReason

READ_EVERY = 0.5  # seconds between two readings of the log
CONNECT_EVERY = 1.0  # seconds between attempts to connect
CONNECT = 0.5  # seconds that a connection may take
NAME = "vLLM's log"
# shown while vLLM runs; errors are shown with their causes after its end
_AT_ONCE = ("slow",)
_KERNEL = "kernel-awq-marlin"  # of older releases, which name no class
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class LogWatch:
    """Passes a log through and explains it.

    address: where the server will listen, if it does   quantized: whether to name the kernel
    ready: whether the server has accepted a connection
    """

    def __init__(
        self, address: Address | None, *, quantized: bool, on_line: Callable[[str], None]
    ) -> None:
        self._address, self._quantized, self._on_line = address, quantized, on_line
        self._reader, self._shown = LogReader(NAME), set[str]()
        self._waiting: list[str] = []
        self._next_reading = self._next_connect = 0.0
        self._fresh, self._line_start, self._broken = False, True, False
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.ready = False

    def feed(self, data: bytes) -> None:
        if data:
            self._pass_through(data)
            self._reader.feed(data)
            self._fresh = True

    def tick(self, stop: StopReason) -> None:
        """Show what is new. Called several times a second."""
        now = time.monotonic()
        if self._fresh and now >= self._next_reading:
            self._fresh, self._next_reading = False, now + READ_EVERY
            self._read()
        if not self.ready and self._address and now >= self._next_connect and not stop.signal:
            self._next_connect = now + CONNECT_EVERY
            self._connect(self._address)
        if stop.signal is not None:
            self._once("signal", "Signal forwarded; vLLM is ending. A second signal kills it.")
        if stop.killed:
            self._once("killed", f"vLLM is killed: {stop.killed}.")
        self._show_waiting()

    def end(self) -> list[Finding]:
        """The errors of the whole log: causes before consequences."""
        self._reader.close()
        self._read()
        self._show_waiting(at_once=True)
        return [finding for finding in self._reader.reading().findings if finding.level == "error"]

    def _pass_through(self, data: bytes) -> None:
        """To standard error. A closed one does not end vLLM."""
        if self._broken:
            return
        self._line_start = data.endswith(b"\n")
        text = _COLOUR.sub("", self._decoder.decode(data)).replace("\r\n", "\n")
        try:
            sys.stderr.write(printable(text.replace("\r", "\n")))
            sys.stderr.flush()
        except (OSError, ValueError):
            self._broken = self._line_start = True

    def _read(self) -> None:
        reading = self._reader.reading()
        for kernel in reading.facts.kernels:
            self._once(f"kernel {kernel}", f"vLLM runs the quantized weights through {kernel}.")
        for finding in reading.findings:
            if finding.id == _KERNEL:
                self._once("kernel Marlin", f"{finding.title}.")
            if finding.level in _AT_ONCE:
                self._once(finding.id, *finding_lines(finding))

    def _connect(self, address: Address) -> None:
        """vLLM listens as soon as its engine can serve, and not before."""
        if not accepts(address):
            return
        self.ready = True
        self._read()
        if self._quantized and not any(key.startswith("kernel ") for key in self._shown):
            self._once("no kernel", "vLLM's log names no kernel for the quantized weights.")
        self._once("ready", f"Ready: {address.url}")

    def _once(self, key: str, *lines: str) -> None:
        if key not in self._shown:
            self._shown.add(key)
            self._waiting += lines

    def _show_waiting(self, *, at_once: bool = False) -> None:
        """Only between two lines of the log, or at its end."""
        if self._waiting and (self._line_start or at_once):
            lines, self._waiting = self._waiting, []
            for line in lines:
                self._on_line(line)


def accepts(address: Address) -> bool:
    host = address.local_host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(socket.AF_UNIX if address.path else family) as probe:
        probe.settimeout(CONNECT)
        try:
            probe.connect(address.path or (host, address.port))
        except OSError:
            return False
    return True
