"""How vLLM ended, in words and as an exit code."""

import signal

from salient.diagnose.finding import Finding
from salient.diagnose.report import finding_lines

from .supervisor import ExitStatus

CAUSES = 3  # that are told, at most
_FAULTS = {
    "SIGSEGV": "a fault in its native code, or in a driver's",
    "SIGABRT": "its native code gave up; its last lines say why",
    "SIGBUS": "often /dev/shm is too small: in Docker give --ipc=host or --shm-size",
    "SIGILL": "this build uses an instruction that this processor lacks",
}
_KILLED = (
    "Linux does so for want of memory (`dmesg | grep -i 'killed process'` tells), as does a "
    "container's limit; or somebody did."
)


def exit_code(ended: ExitStatus, errors: list[Finding]) -> int:
    """The child's own, 128 and the signal's number if one killed it; 1 for the 0 with which vLLM
    ends when its engine has died, for what restarts servers goes by it."""
    if ended.code == 0 and ended.stop.signal is None and errors:
        return 1
    return ended.code if ended.code >= 0 else 128 - ended.code


def ending(ended: ExitStatus, errors: list[Finding], *, ready: bool) -> list[str]:
    """Sentences for people. errors: of the log; ready: whether the server had been."""
    lines, stop = [_how(ended, exit_code(ended, errors), ready=ready)], ended.stop
    if stop.signal is None:
        for finding in errors[:CAUSES]:
            lines += finding_lines(finding)
        if not errors and ended.code > 0:
            lines.append("Its log has no line whose cause is known here: read its last lines.")
    if ended.left:
        several = "es" * (ended.left != 1)
        lines.append(f"It left {ended.left} process{several} behind; they were ended.")
    return lines


def _how(ended: ExitStatus, code: int, *, ready: bool) -> str:
    if ended.stop.killed:
        return f"vLLM was killed (exit code {code}): {ended.stop.killed}."
    if ended.stop.signal is not None:
        return f"vLLM ended after {_named(ended.stop.signal)} (exit code {code})."
    if ended.code < 0:
        name = _named(-ended.code)
        if name in _FAULTS:
            return f"vLLM crashed with {name} (exit code {code}): {_FAULTS[name]}."
        why = f" {_KILLED}" if name == "SIGKILL" else ""
        return f"vLLM was killed by {name} (exit code {code}), and not by Salient.{why}"
    if code and not ready:
        return f"vLLM did not start (exit code {code})."
    if code:
        return f"vLLM stopped by itself (exit code {ended.code})."
    return "vLLM ended by itself (exit code 0)."


def _named(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
