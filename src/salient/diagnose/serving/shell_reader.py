"""Serving settings from a command line: a shell script, a Dockerfile, a unit file, a list of words.

Knows `vllm serve`, the api_server module, SGLang's launchers, and `docker run` of their images.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from salient.core.model_files import as_object

from .server_arguments import KINDS, SGLANG_FLAGS, value_of
from .settings import UNKNOWN, Engine, ServingSettings
from .shell_tokens import BROKEN, ShellToken, commands_of

Assignment = tuple[str, str, int]  # name, value, line
_MODULES: dict[str, Engine] = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.api_server": "vllm",
    "vllm/entrypoints/openai/api_server.py": "vllm",
    "sglang.launch_server": "sglang",
    "sglang/launch_server.py": "sglang",
}
_IMAGE = re.compile(r"(?:^|/)vllm(?:-openai|-cpu)?[\w-]*(?:[:@]\S*)?$")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_NEGATIVE = re.compile(r"-\d+(?:\.\d+)?")
_SETTERS = ("export", "ENV", "ARG")
_UNIT = re.compile(r"^(ExecStart|Environment)=[-@:+!]*")
_BOOLEANS = ("true", "false", "True", "False", "0", "1", "yes", "no")
_PREFIXES = ("env", "exec", "nohup", "sudo", "time")
_NOT_A_COMMAND = ("pip", "pip3", "uv", "FROM", "image:", "git", "echo", "cd")


@dataclass(frozen=True)
class EngineCommand:
    """A command that starts an engine: its words, and the index of its first argument."""

    tokens: list[ShellToken]
    engine: Engine
    start: int


def read_command(
    settings: ServingSettings, text: str, known: Mapping[str, str] | None = None
) -> bool:
    """Add the first command of `text` that starts an engine; False if there is none.

    Includes variables that the text exports, and those before the command. known: variables that
    are set before it
    """
    variables = dict(known or {})
    commands: list[EngineCommand] = []
    for tokens in map(_unit_tokens, commands_of(text)):
        command = _engine_command(tokens)
        if command is None:
            _set_variables(settings, tokens, variables)
            continue
        if not commands:
            assigned = _assignments(tokens, variables)
            container = _container_variables(tokens[: command.start], variables)
            for name, value, line in (*assigned, *container):
                settings.put_variable(name, value, line)
        commands.append(command)
    if not commands:
        return False
    settings.engine = commands[0].engine
    put_arguments(settings, commands[0].tokens[commands[0].start :], variables)
    _add_notes(settings, text, [command.tokens[0].line for command in commands])
    return True


def put_arguments(
    settings: ServingSettings, tokens: list[ShellToken], variables: dict[str, str]
) -> None:
    """Add arguments, as argparse would read them."""
    texts = [token.expanded(variables) for token in tokens]
    place = 0
    while place < len(tokens):
        token, text = tokens[place], texts[place]
        if text.startswith("-") and len(text) > 1 and not _NEGATIVE.fullmatch(text):
            place += 1 + _put_argument(settings, text, texts[place + 1 :], token.line)
            continue
        if "model" not in settings.values and text.strip() not in ("", "serve", "--"):
            settings.put("model", text, token.line, "model")
        place += 1


def _put_argument(settings: ServingSettings, text: str, rest: list[str], line: int) -> int:
    """Add one argument; returns the number of words of `rest` that belong to it."""
    written, has_value, value = text.partition("=")
    if written.startswith("-O") and len(written) > 2 and not written.startswith("--"):
        written, has_value, value = "-O", "=", value or written[2:]
    base, *path = written.split(".")
    name = settings.name_of(base)
    if path and KINDS.get(name) == "json":
        _put_nested(settings, name, path, value if has_value else "".join(rest[:1]), line)
        return 0 if has_value else 1
    if _is_flag(settings, name) or _is_flag(settings, name.removeprefix("no_")):
        return _put_flag(settings, written, value if has_value else None, rest, line)
    several = KINDS.get(name) == "list"
    values = [value] if has_value else _values(rest, several=several)
    if not values:
        if name in KINDS:
            settings.note("argument-without-value", "error", f"{written} has no value", line)
        settings.put(name, None if name in KINDS else True, line, written)
        return 0
    parsed = [_parsed(name, text) for text in values]
    settings.put(name, parsed if several else parsed[0], line, written)
    return 0 if has_value else len(values)


def _put_flag(
    settings: ServingSettings, written: str, value: str | None, rest: list[str], line: int
) -> int:
    """A flag has no value: argparse refuses one after it, which becomes a note."""
    name = settings.name_of(written)
    flag = name if _is_flag(settings, name) else name.removeprefix("no_")
    following = rest[0] if rest and rest[0] in _BOOLEANS else None
    extra = value if value is not None else following
    on = (name == flag) == (extra is None or extra.lower() not in ("false", "0", "no"))
    settings.put(flag, on, line, f"--{flag.replace('_', '-')}")
    if extra is not None:
        title, text = f"{written} takes no value", f"{written} {extra}"
        settings.note("flag-with-value", "error", title, line, text)
    return 0 if following is None or value is not None else 1


def _put_nested(
    settings: ServingSettings, name: str, path: list[str], text: str, line: int
) -> None:
    """--name.key value, a part of a JSON object."""
    value: Any = _parsed(name, text)
    for key in reversed(path):
        value = {key.rstrip("+"): value}
    before = as_object(settings.values.pop(name, None))
    merged = {**before, **value} if before else value
    settings.put(name, merged, line, f"--{name.replace('_', '-')}")


def _values(rest: list[str], *, several: bool) -> list[str]:
    """The words up to the next option, or the first of them."""
    tokens = itertools.takewhile(lambda t: not t.startswith("-") or _NEGATIVE.fullmatch(t), rest)
    return list(tokens if several else itertools.islice(tokens, 1))


def _parsed(name: str, text: str) -> Any:
    return text if text == UNKNOWN else value_of(name, text)


def _is_flag(settings: ServingSettings, name: str) -> bool:
    if settings.engine == "sglang":
        return name in SGLANG_FLAGS
    return KINDS.get(name) == "flag"


def _engine_command(tokens: list[ShellToken]) -> EngineCommand | None:
    """The engine that a command starts, None for other commands."""
    if not any("vllm" in token.raw or "sglang" in token.raw for token in tokens):
        return None
    texts = [token.text for token in tokens]
    if texts[0] in _NOT_A_COMMAND:
        return None
    for place, text in enumerate(texts):
        program = text.rsplit("/", 1)[-1]
        if program in ("vllm", "sglang") and texts[place + 1 : place + 2] == ["serve"]:
            return EngineCommand(tokens, "vllm" if program == "vllm" else "sglang", place + 2)
        for module, engine in _MODULES.items():
            if text == module or text.endswith("/" + module):
                return EngineCommand(tokens, engine, place + 1)
    image = next((i for i, text in enumerate(texts) if i and _IMAGE.search(text)), 0)
    return EngineCommand(tokens, "vllm", image + 1) if "run" in texts[:image] else None


def _unit_tokens(tokens: list[ShellToken]) -> list[ShellToken]:
    """A systemd line's words: `ExecStart=vllm` is the program, `Environment=A=b` sets A."""
    match = _UNIT.match(tokens[0].raw)
    if not match:
        return tokens
    rest = ShellToken(tokens[0].raw[match.end() :], tokens[0].line)
    setter = [ShellToken("ENV", rest.line)] if match[1] == "Environment" else []
    return [*setter, rest, *tokens[1:]]


