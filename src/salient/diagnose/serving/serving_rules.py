"""Findings about serving settings: the rules of all subjects, and the names and types of arguments.

What only a log or the checkpoint's tensors show is left out.
"""

import difflib
from pathlib import Path
from typing import Any

from salient.diagnose.finding import Finding, ranked
from salient.diagnose.option_text import other_spelling
from salient.diagnose.rule import Match, apply_rules
from salient.diagnose.tables import read_rows
from salient.plan.engine_options import (
    ENGINES,
    Release,
    accepts,
    began,
    choices_of,
    ended,
    releases,
)
from salient.plan.gpus import Gpu
from salient.plan.vllm.versions import Version

from . import model_conditions, parallel_conditions, server_conditions
from .rule_context import Condition, RuleContext, ServingRule
from .server_arguments import (
    CHOICES,
    KINDS,
    REMOVED,
    REMOVED_VARIABLES,
    VALUES,
    fits,
    nearest,
)
from .settings import UNKNOWN, ServingSettings

NAMES = {"vllm": "vLLM", "sglang": "SGLang"}
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


def _release(context: RuleContext) -> Release | None:
    """The engine's release by the options, which name vLLM's, else by the file."""
    by_option = context.version if context.settings.engine == "vllm" else None
    return by_option or context.settings.release


def _engine_name(context: RuleContext, release: Release | None) -> str:
    name = NAMES[context.settings.engine]
    return f"{name} {'.'.join(map(str, release))}" if release else name


def _option(context: RuleContext, key: str) -> str:
    """The argument by the engine's own name."""
    settings = context.settings
    written = settings.names.get(key, key).lstrip("-").replace("-", "_")
    return written if settings.engine == "sglang" else key


def _unaccepted(context: RuleContext) -> list[str]:
    """The arguments that the engine's release does not have; no release, if it is unknown."""
    settings, release = context.settings, _release(context)
    if settings.entry and settings.engine == "sglang":
        return []  # the names are the registry's
    engine, newest = settings.engine, release is None or release >= releases(settings.engine)[-1]
    return [
        key
        for key in settings.values
        if not accepts(engine, _option(context, key), release)
        and not (engine == "vllm" and newest and key in KINDS)
    ]


def _unknown_arguments(context: RuleContext) -> list[Match]:
    """Arguments that no release has, with the most similar name."""
    settings, release = context.settings, _release(context)
    engine = settings.engine
    names = {key: _option(context, key) for key in _unaccepted(context)}
    unknown = [key for key, name in names.items() if not began(engine, name) and key not in REMOVED]
    matches: list[Match] = []
    for key in unknown[:_MOST_UNKNOWN]:
        near = nearest(names[key], engine)
        new = settings.spelled(near, settings.values[key]) if near else ""
        other = next((NAMES[one] for one in ENGINES if accepts(one, names[key], None)), "")
        hint = f"; it is one of {other}" if other else f"; it has {near}" if near else ""
        error = release is not None or bool(near or other)
        values = {"hint": hint, "engine": _engine_name(context, release)}
        matches.append(_case(context, key, new, error=error, certain=release is not None, **values))
    return matches


def _newer_arguments(context: RuleContext) -> list[Match]:
    """Arguments that came with a later release."""
    release, engine = _release(context), context.settings.engine
    matches: list[Match] = []
    for key in _unaccepted(context) if release else []:
        first = began(engine, _option(context, key))
        if release and first and first > release:
            since = ".".join(map(str, first))
            other = other_spelling(engine, key, str(context.value(key) or ""), release)
            values = {"since": since, "engine": _engine_name(context, release)}
            new = other or f"(upgrade to {NAMES[engine]} {since}, or leave it out)"
            # a later patch of the release may have it: the table has what all patches accept
            later = next((one for one in releases(engine) if one > release), release)
            sure = not accepts(engine, _option(context, key), later)
            matches.append(_case(context, key, new, error=sure, certain=sure, **values))
    return matches


def _removed_arguments(context: RuleContext) -> list[Match]:
    """Arguments of older releases."""
    release, engine = _release(context), context.settings.engine
    matches: list[Match] = []
    for key in context.settings.values:
        gone = ended(engine, _option(context, key), release)
        if gone is None or accepts(engine, _option(context, key), release or releases(engine)[-1]):
            continue
        new = f"({REMOVED.get(key, 'leave it out')})" if engine == "vllm" else "(leave it out)"
        values = {"since": ".".join(map(str, gone)), "engine": NAMES[engine]}
        known = release is not None
        matches.append(_case(context, key, new, error=known, certain=known, **values))
    return matches


def _removed_variables(context: RuleContext) -> list[Match]:
    release = context.version or context.settings.version or releases("vllm")[-1]
    return [
        _case(context, name, f"({instead})", error=True, certain=True)
        for name, instead in REMOVED_VARIABLES.items()
        if context.variable(name) and not accepts("vllm", name, release, "variables")
    ]


def _invalid_choices(context: RuleContext) -> list[Match]:
    """Values that are not among an argument's choices."""
    release = _release(context)
    matches: list[Match] = []
    for key, of_newest in CHOICES.items():
        value, choices = context.value(key), choices_of("vllm", key, release) or of_newest
        if key == "quantization" or not isinstance(value, str) or value in choices:
            continue  # the rules of quantization find the nearest method
        near = (difflib.get_close_matches(value, choices, 1) or choices)[0]
        values = {"near": near, "choices": ", ".join(choices)}
        new, known = context.settings.spelled(key, near), release is not None
        matches.append(_case(context, key, new, error=known, certain=known, **values))
    return matches


CONDITIONS: dict[str, Condition] = {
    "wrong-type": _wrong_types,
    "unknown-argument": _unknown_arguments,
    "argument-gone": _removed_arguments,
    "argument-newer": _newer_arguments,
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
    findings = apply_rules(RULES, context, context.version, server=context.server)
    return ranked([*settings.notes, *findings])
