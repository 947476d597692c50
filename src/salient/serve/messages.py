"""Messages of a server: lines for people, data for programs. Imports no torch."""

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from .http_server import is_loopback
from .options import ServeOptions, ServerEvent

if TYPE_CHECKING:
    from .embedded import ServerInfo


def emit(options: ServeOptions, event: ServerEvent) -> None:
    """Pass `event` to the caller's function, if there is one."""
    if options.on_event:
        options.on_event(event)


def line_emitter(options: ServeOptions) -> Callable[[str], None]:
    """A function that emits single lines."""
    return lambda line: emit(options, ServerEvent([line], {"said": line}))


def command_event(command: list[str], environment: dict[str, str]) -> ServerEvent:
    """vLLM's command as typed in a shell. Only the name of a key's variable is shown."""
    shown = {n: "..." if n.endswith("_API_KEY") else value for n, value in environment.items()}
    variables = [f"{name}={shlex.quote(value)}" for name, value in shown.items()]
    line = " ".join([*variables, *map(shlex.quote, command)])
    return ServerEvent([line], {"command": command, "environment": shown})


def started_event(info: "ServerInfo", options: ServeOptions) -> ServerEvent:
    """The addresses of the embedded engine."""
    lines = [
        f"Serving {info.model} at {info.url}: {info.slots} sequences at once of up to "
        f"{info.context} tokens; {', '.join(info.kernels) or '16-bit'}, {info.how}.",
        f"OpenAI's API is at {info.url}/v1, the explorer at {info.url}/ , Prometheus' figures at "
        f"{info.url}/metrics. Ctrl-C: graceful shutdown.",
    ]
    if not is_loopback(options.host) and options.api_key is None:
        lines.append(
            f"warning: {options.host} can be reached from other machines, and no key is required. "
            "Set --api-key, or SALIENT_API_KEY in the environment."
        )
    data = {"engine": "embedded", "url": info.url, "model": info.model, "slots": info.slots}
    more = {"context": info.context, "kernels": info.kernels, "runs_as": info.how}
    return ServerEvent(lines, {**data, **more, "api_key": options.api_key is not None})
