"""The report's three files, none of which is ever seen half written."""

import os
import re
from pathlib import Path

from salient.core.errors import RequestError
from salient.core.report import Report
from salient.formats.writer import write_text

from .markdown_report import markdown
from .page import html
from .reading import Data

_HALVES = re.compile("[\ud800-\udfff]")  # of a pair: a user's JSON may hold one, UTF-8 cannot


def check_folder(folder: Path) -> None:
    """Raise RequestError where no report can be written to `folder`; it is not made yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise RequestError(f"--report {folder}: {there} is no folder. Give a folder, new or old.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(f"--report {folder}: {there} cannot be written to. Give another folder.")


def write_report(data: Data, folder: Path) -> dict[str, Path]:
    """Write report.html, report.md and report.json for `data` into `folder`, made if missing.

    Gives the paths by "html", "md", "json". Raises ResourceError on a full disk.
    """
    text = Report(data).to_json()
    contents = {
        "html": html(data),
        "md": markdown(data),
        "json": _HALVES.sub(lambda half: f"\\u{ord(half.group()):04x}", text) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"report.{kind}" for kind in contents}
    for kind, path in paths.items():
        write_text(path, contents[kind])
    return paths
