"""What a machine means for an engine: findings of the rows, of requirements and of variables.

Left out: what only a log can tell.
"""

from pathlib import Path

from salient.diagnose.finding import Evidence, Finding, ranked
from salient.diagnose.rule import apply_rules
from salient.diagnose.serving.rule_context import RuleContext
from salient.diagnose.serving.serving_rules import RULES as SETTINGS_RULES
from salient.diagnose.serving.settings import ServingSettings
from salient.plan.gpus import Gpu

from .conditions import vllm_release
from .environment import Environment
from .gpu_rules import RULES as DEVICE_RULES
from .system_rules import RULES as HOST_RULES

_GIB = 2**30


def judge_environment(environment: Environment) -> list[Finding]:
    """What is wrong, slow, or right here, worst first."""
    found = []
    for rule in (*DEVICE_RULES, *HOST_RULES):
        texts = list(rule.seen(environment))
        if texts:
            evidence = tuple(Evidence(rule.where, text) for text in texts)
            found.append(
                Finding(
                    rule.id,
                    rule.level,
                    rule.title,
                    rule.certainty,
                    rule.matters,
                    rule.do,
                    evidence,
                    len(texts),
                    rule.rank,
                )
            )
    return ranked(found + _broken_requirements(environment) + _variables(environment))


def _broken_requirements(environment: Environment) -> list[Finding]:
    """Packages of another version than an engine's metadata asks for."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    found, kept = [], 0
    for owner, line in environment.needs:
        try:
            need = Requirement(line)
            version = environment.packages.get(need.name.lower().replace("_", "-"))
            if version is None or (need.marker and not need.marker.evaluate({"extra": ""})):
                continue
            if need.specifier.contains(Version(version), prereleases=True):
                kept += bool(need.specifier)
                continue
        except ValueError:  # a requirement, a version or a marker that is none
            continue
        has = environment.packages.get(owner, "")
        pin = f"{need.name}{need.specifier}"
        found.append(
            Finding(
                "requirement-broken",
                "error",
                f"{owner} {has} needs {pin}; {need.name} {version} is installed",
                why="The last installation changed it. Engines fail at import, or later and "
                "in stranger ways.",
                do=(
                    f'pip install "{pin}"',
                    "if another package needs that version: give each an environment of its own",
                ),
                evidence=(Evidence(f"metadata of {owner} {has}", line),),
                rank=5,
            )
        )
    if kept and not found:
        found.append(
            Finding("requirements-kept", "good", f"{kept} pinned requirements of engines are kept")
        )
    return found


def _variables(environment: Environment) -> list[Finding]:
    """The rules of serving settings that are about variables alone."""
    settings = ServingSettings(Path("environment"), "command", environment=environment.variables)
    case = RuleContext(settings, _gpu(environment), vllm_release(environment))
    rules = [rule for rule in SETTINGS_RULES if all(key.isupper() for key in rule.subjects)]
    return apply_rules(rules, case, case.version)


def _gpu(environment: Environment) -> Gpu | None:
    """The first GPU, or the CPU, as the rules of settings know devices."""
    if not environment.cards:
        return Gpu("CPU", "cpu", "", environment.memory / _GIB, 0, 0)
    card = environment.cards[0]
    vendor = "amd" if card.vendor == "amd" else "nvidia"
    return Gpu(card.name, vendor, "", card.memory / 1024, 0, 0, capability=card.capability)
