"""The report as one self-contained page: no script, and no request for anything else.

Its policy forbids every load, and any style but the page's own, so that even text that slipped
through as markup could do nothing. All text passes `_printable` and is then escaped by the
templates.
"""

import base64
from functools import cache
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from salient.validate.result import ValidationResult

from .policy_view import SIGN_LABELS, verdict_view
from .sections import method_facts, scheme_summary, sections
from .text_format import common_start, cut, line, visible

TEMPLATES = Path(__file__).parent / "templates"
# The content security policy: nothing but the style with this digest.
POLICY = "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"


def html(result: ValidationResult) -> str:
    """The page of a validation."""
    rendered = sections(result)
    return (
        _templates()
        .get_template("page.html")
        .render(
            verdict=verdict_view(result.verdict),
            sections=rendered,
            facts=method_facts(result),
            stages=result.stages,
            tiles=[(section.name, tile) for section in rendered for tile in section.tiles],
            sign_labels=SIGN_LABELS,
            checkpoint=line(result.checkpoint, 120),
            reference=line(result.reference, 120),
            date=line(result.date, 20),
            scheme=scheme_summary(result.model),
            style=Markup(_style()),
            policy=POLICY.format(base64.b64encode(sha256(_style().encode()).digest()).decode()),
        )
    )


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {"sentence": _sentence, "line": line, "cut": cut}
    environment.globals["common_start"] = common_start
    return environment


def _printable(value: object) -> object:
    """What a template prints: text with invisible characters made visible."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _sentence(text: str) -> str:
    """`text` with a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + "." * (bool(text) and text[-1] not in ".!?")


@cache
def _style() -> str:
    return (TEMPLATES / "page.css").read_text(encoding="utf-8")