def _assignments(tokens: list[ShellToken], variables: dict[str, str]) -> Iterator[Assignment]:
    """The `NAME=value` words at the beginning."""
    for token in tokens:
        name, _, value = token.raw.partition("=")
        if _ASSIGNMENT.match(token.raw):
            yield name, ShellToken(value, token.line).expanded(variables), token.line
        elif token.raw not in _PREFIXES:
            return


def _container_variables(
    tokens: list[ShellToken], variables: dict[str, str]
) -> Iterator[Assignment]:
    """The container's variables of `docker run -e NAME=value`."""
    for option, token in itertools.pairwise(tokens):
        name, equals, value = token.expanded(variables).partition("=")
        if option.raw in ("-e", "--env") and equals:
            yield name, value, token.line


def _set_variables(
    settings: ServingSettings, tokens: list[ShellToken], variables: dict[str, str]
) -> None:
    """Collect the assignments of a line, and add exported ones to the settings."""
    exported = tokens[0].raw in _SETTERS
    assigned = tokens[1:] if exported else tokens
    if exported and len(assigned) == 2 and "=" not in assigned[0].raw:  # ENV NAME value
        assigned = [ShellToken(f"{assigned[0].raw}={assigned[1].raw}", assigned[0].line)]
    # a unit file quotes the whole: "A=b"
    bare = [w if w.raw[:1] not in ("'", '"') else ShellToken(w.text, w.line) for w in assigned]
    for name, value, line in _assignments(bare, variables):
        variables[name] = value
        if exported:
            settings.put_variable(name, value, line)


def _add_notes(settings: ServingSettings, text: str, lines: list[int]) -> None:
    """Notes on broken commands, on the `lines` of several commands, and on another file."""
    for match in itertools.islice(BROKEN.finditer(text), 5):
        line = text.count("\n", 0, match.start()) + 1
        title = "A blank after the backslash ends the command: delete it, or the rest is lost"
        settings.note("broken-continuation", "error", title, line)
    if len(lines) > 1:
        title = f"{len(lines)} commands start an engine; the first, on line {lines[0]}, was read"
        others = f"others on lines {', '.join(map(str, lines[1:6]))}"
        settings.note("several-commands", "note", title, lines[1], others)
    file = settings.values.get("config")
    if isinstance(file, str):
        title = f"{file} holds more settings; check it too: salient doctor --config {file}"
        settings.note("settings-elsewhere", "note", title, settings.lines["config"])
