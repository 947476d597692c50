"""The house: names are unique and in standard English, and imports run in one direction."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import salient

PACKAGE = Path(salient.__file__).parent
ROOT = PACKAGE.parent.parent
BAN_LIST = """
found made told tell telling said say heard hear held kept keep given asked ask asking seen anew
mend words beside
"""
BANNED = frozenset(BAN_LIST.split())
OVERRIDDEN = {"connection_made"}  # methods of libraries' classes (asyncio.Protocol)
# Trees outside the package whose identifiers are standard English too.
OUTER_TREES = ("benchmarks", "examples", "interop", "tests", "tools")
# File names that say what a file is in each of several folders of the same form.
FORMS = """
__init__ options report measure result render memory kernels serving
verdict salient_json
"""
REPEATED = frozenset(FORMS.split())


@cache
def modules() -> dict[str, ast.Module]:
    """Syntax trees by the module's dotted name."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return trees


def file_of(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported_modules(module: str) -> set[str]:
    """Modules of the package that `module` imports, anywhere in its code."""
    package = module if file_of(module).stem == "__init__" else module.rpartition(".")[0]
    targets = set()
    for node in ast.walk(modules()[module]):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = node.module or ""
        if node.level:
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parents, base] if base else parents)
        for alias in node.names:
            full = f"{base}.{alias.name}"
            targets |= {full if full in modules() else base} & modules().keys()
    return targets - {module}


def import_circle() -> list[str]:
    """The modules of one import circle, in order, or an empty list."""
    state: dict[str, int] = {}

    def visit(module: str, path: list[str]) -> list[str]:
        state[module] = 1
        for target in sorted(imported_modules(module)):
            if state.get(target) == 1:
                return [*path[path.index(target) :], target]
            if target not in state and (circle := visit(target, [*path, target])):
                return circle
        state[module] = 2
        return []

    for module in modules():
        if module not in state and (circle := visit(module, [module])):
            return circle
    return []


def identifiers(tree: ast.Module) -> set[tuple[str, int]]:
    """Names that the code defines, each with its line."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add((node.name, node.lineno))
            case ast.arg():
                names.add((node.arg, node.lineno))
            case ast.Name(ctx=ast.Store()):
                names.add((node.id, node.lineno))
            case ast.Attribute(ctx=ast.Store()):
                names.add((node.attr, node.lineno))
            case ast.alias() if node.asname:
                names.add((node.asname, node.lineno))
    return names


def banned_parts(name: str) -> set[str]:
    return set(name.lower().strip("_").split("_")) & BANNED


def test_a_class_name_is_unique_in_the_package():
    places = defaultdict(list)
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_a_file_name_is_unique_in_the_package():
    places = defaultdict(list)
    for module in modules():
        places[file_of(module).stem].append(module)
    repeated = {name: where for name, where in places.items() if len(where) > 1}
    assert not repeated.keys() - REPEATED, {n: repeated[n] for n in repeated.keys() - REPEATED}


def test_no_import_runs_in_a_circle():
    assert not import_circle()


def banned_identifiers(tree: ast.Module, path: Path) -> list[str]:
    """ "FILE:LINE: NAME" of each, by line."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for name, line in sorted(identifiers(tree), key=lambda item: item[1])
        if banned_parts(name) and name not in OVERRIDDEN
    ]


def test_identifiers_of_the_package_are_standard_english():
    faults = [
        fault
        for module, tree in modules().items()
        for fault in banned_identifiers(tree, file_of(module))
    ]
    assert not faults, f"{len(faults)} identifiers:\n" + "\n".join(faults)


@pytest.mark.parametrize("tree", OUTER_TREES)
def test_identifiers_outside_the_package_are_standard_english(tree):
    paths = sorted((ROOT / tree).rglob("*.py"))
    faults = [
        fault
        for path in paths
        for fault in banned_identifiers(ast.parse(path.read_text(encoding="utf-8")), path)
    ]
    assert paths
    assert not faults, f"{len(faults)} identifiers:\n" + "\n".join(faults)


def reaches_past_the_terminal(node: ast.AST, module: str) -> bool:
    """Whether `node` writes to a standard stream, or could, without escaping controls."""
    match node:
        case ast.Call(func=ast.Name("print" | "input")):
            return not module.startswith("salient.cli.")
        case ast.Call(func=ast.Name("Console") | ast.Attribute(attr="Console")):
            return True
        case ast.Attribute(attr="buffer" | "styled", value=ast.Attribute(value=ast.Name("sys"))):
            return ast.unparse(node.value) != "sys.stdin"
        case ast.Attribute(attr="__stdout__" | "__stderr__"):
            return True
        case ast.Call(func=ast.Attribute(attr="write", value=ast.Name("os"))):
            return ast.unparse(node.args[0]) in ("1", "2")
        case ast.Call(func=ast.Name("open")):
            return "/dev/tty" in ast.unparse(node)
    return False


def test_all_output_passes_the_writer_that_escapes_controls():
    faults = [
        f"{file_of(module).relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}"
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.expr) and reaches_past_the_terminal(node, module)
    ]
    assert not faults, "\n".join(faults)
