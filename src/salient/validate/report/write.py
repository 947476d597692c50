"""The report's three files; none is ever half written."""

import os
from pathlib import Path

from salient.core.errors import RequestError
from salient.core.report import Report
from salient.formats.writer import write_text
from salient.validate.result import ValidationResult

from .markdown_report import markdown
from .page import html


def check_folder(folder: Path) -> None:
    """Raise RequestError where no report can be written to `folder`; creates nothing."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise RequestError(f"--report {folder}: {existing} is not a folder. Give a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RequestError(f"--report {folder}: {existing} is not writable. Give another folder.")


def write_report(result: ValidationResult, folder: Path) -> dict[str, Path]:
    """Write report.html, report.md and report.json into `folder`, which is created if missing.

    Returns the paths by "html", "md", "json". Raises ResourceError on a full disk.
    """
    contents = {
        "html": html(result),
        "md": markdown(result),
        "json": Report(result.to_dict()).to_json() + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"report.{kind}" for kind in contents}
    for kind, path in paths.items():
        write_text(path, contents[kind])
    return paths
