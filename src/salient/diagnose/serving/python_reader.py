"""Serving settings from Python source: calls such as LLM(...), or a dict of engine arguments.

The source is parsed, never run. Computed values are UNKNOWN.
"""

import ast
import shlex
import warnings
from collections.abc import Iterator
from typing import Any, TypeVar

from salient.core.errors import RequestError

from .server_arguments import KINDS
from .settings import UNKNOWN, Engine, ServingSettings
from .shell_reader import put_arguments, read_command
from .shell_tokens import ShellToken

_CALLS: dict[str, Engine] = {
    "LLM": "vllm",
    "EngineArgs": "vllm",
    "AsyncEngineArgs": "vllm",
    "Engine": "sglang",
    "ServerArgs": "sglang",
}
# arguments of LLM that no server has
_OF_LLM = ("self", "chat_template")
_MOST_ITEMS = 1000
_LEAST_KNOWN = 2  # known names that make a dict one of engine arguments
Names = dict[str, ast.expr]
Node = TypeVar("Node", bound=ast.AST)


def read_python(settings: ServingSettings, text: str) -> bool:
    """Add the first engine's arguments of the source; False if there are none.

    Raises RequestError for a text that is no Python.
    """
    tree, names = parse_python(settings, text)
    _put_variables(settings, tree, names)
    calls = list(_engine_calls(tree))
    if not calls:
        return _read_dict(settings, tree, names) or _read_list(settings, tree, names)
    settings.engine = _CALLS[call_name(calls[0])]
    _put_call(settings, calls[0], names)
    if len(calls) > 1:
        title = f"{len(calls)} calls make an engine; the first was read"
        settings.note("several-commands", "note", title, calls[1].lineno)
    return True


def parse_python(settings: ServingSettings, text: str) -> tuple[ast.Module, Names]:
    """The source's tree, and the values of its plain assignments.

    Raises RequestError for a text that is no Python.
    """
    tree = _parsed(settings, text)
    return tree, _assigned_names(tree)


def has_engine_call(text: str) -> bool:
    return any(True for _ in _engine_calls(ast.parse(text)))


def _parsed(settings: ServingSettings, text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a user's string
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise RequestError(
            f"{settings.path} is no Python that can be read{where}. Correct it, or give the command"
            " line or YAML file that starts the server."
        ) from error


def _nodes(tree: ast.AST, kind: type[Node]) -> list[Node]:
    """The expressions of one kind, in the order of their lines."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, kind)]
    return sorted(nodes, key=lambda node: (node.lineno, node.col_offset))  # type: ignore[attr-defined]


def _assigned_names(tree: ast.Module) -> Names:
    """The values of plain assignments anywhere in the file; the last one counts."""
    names: Names = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                names[name] = value
            case _:
                pass
    return names


def value_of_node(node: ast.expr, names: Names) -> Any:
    """The literal `node`, or the literal of its name; else UNKNOWN."""
    if isinstance(node, ast.Name):
        node = names.get(node.id, node)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == "torch" else UNKNOWN  # torch.float16
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return UNKNOWN


def call_name(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""


def _engine_calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that make an engine, in the order of their lines; not of other packages' LLM."""
    foreign = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and not (node.module or "").startswith(("vllm", "sglang"))
        for alias in node.names
    }
    for call in _nodes(tree, ast.Call):
        name = call_name(call)
        if name in _CALLS and name not in foreign and (call.keywords or call.args):
            yield call


def _put_call(settings: ServingSettings, call: ast.Call, names: Names) -> None:
    if call.args and not isinstance(call.args[0], ast.Starred):
        settings.put("model", value_of_node(call.args[0], names), call.args[0].lineno, "model")
    for keyword in call.keywords:
        if keyword.arg is None:  # **name, or **{...}
            _put_dict(settings, keyword.value, names)
        elif keyword.arg not in _OF_LLM:
            _put_pair(settings, keyword.arg, keyword.value, names)


def _put_pair(settings: ServingSettings, key: str, node: ast.expr, names: Names) -> None:
    settings.put(settings.name_of(key), value_of_node(node, names), node.lineno, key)


def _put_dict(settings: ServingSettings, node: ast.expr, names: Names) -> None:
    if isinstance(node, ast.Name):
        node = names.get(node.id, node)
    for key, value in pairs_of(node):
        _put_pair(settings, key, value, names)


def pairs_of(node: ast.expr) -> list[tuple[str, ast.expr]]:
    """The items with text keys of a dict display or of a `dict(a=1)`."""
    if isinstance(node, ast.Dict):
        return [
            (key.value, value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        ]
    if isinstance(node, ast.Call) and call_name(node) == "dict":
        return [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg]
    return []


def _read_dict(settings: ServingSettings, tree: ast.Module, names: Names) -> bool:
    """The first dict of engine arguments."""
    for node in _nodes(tree, ast.expr):
        keys = [key for key, _ in pairs_of(node)]
        if sum(settings.name_of(key) in KINDS for key in keys) >= _LEAST_KNOWN:
            _put_dict(settings, node, names)
            return True
    return False


def _read_list(settings: ServingSettings, tree: ast.Module, names: Names) -> bool:
    """The first list of words, or text, that is a command: subprocess.run(["vllm", "serve"])."""
    settings.kind = "command"
    for node in ast.walk(tree):
        if isinstance(node, ast.List):
            texts = [str(value_of_node(item, names)) for item in node.elts[:_MOST_ITEMS]]
            if texts[:2] == ["vllm", "serve"]:
                items = zip(texts, node.elts, strict=False)
                tokens = [ShellToken(shlex.quote(text), item.lineno) for text, item in items]
                put_arguments(settings, tokens[2:], {})
                return True
        elif isinstance(node, ast.Constant) and read_command(settings, _command(node)):
            lines = settings.lines.items()
            settings.lines = {key: line + node.lineno - 1 for key, line in lines}
            return True
    settings.kind = "python"
    return False


def _command(node: ast.Constant) -> str:
    """The text of a string that may hold a command, else ""."""
    text = node.value
    return text if isinstance(text, str) and "vllm serve " in text else ""


def _put_variables(settings: ServingSettings, tree: ast.Module, names: Names) -> None:
    """os.environ["NAME"] = value, and os.environ.setdefault("NAME", value)."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Subscript(value=owner, slice=key), *_], value=value):
                if not ast.unparse(owner).endswith("environ"):
                    continue
            case ast.Call(args=[key, value]) if call_name(node) in ("setdefault", "putenv"):
                pass
            case _:
                continue
        name = value_of_node(key, names)
        if isinstance(name, str):
            settings.put_variable(name, str(value_of_node(value, names)), value.lineno)
