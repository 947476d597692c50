"""Serving settings from YAML or JSON: engine arguments themselves, or containers that hold them.

A container is one of docker-compose or Kubernetes: a mapping with `command` or `args` (and
`entrypoint`, `image`, `env`). Left out: templates, and what a chart would make of them.
"""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

from salient.core.errors import RequestError

from .argument_table import GONE, KINDS, ON_BY_DEFAULT
from .argument_values import nearest, value_of
from .settings import UNKNOWN, SettingsBuilder
from .shell_reader import put_words, read_command
from .shell_words import commands_of

YAML_LIMIT = 2**18  # bytes; PyYAML reads some 50 kB a second
ITEMS_LIMIT = 100_000  # values that a file may hold once its aliases stand for what they name
_DEPTH = 40
_FEW_KEYS = 50  # up to which a misspelled one is looked for
_SGLANG_KEYS = {"model_path", "mem_fraction_static", "context_length"}
_MODEL_KEYS = {"architectures", "model_type"}


def read_yaml(draft: SettingsBuilder, text: str) -> bool:
    """Put the settings of a YAML text into `draft`; False if it holds none.

    Only plain values are made, no objects. Raises RequestError for a text that is no YAML, that
    is too large, or whose aliases stand for too much.
    """
    import yaml

    if len(text) > YAML_LIMIT:
        raise _refused(draft, f"has {len(text):,} characters of YAML; {YAML_LIMIT:,} fit")
    try:
        loader = yaml.SafeLoader(text)
        nodes = []
        while loader.check_node():
            nodes.append(loader.get_node())
        if sum(_size(node, {}) for node in nodes) > ITEMS_LIMIT:
            raise _refused(draft, f"holds more than {ITEMS_LIMIT:,} values")
        documents = [loader.construct_document(node) for node in nodes]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" on line {mark.line + 1}" if mark else ""
        raise _refused(draft, f"is no YAML{where}: {error.problem}") from error
    except (
        yaml.YAMLError,
        *_YAML_ERRORS,
    ) as error:  # PyYAML lets these out for "!!bool x" or "2026-13-45"
        raise _refused(draft, "is no YAML of plain values") from error
    lines = {}
    for node in nodes:
        lines.update(_lines(node))
    return any(read_object(draft, document, text, lines) for document in documents)


_YAML_ERRORS = (
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    RecursionError,
    OverflowError,
)


def read_json(draft: SettingsBuilder, text: str) -> bool:
    """Put the settings of a JSON text into `draft`; False if it holds none."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise _refused(draft, f"is no JSON{where}") from error
    return read_object(draft, data, text, {})


def read_object(draft: SettingsBuilder, data: Any, text: str, lines: dict[str, int]) -> bool:
    """Put a mapping's engine arguments, or its first engine's container, into `draft`."""
    if not isinstance(data, dict):
        return False
    keys = {str(key).replace("-", "_") for key in data}
    if keys & _SGLANG_KEYS:
        draft.engine = "sglang"
    if keys & _MODEL_KEYS and not keys & {"model", "tensor_parallel_size"}:
        raise _refused(draft, "is a model's config.json, not serving settings")
    if _are_arguments(draft, keys):
        _put_arguments(draft, data, text, lines)
        return True
    containers = [one for one in _containers(data, _DEPTH) if _is_engine(one)]
    if not containers:
        return False
    if len(containers) > 1:
        title = f"{len(containers)} containers start an engine; the first was read"
        draft.note("several-commands", "note", title, 1)
    return _put_container(draft, containers[0], text)


def _are_arguments(draft: SettingsBuilder, keys: set[str]) -> bool:
    """Whether at least half of the keys are arguments, or are spelled much like one."""
    names = {draft.name_of(key) for key in keys}
    known = {name for name in names if name in KINDS or name.removeprefix("no_") in KINDS}
    known |= {gone.name for gone in GONE} & names
    alike = known | {name for name in names if len(names) < _FEW_KEYS and nearest(name)}
    return bool(alike) and (2 * len(alike) >= len(names) or "model" in keys)


def _put_arguments(draft: SettingsBuilder, data: dict, text: str, lines: dict[str, int]) -> None:
    for written, value in data.items():
        written = str(written)
        key = draft.name_of(written)
        if key not in KINDS and key.startswith("no_") and KINDS.get(key[3:]) == "flag":
            key, value = key[3:], not value
        line = _line(text, lines, written)
        vllms = draft.kind == "yaml" and draft.engine == "vllm"
        if vllms and value is False and "_" in written and key in ON_BY_DEFAULT:
            # vLLM looks for the option --no-KEY with the key as it is written, and finds none
            title = f"vLLM overlooks `{written}: false`: in its YAML, false needs a key with dashes"
            draft.note("false-overlooked", "warning", title, line, f"{written}: false")
            continue
        draft.put(key, _read_value(draft, key, value), line, written)


def _read_value(draft: SettingsBuilder, key: str, value: Any) -> Any:
    """vLLM makes a word of each value of its YAML, and reads that; JSON's are taken as they are."""
    if isinstance(value, str) and ("{{" in value or "${" in value):
        return UNKNOWN
    if draft.kind == "yaml" and isinstance(value, str) and KINDS.get(key) != "flag":
        return value_of(key, value)
    return value


