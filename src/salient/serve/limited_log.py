"""The server's log: standard error, at most so many bytes a minute, whatever clients send."""

import logging
import sys
import threading
import time

LOGGERS = ("salient.access", "salient.serve", "uvicorn", "asyncio")
BYTES_A_MINUTE = 300_000
BURST_BYTES = 20_000
LONGEST = 8_000  # characters of one record, with its traceback


class LimitedHandler(logging.StreamHandler):
    """Writes records while their bytes fit, then counts them; the next one that fits says how
    many were left out."""

    def __init__(self, stream=None, clock=time.monotonic):
        super().__init__(stream or sys.stderr)
        self._clock, self._last = clock, clock()
        self._room, self._omitted = float(BURST_BYTES), 0
        self._room_lock = threading.Lock()

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if len(line) <= LONGEST else f"{line[:LONGEST]} ... (cut)"

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._with_count(self.format(record))
            if line:
                self.stream.write(line + "\n")
                self.flush()
        except Exception:  # noqa: BLE001  as logging's own handlers
            self.handleError(record)

    def _with_count(self, line: str) -> str:
        """`line`, after the number of records that were left out; "" if it is left out, too."""
        with self._room_lock:
            if self._omitted:
                line = f"({self._omitted} lines of the log were left out)\n{line}"
            size = len(line.encode(errors="replace")) + 1
            now = self._clock()
            self._room += (now - self._last) * BYTES_A_MINUTE / 60
            self._room, self._last = min(self._room, BURST_BYTES), now
            if size > self._room:
                self._omitted += 1
                return ""
            self._room -= size
            self._omitted = 0
        return line


def limit_logs() -> None:
    """Let the server's loggers write through one handler."""
    handler = LimitedHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in LOGGERS:
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
    logging.getLogger("salient.access").setLevel(logging.INFO)
