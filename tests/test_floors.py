"""Floors: a folder of the package imports only from folders on floors below its own.

Imports inside functions count too: they make a module quick to import, and not lower.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import salient

PACKAGE = Path(salient.__file__).parent
FLOORS = (
    {"core"},
    {"formats", "kernels", "shapes", "loadtest"},
    {"models", "plan"},
    {"awq", "runtime", "diagnose", "hub", "convert", "export"},
    {"validate", "serve"},
    {"explorer", "receipts", "compare"},
    {"api"},
    {"cli", "__main__", "__init__"},
)
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def folders_imported(source: str, path: Path) -> set[str]:
    """Folders of our own package that the module at `path` in it imports, anywhere in its code.

    What the front of the package itself defines, such as `__version__`, is none.
    """
    here = (PACKAGE.name, *path.parts)
    ours = set().union(*FLOORS)
    result = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level] if node.level else ()
            module = (*above, *(node.module.split(".") if node.module else ()))
            names = [(*module, alias.name) for alias in node.names]
        else:
            continue
        result |= {name[1] for name in names if name[0] == PACKAGE.name and name[1:]}
    return {name for name in result if name in ours or (PACKAGE / name).exists()}


def floor_of(path: Path) -> tuple[str, int]:
    folder = path.parts[0].removesuffix(".py")
    return folder, next(i for i, names in enumerate(FLOORS) if folder in names)


def upward(source: str, path: Path) -> set[str]:
    folder, floor = floor_of(path)
    allowed = set().union({folder}, *FLOORS[:floor])
    if floor == len(FLOORS) - 1:  # the roof is one house: `python -m salient` is the command line
        allowed |= FLOORS[floor]
    return folders_imported(source, path) - allowed


def test_every_module_stands_on_a_floor_and_imports_only_from_floors_below():
    on_no_floor, reaching_up = [], {}
    for path in MODULES:
        if path.parts[0].removesuffix(".py") not in set().union(*FLOORS):
            on_no_floor.append(str(path))
        elif reached := upward((PACKAGE / path).read_text(encoding="utf-8"), path):
            reaching_up[str(path)] = sorted(reached)
    assert not on_no_floor
    assert not reaching_up


@pytest.mark.parametrize(
    ("path", "line", "reached"),
    [
        ("core/quant.py", "from salient.formats import FORMATS", {"formats"}),
        ("core/quant.py", "from salient import api", {"api"}),
        ("core/quant.py", "from ..loadtest import plan", {"loadtest"}),
        ("core/quant.py", "import salient.awq.search", {"awq"}),
        ("core/quant.py", "def late():\n    from salient.models import groups", {"models"}),
        ("formats/writer.py", "from salient.validate.policy.verdict import judge", {"validate"}),
        ("awq/search.py", "from salient.runtime.linear import QuantLinear", {"runtime"}),
        ("models/model_folder.py", "from salient.diagnose import doctor", {"diagnose"}),
        ("formats/writer.py", "from .checkpoint import open_piece", set()),
        ("formats/writer.py", "from salient.core.errors import ModelError", set()),
        ("core/quant.py", "from salient import __version__", set()),
        ("core/quant.py", "import torch, json", set()),
        ("serve/app.py", "from salient.runtime import engine", set()),
        ("cli.py", "from salient import __version__, api", set()),
    ],
)
def test_the_law_of_floors_sees_what_it_should(path, line, reached):
    assert upward(line, Path(path)) == reached


# Imported in this order in one process; each must leave torch and Transformers out.
WITHOUT_TORCH = (
    "salient",
    "salient.core.errors",
    "salient.diagnose.finding",
    "salient.core.model_files",
    "salient.core.report",
    "salient.core.scheme",
    "salient.shapes.model_shape",
    "salient.core.corpus",
    "salient.formats",
    "salient.plan.planner",
    "salient.plan.adr",
    "salient.plan.serving_warnings",
    "salient.diagnose.doctor",
    "salient.diagnose.report",
    "salient.api",
    "salient.cli",
)
IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    slow = {"torch", "transformers"} & set(sys.modules)
    assert not slow, f"{name} imports {slow}"
print("imported", len(sys.argv) - 1)
"""


def test_what_must_answer_at_once_imports_no_torch():
    argv = [sys.executable, "-c", IMPORTS, *WITHOUT_TORCH]
    run = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert run.stdout == f"imported {len(WITHOUT_TORCH)}\n", run.stderr
