"""What a stage of a validation hands on."""

from dataclasses import dataclass, field
from typing import Any

from salient.core.report import Table
from salient.validate.policy.verdict import Measurement


@dataclass
class Stage:
    """What a stage found.

    name: one of evals.policy.STAGES, or "attribution", which nothing is asked of
    data: its part of the report, plain numbers, strings, lists and dicts
    measurements: what the policy judges   tables, lines: what a person reads in the terminal
    """

    name: str
    data: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
