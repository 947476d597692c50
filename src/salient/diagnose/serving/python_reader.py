"""Serving settings from Python source: calls such as LLM(...), or a dict of engine arguments.

The source is parsed, never run. Left out: values that are computed; they are kept as unknown.
"""

import ast
import shlex
import warnings
from collections.abc import Iterator
from typing import Any

from salient.core.errors import RequestError

from .argument_table import KINDS
from .settings import UNKNOWN, Engine, SettingsBuilder
from .shell_reader import put_words, read_command
from .shell_words import ShellWord

_CALLS: dict[str, Engine] = {
    "LLM": "vllm",
    "EngineArgs": "vllm",
    "AsyncEngineArgs": "vllm",
    "Engine": "sglang",
    "ServerArgs": "sglang",
}
# arguments of LLM's that no server has
_OF_LLM = ("self", "chat_template")
_MOST_ITEMS = 1000
_LEAST_KNOWN = 2  # known names that make a dict one of engine arguments


def read_python(draft: SettingsBuilder, text: str) -> bool:
    """Put the first engine's arguments of the source into `draft`; False if there are none.

    Raises RequestError for a text that is no Python.
    """
    tree = _parsed(draft, text)
    named = _named_values(tree)
    _put_variables(draft, tree, named)
    calls = list(_engine_calls(tree))
    if calls:
        draft.engine = _CALLS[_called(calls[0])]
        _put_call(draft, calls[0], named)
        if len(calls) > 1:
            title = f"{len(calls)} calls make an engine; the first was read"
            draft.note("several-commands", "note", title, calls[1].lineno)
        return True
    return _read_dict(draft, tree, named) or _read_words(draft, tree, named)


def _parsed(draft: SettingsBuilder, text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a string of theirs
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise RequestError(
            f"{draft.path} is no Python that can be read{where}. Correct it, or give the command "
            "line or YAML file that starts the server."
        ) from error


def _named_values(tree: ast.Module) -> dict[str, ast.expr]:
    """What plain assignments anywhere in the file give to names; the last one counts."""
    named: dict[str, ast.expr] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name):
            named[target.id] = value
    return named


def _value(node: ast.expr, named: dict[str, ast.expr]) -> Any:
    """The literal that `node` is, or that the name it is was given; else UNKNOWN."""
    if isinstance(node, ast.Name) and node.id in named:
        node = named[node.id]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == "torch" else UNKNOWN  # torch.float16
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return UNKNOWN


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _engine_calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that make an engine, in the order of their lines; not of other packages' LLM."""
    foreign = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and not (node.module or "").startswith(("vllm", "sglang"))
        for alias in node.names
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda one: (one.lineno, one.col_offset)):
        name = _called(call)
        if name in _CALLS and name not in foreign and (call.keywords or call.args):
            yield call


def _put_call(draft: SettingsBuilder, call: ast.Call, named: dict[str, ast.expr]) -> None:
    if call.args and not isinstance(call.args[0], ast.Starred):
        draft.put("model", _value(call.args[0], named), call.args[0].lineno, "model")
    for keyword in call.keywords:
        if keyword.arg is None:  # **name
            _put_expanded(draft, keyword.value, named)
        elif keyword.arg not in _OF_LLM:
            value = _value(keyword.value, named)
            draft.put(draft.name_of(keyword.arg), value, keyword.value.lineno, keyword.arg)


def _put_expanded(draft: SettingsBuilder, node: ast.expr, named: dict[str, ast.expr]) -> None:
    """Arguments that come as **name, or as **{...}."""
    if isinstance(node, ast.Name):
        node = named.get(node.id, node)
    for key, value in _pairs(node):
        draft.put(draft.name_of(key), _value(value, named), value.lineno, key)


def _pairs(node: ast.expr) -> list[tuple[str, ast.expr]]:
    """The items of a dict display or of a `dict(a=1)`; keys that are text alone."""
    if isinstance(node, ast.Dict):
        return [
            (key.value, value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        ]
    if isinstance(node, ast.Call) and _called(node) == "dict":
        return [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg]
    return []


def _read_dict(draft: SettingsBuilder, tree: ast.Module, named: dict[str, ast.expr]) -> bool:
    """The first dict that holds engine arguments."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Dict | ast.Call)]
    for node in sorted(nodes, key=lambda one: (one.lineno, one.col_offset)):
        pairs = _pairs(node)
        if sum(draft.name_of(key) in KINDS for key, _ in pairs) >= _LEAST_KNOWN:
            _put_expanded(draft, node, named)
            return True
    return False


def _read_words(draft: SettingsBuilder, tree: ast.Module, named: dict[str, ast.expr]) -> bool:
    """The first list of words, or text, that is a command: subprocess.run(["vllm", "serve"])."""
    draft.kind = "command"
    for node in ast.walk(tree):
        if isinstance(node, ast.List):
            texts = [str(_value(item, named)) for item in node.elts[:_MOST_ITEMS]]
            if texts[:2] == ["vllm", "serve"]:
                items = zip(texts, node.elts, strict=False)
                words = [ShellWord(shlex.quote(text), item.lineno) for text, item in items]
                put_words(draft, words[2:], {})
                return True
        elif isinstance(node, ast.Constant) and read_command(draft, _command_in(node)):
            draft.lines = {key: line + node.lineno - 1 for key, line in draft.lines.items()}
            return True
    draft.kind = "python"
    return False


def _command_in(node: ast.Constant) -> str:
    """The text of a string that may hold a command."""
    return node.value if isinstance(node.value, str) and "vllm serve " in node.value else ""


def _put_variables(draft: SettingsBuilder, tree: ast.Module, named: dict[str, ast.expr]) -> None:
    """os.environ["NAME"] = value, and os.environ.setdefault("NAME", value)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            target = node.targets[0]
            if ast.unparse(target.value).endswith("environ"):
                _put_variable(draft, target.slice, node.value, named)
        elif (
            isinstance(node, ast.Call)
            and _called(node) in ("setdefault", "putenv")
            and len(node.args) == 2
        ):
            _put_variable(draft, node.args[0], node.args[1], named)


def _put_variable(
    draft: SettingsBuilder, name: ast.expr, value: ast.expr, named: dict[str, ast.expr]
) -> None:
    key, held = _value(name, named), _value(value, named)
    if isinstance(key, str):
        draft.put_variable(key, str(held), value.lineno)
