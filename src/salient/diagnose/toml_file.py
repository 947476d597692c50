"""TOML files of the package."""

from pathlib import Path
from typing import Any

import tomli  # compiled: tomllib takes three times as long


def read_toml(path: Path) -> dict[str, Any]:
    return tomli.loads(path.read_text(encoding="utf-8"))
