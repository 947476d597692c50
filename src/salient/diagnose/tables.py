"""Tables of findings in TOML: the texts are data, the conditions are functions.

A row's header is the finding's id, or another name if `id` is set; its keys are the fields of
`FindingTemplate`, `Rule` or `Signature`:

    [memory-low]
    level = "warning"
    title = "Less than half of the GPU's memory is used"     # braces: values of the case
    do = ["Raise it.", "$less-at-once"]                      # $name: a step of `steps`
    until = "0.18"
    if = { engine = "vllm", tp = ">1" }                      # the servers that the row is for

A step and its conditions: steps.py.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .rule import Facts, FindingTemplate, Outcome, Rule
from .steps import Step, read_conditions, read_step
from .toml_file import read_toml

StepItem = str | Mapping[str, object]
Steps = Mapping[str, StepItem | list[StepItem]]


def read_rows(path: Path, steps: Steps | None = None) -> dict[str, dict[str, Any]]:
    """The rows' fields by header.

    Raises KeyError for an unknown step, TypeError for an unknown condition.
    """
    rows = read_toml(path)
    for header, row in rows.items():
        row.setdefault("id", header)
        row["do"] = _expand(row.get("do", ()), steps or {})
        if "if" in row:
            row["conditions"] = read_conditions(row.pop("if"))
        for name in {"since", "until"} & row.keys():
            row[name] = tuple(int(part) for part in row[name].split("."))
    return rows


def _expand(items: Iterable[StepItem], steps: Steps) -> tuple[Step, ...]:
    """The steps with each "$name" replaced."""
    expanded: list[Step] = []
    for item in items:
        if isinstance(item, str) and item.startswith("$"):
            shared = steps[item[1:]]
            expanded += _expand(shared if isinstance(shared, list) else [shared], steps)
        else:
            expanded.append(read_step(item))
    return tuple(expanded)


def read_templates(path: Path) -> dict[str, FindingTemplate]:
    """The templates of a table by header. Raises TypeError for an unknown key."""
    return {header: FindingTemplate(**row) for header, row in read_rows(path).items()}


def read_rules(
    path: Path, conditions: Mapping[str, Callable[[Facts], Outcome]]
) -> tuple[Rule[Facts], ...]:
    """The rules of a table, in its order, with their conditions by header.

    Raises KeyError for a row without a condition, ValueError for a condition without a row.
    """
    rows = read_rows(path)
    if unused := conditions.keys() - rows.keys():
        raise ValueError(f"{path.name} has no row for {', '.join(sorted(unused))}.")
    return tuple(Rule(when=conditions[header], **row) for header, row in rows.items())
