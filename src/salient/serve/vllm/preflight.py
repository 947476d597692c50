"""Checks before vLLM starts: the address, the checkpoint's files, memory, the settings.

vLLM itself would find most faults after half a minute of imports, and some never: it loads a
checkpoint that lacks a tensor, and shares a port with another vLLM of the same user.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from salient.core.errors import CheckpointError, RequestError, ResourceError
from salient.diagnose.checkpoint.check import read_checkpoint
from salient.diagnose.checkpoint.companion_files import REPLACEABLE
from salient.diagnose.engine_support import judge_kernel
from salient.diagnose.env_vars import relevant
from salient.diagnose.finding import Finding
from salient.diagnose.report import finding_lines
from salient.diagnose.serving.serving_rules import judge_settings
from salient.plan.commands import OUR_METHODS, TRACK_WEIGHTS
from salient.serve.http_server import bind

from .memory_fit import MemoryFit
from .target import LaunchContext, settings_of

SHOWN = ("error", "slow", "warning")
MAX_REFUSED = 5  # findings of a refusal that are shown
# judged by memory_fit.py, which knows the free memory
_SKIPPED = ("context-no-room",)
_LOCAL = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class Address:
    """Where the server listens. path: of a Unix socket, "" for host and port"""

    host: str
    port: int
    path: str = ""

    @property
    def local_host(self) -> str:
        return _LOCAL.get(self.host, self.host).strip("[]")

    @property
    def url(self) -> str:
        """ "http://127.0.0.1:8000"."""
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.local_host}]" if ":" in self.local_host else self.local_host
        return f"http://{host}:{self.port}"


def address_of(context: LaunchContext) -> Address | None:
    """Where this vLLM will listen; None for a further machine of several, which does not."""
    user, options = context.arguments, context.options
    if user.get("headless"):
        return None
    host, port = user.text("host", options.host), user.number("port", options.port)
    return Address(host, port, user.text("uds", ""))


def check_address(address: Address) -> None:
    if address.path:
        return
    try:
        bind(address.host.strip("[]"), address.port).close()
    except RequestError as error:
        raise RequestError(f"{error} vLLM was not started.") from None


def check_checkpoint(context: LaunchContext, on_line: Callable[[str], None]) -> None:
    """Check every header, scale and zero.

    Raises CheckpointError for faults that stop vLLM or give wrong numbers, ModelError for
    unreadable files.
    """
    reading = read_checkpoint(context.folder)
    errors = [f for f in reading.findings if f.level == "error" and f.certainty != "possible"]
    faults = [fault for fault in errors if fault.id not in REPLACEABLE]
    if faults:
        lines = [line for fault in faults[:MAX_REFUSED] for line in finding_lines(fault)]
        more = len(faults) - MAX_REFUSED
        lines += [f"and {more} more"] * (more > 0)
        raise CheckpointError(
            f"{context.folder} would not load, or would compute wrong numbers; vLLM was not "
            "started. Found:\n" + "\n".join(lines) + f"\nAll of it: salient doctor {context.folder}"
        )
    show(reading.findings, on_line)
    if reading.modules:
        counted = f"{reading.modules} quantized linears, {reading.method}"
        on_line(f"Checkpoint: {counted}, no faults{' of its weights' if errors else ''}.")
    gpu = context.device.gpu if context.device and context.device.gpu.vendor != "cpu" else None
    if gpu:
        version = context.known_version
        show(judge_kernel(context.config, reading, gpu, context.tp, version), on_line)


def check_fit(fit: MemoryFit, on_line: Callable[[str], None]) -> None:
    if fit.refusal:
        raise ResourceError(f"{fit.refusal}\nvLLM was not started.")
    for line in fit.lines:
        on_line(line)


def check_settings(
    context: LaunchContext,
    command: list[str],
    variables: dict[str, str],
    on_line: Callable[[str], None],
) -> None:
    """Show what the arguments mean for speed and safety. vLLM itself checks them at its start."""
    start = len(context.vllm.start) if context.vllm else 2
    environment = relevant({**os.environ, **variables})
    settings = settings_of(["m", *command[start + 1 :]], environment)
    gpu = context.device.gpu if context.device else None
    findings = judge_settings(
        settings, gpu=gpu, version=context.known_version, config=context.config
    )
    show((finding for finding in findings if finding.id not in _SKIPPED), on_line)
    if warning := untracked(context):
        on_line(warning)


def untracked(context: LaunchContext) -> str:
    """A warning if the user's arguments keep vLLM from tracking tensors, else ""."""
    method = context.packing.method if context.packing else ""
    config = context.arguments.get("model_loader_extra_config")
    tracked = isinstance(config, dict) and config.keys() & TRACK_WEIGHTS
    if method not in OUR_METHODS or config is None or tracked:
        return ""
    (key,) = TRACK_WEIGHTS
    return (
        "Your --model-loader-extra-config replaces ours, so vLLM will not report a missing "
        f'tensor. Add "{key}": true to it.'
    )


def show(findings: Iterable[Finding], on_line: Callable[[str], None]) -> None:
    """Show errors and warnings, the worst first."""
    for finding in findings:
        if finding.level in SHOWN:
            for line in finding_lines(finding):
                on_line(line)
