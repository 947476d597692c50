"""What serving settings mean: every rule's finding, and arguments that are unknown or misshapen.

Rules are rows of the tables of the modules below. Left out: what only a log or the checkpoint's
tensors can tell.
"""

import difflib
from typing import Any

from salient.diagnose.finding import Finding, ranked
from salient.plan.gpus import Gpu
from salient.plan.vllm.versions import NEWEST, Version

from . import kernel_rules as settings_kernel
from . import memory_rules as settings_memory
from . import parallel_rules as settings_parallel
from . import quantization_rules as settings_method
from . import server_rules as settings_server
from . import speed_rules as settings_speed
from .argument_table import CHOICES, GONE, KINDS, WORDS
from .argument_values import fits, nearest
from .rule_context import RuleContext, ServingRule, apply
from .settings import UNKNOWN, ServingSettings

RULES: tuple[ServingRule, ...] = (
    *settings_method.RULES,
    *settings_kernel.RULES,
    *settings_memory.RULES,
    *settings_speed.RULES,
    *settings_parallel.RULES,
    *settings_server.RULES,
)
_MOST_UNKNOWN = 20  # names that are looked up and told
# variables that 0.32 does not read any more, and what took their place
GONE_VARIABLES = (
    ("VLLM_ATTENTION_BACKEND", "--attention-backend NAME"),
    ("VLLM_USE_V1", "leave it out: there is no other engine"),
)
# other checks name these values better
_JUDGED_ELSEWHERE = ("quantization",)


def judge_settings(
    settings: ServingSettings,
    *,
    gpu: Gpu | None = None,
    version: Version | None = None,
    config: dict[str, Any] | None = None,
) -> list[Finding]:
    """What the settings do to speed, memory and safety, worst first.

    gpu: the device that they are for; version: the engine's release (else the file's own word);
    config: the model's config.json. What is not known makes findings less certain, or absent.
    """
    case = RuleContext(settings, gpu, version or settings.version, config)
    found = list(settings.notes)
    if settings.engine == "vllm":
        found += _misshapen(case) + _unknown(case) + _gone(case) + _not_a_choice(case)
    found += [finding for rule in RULES if (finding := apply(rule, case))]
    return ranked(found)


def _misshapen(case: RuleContext) -> list[Finding]:
    """Values that have not the type of their argument."""
    found = []
    for key, value in case.settings.values.items():
        unknown = isinstance(value, str) and value == UNKNOWN
        if unknown or fits(key, value):
            continue
        found.append(
            Finding(
                "wrong-type",
                "error",
                f"{key} takes {WORDS[KINDS[key]]}",
                matters="vLLM refuses the value and does not start.",
                do=(f"write {key} as {WORDS[KINDS[key]]}",),
                evidence=(case.settings.evidence(key),),
                rank=2,
            )
        )
    return found


def _unknown(case: RuleContext) -> list[Finding]:
    """Arguments that 0.32 does not have, with the one that is spelled most like each."""
    gone = {one.name for one in GONE}
    names = [key for key in case.settings.values if key not in KINDS and key not in gone]
    found = []
    for key in names[:_MOST_UNKNOWN]:
        near = nearest(key)
        if near:
            spelled = case.settings.spelled(near, case.settings.values[key])
            steps = ("- " + case.settings.evidence(key).text, "+ " + spelled)
        else:
            steps = ("leave it out, or correct its name",)
        found.append(
            Finding(
                "unknown-argument",
                "error" if near or case.version == NEWEST else "warning",
                f"vLLM 0.32 has no argument {key}" + (f"; it has {near}" if near else ""),
                "certain" if case.version == NEWEST else "likely",
                "vLLM refuses unknown arguments and does not start.",
                steps,
                (case.settings.evidence(key),),
                rank=3,
            )
        )
    return found


def _gone(case: RuleContext) -> list[Finding]:
    """Arguments and variables of older releases."""
    found = []
    for one in GONE:
        if not case.given(one.name):
            continue
        if case.version and case.version < (one.since or NEWEST):
            continue
        since = "{}.{}".format(*one.since) if one.since else "0.32 or before"
        found.append(
            Finding(
                "argument-gone",
                "error" if case.version else "warning",
                f"vLLM has no argument {one.name} any more (gone since {since})",
                "certain" if case.version else "likely",
                "A release without it refuses to start.",
                ("- " + case.settings.evidence(one.name).text, f"+ ({one.instead})"),
                (case.settings.evidence(one.name),),
                rank=3,
            )
        )
    for name, instead in GONE_VARIABLES:
        if case.variable(name) and (case.version is None or case.version >= NEWEST):
            found.append(
                Finding(
                    "variable-gone",
                    "note",
                    f"vLLM 0.32 does not read {name}",
                    do=("- " + case.settings.evidence(name).text, f"+ ({instead})"),
                    evidence=(case.settings.evidence(name),),
                )
            )
    return found


def _not_a_choice(case: RuleContext) -> list[Finding]:
    """Values that are none of an argument's choices."""
    found = []
    for key, choices in CHOICES.items():
        value = case.value(key)
        if key in _JUDGED_ELSEWHERE or not isinstance(value, str) or value in choices:
            continue
        near = difflib.get_close_matches(value, choices, 1) or [choices[0]]
        known = case.version == NEWEST
        found.append(
            Finding(
                "not-a-choice",
                "error" if known else "warning",
                f"{key} has no choice of this name; the nearest is {near[0]!r}",
                "certain" if known else "likely",
                "vLLM 0.32 takes: " + ", ".join(choices) + ".",
                (
                    "- " + case.settings.evidence(key).text,
                    "+ " + case.settings.spelled(key, near[0]),
                ),
                (case.settings.evidence(key),),
                rank=4,
            )
        )
    return found
