"""Write the table of the options that each release of vLLM and SGLang accepts.

Unpack the source of each release as SOURCES/ENGINE-RELEASE (a checkout of its tag, or the sdist of
`pip download --no-deps --no-binary :all: vllm==0.9.2`); several patch releases of one are fine:

    python tools/engine_options.py SOURCES src/salient/plan/engine_options.json

The files are parsed, never run. In the table each engine has its `releases`, and the names of its
`options`, `variables`, `values` ("option value") and `architectures` by the releases that accept
them: "0.9-" since 0.9, "0.8-0.18" before 0.18, several with commas. What only some patch releases
of vLLM 0.10 accept, 0.10 does not; architectures of one count.
"""

import ast
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

# The files that declare options, and those that name environment variables.
OPTION_FILES = {
    "vllm": (
        "vllm/engine/arg_utils.py",
        "vllm/entrypoints/openai/cli_args.py",
        "vllm/entrypoints/common/cli_args.py",
        "vllm/entrypoints/cli/serve.py",
        "vllm/entrypoints/launchers/cli_args.py",
    ),
    "sglang": ("sglang/srt/server_args.py", "sglang/srt/arg_groups/fields/*.py"),
}
VARIABLE_FILES = {"vllm": ("vllm/envs.py",), "sglang": ("sglang/srt/environ.py",)}
# The registry of model classes: dicts named ..._MODELS, but for those without a class.
REGISTRIES = {
    "vllm": (
        "vllm/model_executor/models/registry.py",
        "vllm/model_executor/models/__init__.py",
        "vllm/model_executor/model_loader.py",
    ),
    "sglang": (),
}
NO_REGISTRY = ("_PREVIOUSLY", "_OOT", "_TRANSFORMERS", "_REMOVED")
# Lists and aliases of Literal whose members are the values of an option.
VALUES = {
    "QuantizationMethods": "quantization",
    "QUANTIZATION_METHODS": "quantization",
    "QUANTIZATION_CHOICES": "quantization",
    "CacheDType": "kv_cache_dtype",
    "ModelDType": "dtype",
}
CHOICES = ("quantization", "kv_cache_dtype", "dtype")
# Classes whose fields become options.
FIELD_CLASSES = ("FrontendArgs", "EngineArgs", "ServerArgs")
# Numbers of a release that a row of the table has.
PRECISION = {"vllm": 2, "sglang": 3}
KINDS = ("options", "variables", "values", "architectures")
Release = tuple[int, ...]
_OPTION = re.compile(r"--[A-Za-z][\w-]*")
_VARIABLE = re.compile(r"(?:VLLM|SGLANG)_[A-Z0-9_]+")
_LIST = re.compile(r"\[[^\[\]]*\]")
_FOLDER = re.compile(r"(vllm|sglang)-(\d[\d.]*)")


def strings(node: ast.AST) -> list[str]:
    values = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
    return [value for value in values if isinstance(value, str)]


def called(node: ast.AST) -> str:
    func = node.func if isinstance(node, ast.Call) else None
    return getattr(func, "attr", getattr(func, "id", ""))


def fields_of(tree: ast.Module) -> Iterator[tuple[str, ast.AnnAssign]]:
    """The fields of the classes that become options."""
    for node in ast.walk(tree):
        bases = [getattr(base, "attr", "") for base in getattr(node, "bases", [])]
        if isinstance(node, ast.ClassDef) and (
            node.name.endswith(FIELD_CLASSES) or "Struct" in bases
        ):
            for item in node.body:
                name = getattr(item.target, "id", "_") if isinstance(item, ast.AnnAssign) else "_"
                if isinstance(item, ast.AnnAssign) and not name.startswith("_"):
                    yield name, item


