"""The vLLM engine of `salient serve`: its command; checked, started, watched until it ends."""

import contextlib
import os
import shlex
from collections.abc import Callable
from pathlib import Path

from salient.core.errors import RequestError
from salient.plan.commands import vllm_arguments
from salient.plan.engine_profiles import find_engine
from salient.plan.memory import utilization
from salient.serve.options import ServeOptions

from .locate import ABSENT, VllmInstall, find_vllm
from .log_watch import LogWatch
from .memory_fit import CACHE_VARIABLE, MemoryFit, plan_fit
from .preflight import address_of, check_address, check_checkpoint, check_fit, check_settings
from .supervisor import GRACE, exit_code, exit_lines, run_child
from .target import LaunchContext, launch_context

PLAIN = VllmInstall(("vllm", "serve"))  # for --print-command without vLLM
# load formats that have the option by which vLLM tracks tensors (model_loader/__init__.py)
_TRACKING = ("auto", "hf", "safetensors", "pt", "npcache", "mistral", "fastsafetensors")


def our_arguments(context: LaunchContext, fit: MemoryFit) -> dict[str, list[str]]:
    """Our arguments by vLLM's names, without those of the user."""
    options, user = context.options, context.arguments
    method = context.packing.method if context.packing else ""
    gpu = context.device.gpu if context.device else None
    name = options.served_model_name or Path(os.path.abspath(context.folder)).name
    arguments = {
        "served_model_name": ["--served-model-name", name],
        "host": ["--host", options.host],
        "port": ["--port", str(options.port)],
    }
    arguments |= vllm_arguments(
        context.shape,
        method if user.text("load_format", "auto") in _TRACKING else "",
        context.version,
        dtype=context.dtype,
        context=fit.context,
        utilization=utilization(find_engine("vllm"), gpu) if gpu and gpu.vendor != "cpu" else None,
        tp=options.tensor_parallel_size,
    )
    if options.concurrency is not None:
        arguments["max_num_seqs"] = ["--max-num-seqs", str(options.concurrency)]
    replaced = {*user, *(("host", "port") if "uds" in user else ())}
    return {name: argv for name, argv in arguments.items() if name not in replaced}


def command_line(context: LaunchContext, fit: MemoryFit) -> tuple[list[str], dict[str, str]]:
    """vLLM's command, and its environment variables.

    The key is a variable, as other users of a machine can read command lines.
    """
    start = (context.vllm or PLAIN).start
    ours = [text for argv in our_arguments(context, fit).values() for text in argv]
    variables = {}
    if context.options.api_key:
        variables["VLLM_API_KEY"] = context.options.api_key
    if fit.cache_gib is not None:
        variables[CACHE_VARIABLE] = str(fit.cache_gib)
    return [*start, str(context.folder), *ours, *context.options.vllm_args], variables


def command_of(options: ServeOptions) -> tuple[list[str], dict[str, str]]:
    """The command that would start vLLM here (`vllm serve` without vLLM), and its variables.

    The API key is among the variables: leave it out where they are shown.
    Raises ModelError and RequestError as `run_vllm` does.
    """
    context = launch_context(options, find_vllm(options.vllm_python))
    return command_line(context, plan_fit(context))


def run_vllm(options: ServeOptions, on_line: Callable[[str], None]) -> int:
    """Serve a checkpoint with vLLM until it ends; its exit code, see `exit_code`.

    vLLM's log goes to standard error; `on_line` gets Salient's own lines. Before the
    start raises RequestError (no vLLM, an address in use, invalid arguments), ModelError or
    CheckpointError (a folder that would not load, or would compute wrong numbers), ResourceError
    (too little memory, too few GPUs).
    """
    vllm = find_vllm(options.vllm_python)
    if vllm is None:
        raise RequestError(ABSENT)
    on_line = _ignore_closed(on_line)
    context = launch_context(options, vllm)
    address = address_of(context)
    if address:
        check_address(address)
    on_line(f"Checking {context.folder} before vLLM starts.")
    check_checkpoint(context, on_line)
    fit = plan_fit(context)
    check_fit(fit, on_line)
    command, variables = command_line(context, fit)
    check_settings(context, command, variables, on_line)
    on_line(f"Starting {vllm.label}: {shlex.join(command)}")
    watch = LogWatch(address, quantized=context.quantized, on_line=on_line)
    environment = {**os.environ, **variables}
    if vllm.python:  # programs next to it, such as ninja
        paths = [os.path.dirname(vllm.python), environment.get("PATH", os.defpath)]
        environment["PATH"] = os.pathsep.join(paths)
    status = run_child(
        command,
        environment,
        on_output=watch.feed,
        on_tick=watch.tick,
        grace=GRACE + context.arguments.number("shutdown_timeout", 0),
    )
    errors = watch.end()
    for line in exit_lines(status, errors, ready=watch.ready):
        on_line(line)
    return exit_code(status, errors)


def _ignore_closed(on_line: Callable[[str], None]) -> Callable[[str], None]:
    """A closed terminal, or a pipe without a reader, does not end a server."""

    def safely(line: str) -> None:
        with contextlib.suppress(OSError):
            on_line(line)

    return safely
