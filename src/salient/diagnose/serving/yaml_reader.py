"""Serving settings from YAML or JSON: engine arguments themselves, or containers that hold them.

A container is one of docker-compose or Kubernetes: a mapping with `command` or `args` (and
`entrypoint`, `image`, `env`). Templates are UNKNOWN.
"""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any, cast

from salient.core.errors import RequestError
from salient.core.model_files import as_list, as_object

from .server_arguments import KINDS, ON_BY_DEFAULT, REMOVED, nearest, value_of
from .settings import UNKNOWN, ServingSettings
from .shell_reader import put_arguments, read_command
from .shell_tokens import commands_of

YAML_LIMIT = 2**18  # bytes; PyYAML reads some 50 kB a second
ITEMS_LIMIT = 100_000  # values of a file once its aliases are expanded
_DEPTH = 40
_FEW_KEYS = 50  # up to which a misspelled one is looked for
_SGLANG_KEYS = {"model_path", "mem_fraction_static", "context_length"}
# $(NAME) of Kubernetes; ${NAME} and ${NAME:-default} of compose
_REFERENCE = re.compile(r"\$(?:\((\w+)\)|\{(\w+)(?::?-([^}]*))?\})")
_MODEL_KEYS = {"architectures", "model_type"}
# PyYAML lets these out for "!!bool x" or "2026-13-45"
_YAML_ERRORS = (
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    RecursionError,
    OverflowError,
)


def read_yaml(settings: ServingSettings, text: str) -> bool:
    """Add the settings of a YAML text; False if it holds none.

    Only plain values are made, no objects. Raises RequestError for a text that is no YAML, that
    is too large, or whose aliases expand to too much.
    """
    import yaml

    if len(text) > YAML_LIMIT:
        raise _refused(settings, f"has {len(text):,} characters of YAML; {YAML_LIMIT:,} fit")
    try:
        loader: Any = yaml.SafeLoader(text)
        nodes: list[Any] = []
        while loader.check_node():
            nodes.append(loader.get_node())
        if sum(_size(node, {}) for node in nodes) > ITEMS_LIMIT:
            raise _refused(settings, f"holds more than {ITEMS_LIMIT:,} values")
        documents: list[Any] = [loader.construct_document(node) for node in nodes]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" on line {mark.line + 1}" if mark else ""
        raise _refused(settings, f"is no YAML{where}: {error.problem}") from error
    except (yaml.YAMLError, *_YAML_ERRORS) as error:
        raise _refused(settings, "is no YAML of plain values") from error
    lines: dict[str, int] = {}
    for node in nodes:
        lines |= _lines(node)
    return any(_read_object(settings, document, text, lines) for document in documents)


def read_json(settings: ServingSettings, text: str) -> bool:
    """Add the settings of a JSON text; False if it holds none."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise _refused(settings, f"is no JSON{where}") from error
    return _read_object(settings, data, text, {})


def _read_object(settings: ServingSettings, data: Any, text: str, lines: dict[str, int]) -> bool:
    """Add a mapping's engine arguments, or its first engine's container."""
    data = as_object(data)
    keys = {str(key).replace("-", "_") for key in data}
    if keys & _SGLANG_KEYS:
        settings.engine = "sglang"
    if keys & _MODEL_KEYS and not keys & {"model", "tensor_parallel_size"}:
        raise _refused(settings, "is a model's config.json, not serving settings")
    if _are_arguments(settings, keys):
        _put_arguments(settings, data, text, lines)
        return True
    containers = [one for one in _containers(data, _DEPTH) if _is_engine(one)]
    if len(containers) > 1:
        title = f"{len(containers)} containers start an engine; the first was read"
        settings.note("several-commands", "note", title, 1)
    for container in containers[:1]:
        _put_container(settings, container, text)
    return bool(containers)


def _are_arguments(settings: ServingSettings, keys: set[str]) -> bool:
    """Whether at least half of the keys are arguments, or are spelled much like one."""
    names = {settings.name_of(key) for key in keys}
    alike = {
        name
        for name in names
        if name in KINDS
        or name.removeprefix("no_") in KINDS
        or name in REMOVED
        or (len(names) < _FEW_KEYS and nearest(name))
    }
    return bool(alike) and (2 * len(alike) >= len(names) or "model" in keys)


def _put_arguments(
    settings: ServingSettings, data: dict[str, Any], text: str, lines: dict[str, int]
) -> None:
    for name, value in data.items():
        written = str(name)
        key = settings.name_of(written)
        if key not in KINDS and key.startswith("no_") and KINDS.get(key[3:]) == "flag":
            key, value = key[3:], not value
        line = _line(text, lines, written)
        vllm_yaml = settings.kind == "yaml" and settings.engine == "vllm"
        if vllm_yaml and value is False and "_" in written and key in ON_BY_DEFAULT:
            # vLLM looks for the option --no-KEY with the key as it is written, and finds none
            title = f"vLLM overlooks `{written}: false`: in its YAML, false needs a key with dashes"
            settings.note("false-overlooked", "warning", title, line, f"{written}: false")
            continue
        settings.put(key, _read_value(settings, key, value), line, written)


def _read_value(settings: ServingSettings, key: str, value: Any) -> Any:
    """vLLM parses the text of each YAML value; JSON's values are taken as they are."""
    if isinstance(value, str) and ("{{" in value or "${" in value):
        return UNKNOWN
    if settings.kind == "yaml" and isinstance(value, str) and KINDS.get(key) != "flag":
        return value_of(key, value)
    return value


