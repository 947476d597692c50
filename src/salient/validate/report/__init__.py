"""The report of a validation: a page, Markdown for a pull request, JSON for programs."""

from .markdown_report import markdown
from .page import html
from .write import check_folder, write_report

__all__ = ["check_folder", "html", "markdown", "write_report"]
