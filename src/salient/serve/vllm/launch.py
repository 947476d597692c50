"""The engine vLLM of `salient serve`: found, checked, started, watched until it ends."""

import contextlib
import os
import shlex
from collections.abc import Callable

from salient.core.errors import RequestError
from salient.serve.options import ServeOptions

from .command import words_of
from .ending import ending, exit_code
from .locate import ABSENT, VllmInstall, find_vllm
from .log_watch import LogWatch
from .memory_fit import plan_fit
from .preflight import address_of, check_address, check_checkpoint, check_fit, check_settings
from .supervisor import GRACE, run_child
from .target import LaunchContext, survey

__all__ = ["VllmInstall", "command_of", "find_vllm", "run_vllm"]


def command_of(request: ServeOptions) -> tuple[list[str], dict[str, str]]:
    """The command that would start vLLM here, and the variables that it needs besides.

    `vllm serve` stands for it where there is no vLLM. The API key is among the variables alone:
    whoever shows them must leave it out.
    Raises ModelError and RequestError as `run_vllm` does.
    """
    found = survey(request, find_vllm(request.vllm_python))
    return words_of(found, plan_fit(found))


def run_vllm(request: ServeOptions, said: Callable[[str], None]) -> int:
    """Serve a checkpoint with vLLM until it ends, by a signal or by itself; its exit code, 128 and
    the signal's number if one killed it, 1 where it ended with 0 because its engine had died.

    Its log goes to standard error unchanged; `said` gets our own sentences, a line each. Before it
    is started raises RequestError (no vLLM, an address that is taken, words that cannot be),
    ModelError or CheckpointError (a folder that would not load, or would compute wrong numbers),
    ResourceError (memory or GPUs that do not suffice).
    """
    vllm = find_vllm(request.vllm_python)
    if vllm is None:
        raise RequestError(ABSENT)
    said = _though_nobody_listens(said)
    found = survey(request, vllm)
    address = address_of(found)
    if address:
        check_address(address)
    said(f"Checking {found.folder} before vLLM starts.")
    check_checkpoint(found, said)
    fit = plan_fit(found)
    check_fit(fit, said)
    command, variables = words_of(found, fit)
    check_settings(found, command, variables, said)
    said(f"Starting {vllm.words}: {shlex.join(command)}")
    watch = LogWatch(address, quantized=_quantized(found), said=said)
    ended = run_child(
        command,
        _environment(vllm, variables),
        heard=watch.heard,
        tick=watch.tick,
        grace=GRACE + found.given.number("shutdown_timeout", 0),
    )
    errors = watch.end()
    for line in ending(ended, errors, ready=watch.ready):
        said(line)
    return exit_code(ended, errors)


def _though_nobody_listens(said: Callable[[str], None]) -> Callable[[str], None]:
    """A terminal that was closed, or a pipe that nobody reads, does not end a server."""

    def told(line: str) -> None:
        with contextlib.suppress(OSError):
            said(line)

    return told


def _quantized(found: LaunchContext) -> bool:
    return found.packing is not None and found.packing.method != "none"


def _environment(vllm: VllmInstall, variables: dict[str, str]) -> dict[str, str]:
    """Ours with `variables`; programs beside its Python, such as ninja, are found by it."""
    made = {**os.environ, **variables}
    if vllm.python:
        folder = os.path.dirname(vllm.python)
        made["PATH"] = os.pathsep.join([folder, made.get("PATH", os.defpath)])
    return made