def _containers(data: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Every mapping in `data` that has a command."""
    if depth and {"command", "args"} & as_object(data).keys():
        yield data
    nested = [*as_object(data).values(), *as_list(data)] if depth else []
    for value in nested:
        yield from _containers(value, depth - 1)


def _script(container: dict[str, Any], variables: dict[str, str]) -> str:
    """Entrypoint, command and arguments, one after another, quoted for a shell.

    An item of a list that is a script of its own, after `sh -c`, gets its own lines. Variables of
    the container are resolved, as Kubernetes does.
    """
    parts: list[str] = []
    for key in ("entrypoint", "command", "args"):
        value = container.get(key)
        if isinstance(value, str):
            parts.append(value.replace("\\\n", " ").replace("\n", " "))
        else:
            texts = [_resolved(str(item), variables) for item in as_list(value)]
            parts += [f"\n{text}\n" if _is_script(text) else _quoted(text) for text in texts]
    return " ".join(parts)


def _resolved(text: str, variables: dict[str, str]) -> str:
    """`text` with $(NAME) and ${NAME} of the container; others stay as they are."""

    def value(match: re.Match[str]) -> str:
        name, default = match[1] or match[2], match[3]
        known = variables.get(name, default)
        return match[0] if known in (None, UNKNOWN) else known

    return _REFERENCE.sub(value, text)


def _is_script(text: str) -> bool:
    return any(start in text.strip() for start in ("vllm serve ", "api_server ", "launch_server "))


def _is_engine(container: dict[str, Any]) -> bool:
    text = str(container.get("image", "")) + _script(container, {})
    return "vllm" in text or "sglang" in text


def _put_container(settings: ServingSettings, container: dict[str, Any], text: str) -> None:
    settings.kind = "command"
    variables = dict(_variables(container))
    for name, value in variables.items():
        settings.put_variable(name, value, _line(text, {}, name))
    script = _script(container, variables)
    if not read_command(settings, script, variables):
        settings.engine = "sglang" if "sglang" in str(container.get("image")) else "vllm"
        commands = commands_of(script)
        put_arguments(settings, commands[0] if commands else [], variables)
    for key, value in settings.values.items():
        written = str(value) if settings.names[key] == "model" else settings.names[key]
        settings.lines[key] = _line(text, {}, written)


def _quoted(word: str) -> str:
    """A word of a list, quoted for a shell; one with an unknown variable stays open to it."""
    return f'"{word}"' if _REFERENCE.search(word) else shlex.quote(word)


def _variables(container: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """`environment` of docker-compose (a mapping or NAME=value), `env` of Kubernetes."""
    for variables in (container.get("environment"), container.get("env")):
        yield from ((str(name), str(value)) for name, value in as_object(variables).items())
        for item in as_list(variables):
            if name := as_object(item).get("name"):
                yield str(name), str(item.get("value", UNKNOWN))
            elif isinstance(item, str) and "=" in item:
                name, _, value = item.partition("=")
                yield name, value


def _line(text: str, lines: dict[str, int], written: str) -> int:
    """The line of a key: YAML's own mark, or the first line with the word."""
    if written in lines:
        return lines[written]
    match = re.search(rf"(?<![\w-]){re.escape(written)}(?![\w-])", text)
    return text.count("\n", 0, match.start()) + 1 if match else 1


def _size(node: Any, sizes: dict[int, int]) -> int:
    """The number of a node's values with aliases expanded, at most just over the limit."""
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = ITEMS_LIMIT + 1  # a node inside itself has no end
    parts = [part for item in as_list(node.value) for part in _pair(item)]
    sizes[id(node)] = min(1 + sum(_size(part, sizes) for part in parts), ITEMS_LIMIT + 1)
    return sizes[id(node)]


def _lines(node: Any) -> dict[str, int]:
    """The keys of the top mapping, and the line of each."""
    pairs = [_pair(item) for item in as_list(node and node.value)]
    keys = [pair[0] for pair in pairs if len(pair) == 2]
    return {str(key.value): key.start_mark.line + 1 for key in keys}


def _pair(item: Any) -> tuple[Any, ...]:
    """The key and value of a mapping's item, or the item of a list."""
    return cast("tuple[Any, ...]", item) if isinstance(item, tuple) else (item,)


def _refused(settings: ServingSettings, fault: str) -> RequestError:
    return RequestError(
        f"{settings.path} {fault}. Give the YAML, script or Python file that starts the server, "
        "such as one with `vllm serve MODEL`."
    )
