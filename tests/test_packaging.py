"""The wheel holds every data file of the package: pyproject.toml's patterns match them all."""

import tomllib
from pathlib import Path

import salient

PACKAGE = Path(salient.__file__).parent
ROOT = PACKAGE.parent.parent


def packaged_files() -> set[Path]:
    """The files that the package-data patterns of pyproject.toml match."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns: dict[str, list[str]] = project["tool"]["setuptools"]["package-data"]
    files = set()
    for package, globs in patterns.items():
        folder = PACKAGE.parent.joinpath(*package.split("."))
        for glob in globs:
            matches = {path for path in folder.glob(glob) if path.is_file()}
            assert matches, f"{package}: {glob} matches no file"
            files |= matches
    return files


def data_files() -> set[Path]:
    """All files of the package that are no Python."""
    return {
        path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}
    }


def test_every_data_file_is_packaged():
    missing = sorted(str(path.relative_to(PACKAGE)) for path in data_files() - packaged_files())
    assert not missing, f"add to [tool.setuptools.package-data] of pyproject.toml: {missing}"


def test_every_folder_with_modules_is_a_package():
    """setuptools takes only folders with an __init__.py."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed") in packaged_files()