def _containers(data: Any, depth: int) -> Iterator[dict]:
    """Every mapping in `data` that has a command."""
    if depth == 0:
        return
    if isinstance(data, dict):
        if "command" in data or "args" in data:
            yield data
        for value in data.values():
            yield from _containers(value, depth - 1)
    elif isinstance(data, list):
        for value in data:
            yield from _containers(value, depth - 1)


def _script(container: dict) -> str:
    """Entrypoint, command and arguments, one after another, as a shell would need them.

    An item of a list that is a script of its own, after `sh -c`, stands on its own lines.
    """
    words: list[str] = []
    for key in ("entrypoint", "command", "args"):
        value = container.get(key)
        if isinstance(value, str):
            words.append(value.replace("\\\n", " ").replace("\n", " "))
        elif isinstance(value, list):
            texts = [str(item) for item in value]
            words += [f"\n{text}\n" if _is_script(text) else _quoted(text) for text in texts]
    return " ".join(words)


def _is_script(text: str) -> bool:
    return any(start in text.strip() for start in ("vllm serve ", "api_server ", "launch_server "))


def _is_engine(container: dict) -> bool:
    told = str(container.get("image", "")) + _script(container)
    return "vllm" in told or "sglang" in told


def _put_container(draft: SettingsBuilder, container: dict, text: str) -> bool:
    draft.kind = "command"
    for name, value in _variables(container):
        draft.put_variable(name, value, _line(text, {}, name))
    script = _script(container)
    if not read_command(draft, script):
        draft.engine = "sglang" if "sglang" in str(container.get("image")) else "vllm"
        put_words(draft, next(iter(commands_of(script)), []), {})
    for key, value in draft.values.items():
        written = str(value) if draft.names[key] == "model" else draft.names[key]
        draft.lines[key] = _line(text, {}, written)
    return True


def _quoted(word: str) -> str:
    """A word of a list as a shell would need it; Kubernetes' own $(NAME) stays open."""
    return word if word.startswith("$(") else shlex.quote(word)


def _variables(container: dict) -> Iterator[tuple[str, str]]:
    """`environment` of docker-compose (a mapping or NAME=value), `env` of Kubernetes."""
    for held in (container.get("environment"), container.get("env")):
        if isinstance(held, dict):
            yield from ((str(name), str(value)) for name, value in held.items())
        for item in held if isinstance(held, list) else ():
            if isinstance(item, dict) and "name" in item:
                yield str(item["name"]), str(item.get("value", UNKNOWN))
            elif isinstance(item, str) and "=" in item:
                name, _, value = item.partition("=")
                yield name, value


def _line(text: str, lines: dict[str, int], written: str) -> int:
    """The line where a key stands: YAML's own mark, or the first that holds the word."""
    if written in lines:
        return lines[written]
    found = re.search(rf"(?<![\w-]){re.escape(written)}(?![\w-])", text)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _size(node: Any, seen: dict[int, int]) -> int:
    """How many values a node is once aliases are written out, at most just over the limit."""
    if id(node) in seen:
        return seen[id(node)]
    seen[id(node)] = ITEMS_LIMIT + 1  # a node inside itself has no end
    held = node.value if isinstance(node.value, list) else []
    parts = [part for item in held for part in (item if isinstance(item, tuple) else (item,))]
    seen[id(node)] = min(1 + sum(_size(part, seen) for part in parts), ITEMS_LIMIT + 1)
    return seen[id(node)]


def _lines(node: Any) -> dict[str, int]:
    """Keys of the top mapping, and the line of each."""
    if node is None or not isinstance(node.value, list):
        return {}
    pairs = [item for item in node.value if isinstance(item, tuple)]
    return {str(key.value): key.start_mark.line + 1 for key, _ in pairs}


def _refused(draft: SettingsBuilder, found: str) -> RequestError:
    return RequestError(
        f"{draft.path} {found}. Give the YAML, script or Python file that starts the server, "
        "such as one with `vllm serve MODEL`."
    )
