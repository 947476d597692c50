"""Reading the data of a validation, which may lack anything: sections, rows, figures."""

from typing import Any

from .figures import number

Data = dict[str, Any]


def part(data: Data, key: str) -> Data:
    """The dict under `key`; empty if there is none."""
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def rows(data: Data, key: str) -> list[Data]:
    """The dicts of the list under `key`."""
    found = data.get(key)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def named(data: Data, key: str) -> list[tuple[str, Data]]:
    """The names and dicts of the dict under `key`."""
    return [(str(k), v) for k, v in part(data, key).items() if isinstance(v, dict)]


def words(data: Data, key: str) -> str:
    """The text under `key`, or ''."""
    found = data.get(key)
    return found if isinstance(found, str) else ""


def texts(data: Data, key: str) -> list[str]:
    """The strings of the list under `key`."""
    found = data.get(key)
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def error(data: Data, key: str) -> str:
    """Why the section `key` could not be measured; '' if it is there, or was never asked for."""
    if key not in data or data[key] is None:
        return ""
    found = data[key]
    if not isinstance(found, dict) or not found:
        return "nothing was written down"
    if "error" in found:
        return words(found, "error") or "no reason is given"
    return ""


def ruled(data: Data, stage: str, what: str) -> Data:
    """The policy's rule on a figure over everything; empty without one."""
    for rule in rows(part(data, "verdict"), "rules"):
        if (rule.get("stage"), rule.get("what"), rule.get("kind")) == (stage, what, "all"):
            return rule
    return {}


def bound(data: Data, stage: str, what: str) -> float | None:
    """What the policy asks of a figure, if it asks anything."""
    return number(ruled(data, stage, what).get("bound"))


def sign(data: Data, stage: str, what: str) -> str:
    """How the rule on a figure was decided: "good", "bad" or "unsure"; '' without a rule."""
    rule = ruled(data, stage, what)
    passed = rule.get("passed")
    return "" if not rule else "good" if passed is True else "bad" if passed is False else "unsure"
