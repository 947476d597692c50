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
    {"formats", "kernels", "evals", "plan"},
    {"models", "diagnose"},
    {"awq", "runtime"},
    {"validate", "serve"},
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
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level] if node.level else ()
            module = (*above, *(node.module.split(".") if node.module else ()))
            names = [(*module, alias.name) for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == PACKAGE.name and name[1:]}
    return {name for name in found if name in ours or (PACKAGE / name).exists()}


def floor_of(path: Path) -> tuple[str, int]:
    folder = path.parts[0].removesuffix(".py")
    return folder, next(i for i, names in enumerate(FLOORS) if folder in names)


def upward(source: str, path: Path) -> set[str]:
    folder, floor = floor_of(path)
    allowed = set().union({folder}, *FLOORS[:floor])
    if floor == len(FLOORS) - 1:  # the roof is one house: `python -m salient` is the command line
        allowed |= FLOORS[floor]
    return folders_imported(source, path) - allowed


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_only_from_floors_below(path):
    reached = upward((PACKAGE / path).read_text(encoding="utf-8"), path)
    folder, floor = floor_of(path)
    assert not reached, f"{folder} stands on floor {floor} and reaches up to {sorted(reached)}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_stands_on_a_floor(path):
    assert any(path.parts[0].removesuffix(".py") in names for names in FLOORS)


@pytest.mark.parametrize(
    ("path", "line", "reached"),
    [
        ("core/quant.py", "from salient.formats import FORMATS", {"formats"}),
        ("core/quant.py", "from salient import api", {"api"}),
        ("core/quant.py", "from ..evals import likelihood", {"evals"}),
        ("core/quant.py", "import salient.awq.search", {"awq"}),
        ("core/quant.py", "def late():\n    from salient.models import groups", {"models"}),
        ("formats/writer.py", "from salient.evals.likelihood import ROWS", {"evals"}),
        ("awq/search.py", "from salient.runtime.linear import QuantLinear", {"runtime"}),
        ("models/source.py", "from salient.diagnose import doctor", {"diagnose"}),
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


@pytest.mark.parametrize(
    "module",
    [
        "",
        ".core.errors",
        ".core.findings",
        ".core.headers",
        ".core.report",
        ".core.scheme",
        ".core.shape",
        ".core.texts",
        ".formats",
        ".plan.planner",
        ".plan.record",
        ".plan.forewarning",
        ".diagnose.doctor",
        ".diagnose.telling",
        ".api",
        ".cli",
    ],
)
def test_what_must_answer_at_once_imports_no_torch(module):
    words = f"import sys, salient{module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert "salient" in run.stdout.split()
    assert not {"torch", "transformers"} & set(run.stdout.split())
