"""The report as one self-contained page: no script, and nothing that a browser would ask for.

Its policy forbids every load, and any style but the page's own, so that even a text that slipped
through as markup could do nothing. All text passes `_seen` and is then escaped by the templates.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from salient.validate.report.sections.method import method, scheme
from salient.validate.report.sections.verdict import BOUNDS, verdict

from .reading import Data, part
from .sections import sections
from .text_format import line, visible

TEMPLATES = Path(__file__).parent / "templates"


def html(data: Data) -> str:
    """The page for `data` (api.validate's): any section may be missing, or {"error": words}."""
    made = sections(data)
    return (
        _templates()
        .get_template("page.html")
        .render(
            verdict=verdict(data),
            sections=made,
            method=method(data),
            tiles=[(section.name, tile) for section in made for tile in section.tiles],
            bounds=BOUNDS,
            checkpoint=line(data.get("checkpoint"), 120) or "an unnamed checkpoint",
            reference=line(data.get("reference"), 120) or "an unnamed reference",
            date=line(data.get("date"), 20),
            scheme=scheme(part(data, "model")),
            style=Markup(_style()),
            policy=_policy(),
        )
    )


@cache
def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )
    made.filters["sentence"] = _sentence
    return made


def _seen(value: Any) -> Any:
    """What a template prints: text with its unseen characters made visible."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _sentence(text: str) -> str:
    """`text` with a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + "." * (bool(text) and text[-1] not in ".!?")


@cache
def _style() -> str:
    return (TEMPLATES / "page.css").read_text(encoding="utf-8")


def _policy() -> str:
    """The content security policy: nothing but the style whose digest this is."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
