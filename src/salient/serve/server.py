"""The verb `serve`: chooses the engine, quantizes the demo model on its first use, and serves.

Imports torch only where it is needed.
"""

import shlex
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from salient.core.errors import MissingExtra, RequestError

from .deployment import with_deployment
from .http_server import bind
from .options import ServeOptions, ServerEvent

if TYPE_CHECKING:
    from .embedded import ExtendApp

ENGINES = ("auto", "embedded", "vllm")
NEEDED = ("fastapi", "uvicorn", "prometheus_client", "llguidance")  # by the embedded engine


def run_server(options: ServeOptions, extend: "ExtendApp | None" = None) -> int:
    """Serve until a signal; the exit code: 0, or that of a vLLM that ended by itself.

    extend: adds routes to the app of the embedded engine

    Raises SalientError if the server cannot start.
    """
    options = with_deployment(options)
    if chosen_engine(options) == "vllm":
        return _serve_vllm(_with_checkpoint(options))
    check_extra()
    with bind(options.host, options.port) as listening:
        options = _with_checkpoint(options)
        from .embedded import serve_embedded

        serve_embedded(options, listening, extend)
    return 0


def chosen_engine(options: ServeOptions) -> str:
    """'embedded' or 'vllm'. Raises RequestError for options that exclude each other."""
    engine, reference = options.engine, options.reference
    if engine not in ENGINES:
        raise RequestError(f"Unknown engine {engine!r}. Use one of {', '.join(ENGINES)}.")
    for_vllm = bool(options.vllm_python or options.vllm_args or options.print_command)
    if engine == "embedded" or (engine == "auto" and reference):
        if for_vllm:
            reason = "" if engine == "embedded" else " (--reference needs it)"
            raise RequestError(
                "--vllm-python, --print-command and arguments after -- are for vLLM, but the "
                f"embedded engine was requested{reason}. Leave them out, or use --engine vllm."
            )
        return "embedded"
    if reference:
        raise RequestError(
            "--reference is shown by the explorer, which runs only with the embedded engine. "
            "Leave it out, or use --engine embedded."
        )
    if engine == "vllm" or for_vllm:
        return "vllm"
    from salient.serve.vllm.locate import find_vllm

    return "embedded" if find_vllm(None) is None else "vllm"


def check_extra() -> None:
    """Raise MissingExtra unless the libraries of the embedded engine's server are installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"The embedded engine's server needs the extra 'serve' ({', '.join(missing)} cannot be "
            "imported): pip install 'salient-awq[serve]'"
        )


def _with_checkpoint(options: ServeOptions) -> ServeOptions:
    """The options with the demo model's checkpoint in its place, quantized on the first use."""
    from salient.models.demo import demo_checkpoint
    from salient.shapes.resolve import DEMO_NAME

    if options.checkpoint == DEMO_NAME:
        folder = demo_checkpoint()
        if not (folder / "salient.json").exists():
            from salient.awq.options import QuantizeOptions
            from salient.awq.quantize import quantize_model

            line = f"Quantizing {DEMO_NAME} into {folder}, once; it takes a minute or two."
            options.emit(ServerEvent([line], {}))
            # groups of 64: its width of 576 takes no larger
            demo = QuantizeOptions(
                DEMO_NAME, folder, scheme="w4-g64", samples=16, progress=options.progress
            )
            quantize_model(demo)
        options = replace(options, checkpoint=str(folder))
    options.progress.close()  # a server runs until a signal
    return options


def _serve_vllm(options: ServeOptions) -> int:
    from salient.models.model_folder import model_folder
    from salient.serve.vllm.launch import command_of, run_vllm

    options = replace(options, checkpoint=str(model_folder(str(options.checkpoint))))
    if options.print_command:
        options.emit(command_event(*command_of(options)))
        return 0
    return run_vllm(options, lambda line: options.emit(ServerEvent([line], {"said": line})))


def command_event(command: list[str], environment: dict[str, str]) -> ServerEvent:
    """vLLM's command as typed in a shell. Only the name of a key's variable is shown."""
    shown = {n: "..." if n.endswith("_API_KEY") else value for n, value in environment.items()}
    variables = [f"{name}={shlex.quote(value)}" for name, value in shown.items()]
    line = " ".join([*variables, *map(shlex.quote, command)])
    return ServerEvent([line], {"command": command, "environment": shown})
