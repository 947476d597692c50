"""What a server tells whoever started it: lines for people, data for programs. Imports no torch."""

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .http_server import is_loopback
from .options import ServeOptions

if TYPE_CHECKING:
    from .embedded import ServerInfo

Told = tuple[list[str], dict[str, Any]]


def said(heard: Callable[[list[str], dict[str, Any]], None]) -> Callable[[str], None]:
    """A listener to single lines."""
    return lambda line: heard([line], {"said": line})


def command_told(command: list[str], environment: dict[str, str]) -> Told:
    """vLLM's command as one would type it. Of a key only the variable's name is told."""
    shown = {n: "..." if n.endswith("_API_KEY") else value for n, value in environment.items()}
    words = [f"{name}={shlex.quote(value)}" for name, value in shown.items()]
    line = " ".join([*words, *map(shlex.quote, command)])
    return [line], {"command": command, "environment": shown}


def embedded_told(facts: "ServerInfo", request: ServeOptions) -> Told:
    """Where the embedded engine answers, and what to try."""
    lines = [
        f"Serving {facts.model} at {facts.url}: {facts.slots} sequences at once of up to "
        f"{facts.context} tokens; {', '.join(facts.kernels) or '16-bit'}, {facts.how}.",
        f"OpenAI's API is at {facts.url}/v1, the explorer at {facts.url}/ , Prometheus' figures at "
        f"{facts.url}/metrics. Ctrl-C ends it when what runs has ended.",
    ]
    if not is_loopback(request.host) and request.api_key is None:
        lines.append(
            f"warning: {request.host} can be reached from other machines, and no key is asked for. "
            "Give --api-key, or SALIENT_API_KEY in the environment."
        )
    data = {"engine": "embedded", "url": facts.url, "model": facts.model, "slots": facts.slots}
    more = {"context": facts.context, "kernels": facts.kernels, "runs_as": facts.how}
    return lines, {**data, **more, "api_key": request.api_key is not None}