def declarations(tree: ast.Module) -> Iterator[tuple[list[str], list[ast.expr]]]:
    """The names of each option, and its choices: of `add_argument`, and of a field's `Arg`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) == "add_argument":
            yield _names(node.args), _keyword(node, "choices")
    for name, item in fields_of(tree):
        records = [one for one in ast.walk(item.annotation) if called(one) == "Arg"]
        calls = [one for one in records if isinstance(one, ast.Call)]
        aliases = [one for call in calls for one in _keyword(call, "aliases")]
        yield [name, *_names(aliases)], [one for call in calls for one in _keyword(call, "choices")]


def _keyword(call: ast.Call, name: str) -> list[ast.expr]:
    return [one.value for one in call.keywords if one.arg == name]


def _names(nodes: Iterable[ast.expr]) -> list[str]:
    texts = [text for node in nodes for text in strings(node)]
    return [text[2:].replace("-", "_") for text in texts if _OPTION.fullmatch(text)]


def option_values(tree: ast.Module) -> Iterator[str]:
    for names, choices in declarations(tree):
        option = next((name for name in names if name in CHOICES), "")
        yield from (f"{option} {text}" for one in choices if option for text in strings(one))
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in VALUES:
                yield from (f"{VALUES[name]} {text}" for text in strings(value))
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if (
                name in VALUES
            ):
                yield from (f"{VALUES[name]} {text}" for text in strings(value))
            case _:
                pass


def variable_names(tree: ast.Module) -> Iterator[str]:
    yield from filter(_VARIABLE.fullmatch, strings(tree))
    names = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    yield from filter(_VARIABLE.fullmatch, names)


def architecture_names(tree: ast.Module) -> Iterator[str]:
    """The keys of the registry's dicts of model classes."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys))
            ) if name.endswith("_MODELS") and not name.startswith(NO_REGISTRY):
                yield from (text for key in keys if key for text in strings(key))
            case _:
                pass


def _trees(folder: Path, files: Iterable[str]) -> list[ast.Module]:
    paths = [path for file in files for path in sorted(folder.glob(file))]
    return [ast.parse(path.read_text(encoding="utf-8")) for path in paths]


def facts_of(folder: Path, engine: str) -> dict[str, set[str]]:
    """The options, variables and values of one release."""
    parsers = _trees(folder, OPTION_FILES[engine])
    texts = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    named = [ast.parse(text) for text in texts.values() if any(name in text for name in VALUES)]
    variables = _trees(folder, VARIABLE_FILES[engine])
    registries = _trees(folder, REGISTRIES[engine])
    return {
        "architectures": {name for tree in registries for name in architecture_names(tree)},
        "options": {name for tree in parsers for names, _ in declarations(tree) for name in names},
        "variables": {name for tree in variables for name in variable_names(tree)},
        "values": {value for tree in (*parsers, *named) for value in option_values(tree)},
    }


def spans(present: list[bool], releases: list[Release]) -> str:
    """The releases with `present` as text."""
    names = [".".join(map(str, release)) for release in releases]
    starts = [i for i, one in enumerate(present) if one and not (i and present[i - 1])]
    parts: list[str] = []
    for start in starts:
        end = next((i for i in range(start, len(present)) if not present[i]), None)
        parts.append(f"{names[start]}-{'' if end is None else names[end]}")
    return ",".join(parts)


def table_of(sources: Path, engine: str) -> dict[str, object]:
    """The spans of all that an engine accepts."""
    merged: dict[Release, dict[str, set[str]]] = {}
    for folder in sorted(sources.iterdir()):
        match = _FOLDER.match(folder.name)
        if match and match[1] == engine:
            release = tuple(map(int, match[2].strip(".").split(".")))[: PRECISION[engine]]
            facts = facts_of(folder, engine)
            before = merged.get(release, facts)
            merged[release] = {kind: facts[kind] & before[kind] for kind in KINDS}
            merged[release]["architectures"] = facts["architectures"] | before["architectures"]
    releases = sorted(merged)
    for before, release in pairwise(releases):  # sources without the file
        merged[release]["architectures"] = (
            merged[release]["architectures"] or merged[before]["architectures"]
        )
    table: dict[str, object] = {"releases": [".".join(map(str, one)) for one in releases]}
    for kind in KINDS:
        present: dict[str, list[bool]] = defaultdict(lambda: [False] * len(releases))
        for index, release in enumerate(releases):
            for name in merged[release][kind]:
                present[name][index] = True
        names: dict[str, list[str]] = defaultdict(list)
        for name in sorted(present):
            names[spans(present[name], releases)].append(name)
        table[kind] = dict(sorted(names.items()))
    return table


def main(sources: Path, output: Path) -> None:
    table = {engine: table_of(sources, engine) for engine in OPTION_FILES}
    text = _LIST.sub(lambda match: " ".join(match[0].split()), json.dumps(table, indent=1))
    output.write_text(text + "\n", encoding="utf-8")
    print(output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
