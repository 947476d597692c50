"""Findings about serving settings: the rules of all subjects, and the names and types of arguments.

What only a log or the checkpoint's tensors show is left out.
"""

import difflib
from pathlib import Path
from typing import Any

from salient.diagnose.finding import Finding, ranked
from salient.diagnose.rule import Match, apply_rules
from salient.diagnose.tables import read_rows
from salient.plan.gpus import Gpu
from salient.plan.vllm.versions import NEWEST, Version, parse_version

from . import model_conditions, parallel_conditions, server_conditions
from .rule_context import Condition, RuleContext, ServingRule
from .server_arguments import (
    CHOICES,
    KINDS,
    REMOVED,
    REMOVED_IN,
    REMOVED_VARIABLES,
    VALUES,
    fits,
    nearest,
)
from .settings import UNKNOWN, ServingSettings

_MOST_UNKNOWN = 20  # names that are looked up


def _case(
    context: RuleContext, key: str, new: str, *, error: bool, certain: bool, **values: object
) -> Match:
    """The case of one key and its diff, a warning at most unless it is an `error`."""
    settings = context.settings
    return Match(
        [settings.place(key)],
        {"key": key, **values},
        [f"- {settings.current(key)}", f"+ {new}"]
        if new
        else ["leave it out, or correct its name"],
        level=None if error else "warning",
        certainty="certain" if certain else "likely",
    )


def _wrong_types(context: RuleContext) -> list[Match]:
    """Values of another type than their argument's."""
    settings = context.settings
    return [
        Match([settings.place(key)], {"key": key, "values": VALUES[KINDS[key]]})
        for key, value in settings.values.items()
        if not (isinstance(value, str) and value == UNKNOWN) and not fits(key, value)
    ]


def _unknown_arguments(context: RuleContext) -> list[Match]:
    """Arguments that 0.32 does not have, with the most similar name."""
    settings, newest = context.settings, context.version == NEWEST
    unknown = [key for key in settings.values if key not in KINDS and key not in REMOVED]
    matches: list[Match] = []
    for key in unknown[:_MOST_UNKNOWN]:
        near = nearest(key)
        new = settings.spelled(near, settings.values[key]) if near else ""
        hint = f"; it has {near}" if near else ""
        error = newest or near is not None
        matches.append(_case(context, key, new, error=error, certain=newest, hint=hint))
    return matches


def _removed_arguments(context: RuleContext) -> list[Match]:
    """Arguments of older releases."""
    version = context.version
    matches: list[Match] = []
    for key, instead in REMOVED.items():
        since = REMOVED_IN.get(key)
        release = parse_version(since) if since else NEWEST
        if context.is_set(key) and not (version and version < release):
            known, since = version is not None, since or "0.32 or before"
            match = _case(context, key, f"({instead})", error=known, certain=known, since=since)
            matches.append(match)
    return matches


def _removed_variables(context: RuleContext) -> list[Match]:
    known = context.version or NEWEST
    return [
        _case(context, name, f"({instead})", error=True, certain=True)
        for name, instead in REMOVED_VARIABLES.items()
        if context.variable(name) and known >= NEWEST
    ]


def _invalid_choices(context: RuleContext) -> list[Match]:
    """Values that are not among an argument's choices."""
    newest = context.version == NEWEST
    matches: list[Match] = []
    for key, choices in CHOICES.items():
        value = context.value(key)
        if key == "quantization" or not isinstance(value, str) or value in choices:
            continue  # the rules of quantization find the nearest method
        near = (difflib.get_close_matches(value, choices, 1) or choices)[0]
        values = {"near": near, "choices": ", ".join(choices)}
        new = context.settings.spelled(key, near)
        matches.append(_case(context, key, new, error=newest, certain=newest, **values))
    return matches


CONDITIONS: dict[str, Condition] = {
    "wrong-type": _wrong_types,
    "unknown-argument": _unknown_arguments,
    "argument-gone": _removed_arguments,
    "variable-gone": _removed_variables,
    "not-a-choice": _invalid_choices,
    **model_conditions.CONDITIONS,
    **server_conditions.CONDITIONS,
    **parallel_conditions.CONDITIONS,
}


def _rule(header: str, row: dict[str, Any]) -> ServingRule:
    change = dict.fromkeys(row.pop("drop", ())) | row.pop("set", {})
    return ServingRule(when=CONDITIONS[header], change=change, **row)


_ROWS = read_rows(Path(__file__).with_name("rules.toml"))
RULES = tuple(_rule(header, row) for header, row in _ROWS.items())


def judge_settings(
    settings: ServingSettings,
    *,
    gpu: Gpu | None = None,
    version: Version | None = None,
    config: dict[str, Any] | None = None,
) -> list[Finding]:
    """The effects of the settings on speed, memory and safety, worst first.

    gpu: the device that they are for; version: the engine's release (else the one in the file);
    config: the model's config.json. What is not known makes findings less certain, or absent.
    """
    context = RuleContext(settings, gpu, version or settings.version, config)
    return ranked([*settings.notes, *apply_rules(RULES, context, context.version)])
