"""Write the outputs of `salient plan` that README.md and docs/plan.md show.

python tools/write_plan_docs.py

The output follows each line `$ salient plan ...` that opens a code block; README.md has the rows of
three formats only.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDTHS = {"README.md": 100, "docs/plan.md": 80}  # cells of the terminal
_BLOCK = re.compile(r"^```\n(\$ (salient plan [^\n]*)\n).*?(?=^```)", re.M | re.S)
_BORDERS = ("┏", "┡", "├", "└")
_ROWS = ("│ > ", "│ FP8 ", "│ 16-bit ")


def written(page: str, run: Callable[[list[str], int], str]) -> str:
    """The page with the outputs of `run(argv, width)`."""

    def block(match: re.Match[str]) -> str:
        lines = run(shlex.split(match[2])[1:], WIDTHS[page]).splitlines()
        shown = filter(_is_short, lines) if page == "README.md" else lines
        return f"```\n{match[1]}" + "\n".join(shown) + "\n"

    return _BLOCK.sub(block, (ROOT / page).read_text("utf-8"))


def _is_short(line: str) -> bool:
    """Whether README.md shows it."""
    return (bool(line) and not line.startswith((*_BORDERS, "│"))) or line.startswith(_ROWS)


def _run(argv: list[str], width: int) -> str:
    environment = os.environ | {"COLUMNS": str(width)}
    command = [sys.executable, "-m", "salient", *argv]
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


if __name__ == "__main__":
    for name in WIDTHS:
        (ROOT / name).write_text(written(name, _run), "utf-8")
        print(f"Wrote {name}")
