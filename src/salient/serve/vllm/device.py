"""What vLLM will run on here: the GPUs that it may see, or the processor."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from salient.core.errors import RequestError
from salient.core.system import available_memory
from salient.diagnose.host.environment import Environment, GpuInfo
from salient.diagnose.host.probe import read_environment
from salient.plan.engine_profiles import GIB
from salient.plan.gpus import Gpu, find_gpu

from .locate import VllmInstall

_VISIBLE = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES"}
_MIB = 2**20


@dataclass(frozen=True)
class TargetDevice:
    """The smallest device that vLLM may take, how many like it there are, and what is free.

    count: GPUs, 0 for the processor; free: bytes, of the fullest of the GPUs
    """

    gpu: Gpu
    count: int
    free: int


def find_place(vllm: VllmInstall | None, wanted: int = 1) -> TargetDevice | None:
    """Where vLLM will run; None where that is not known: no GPU is seen, and it is not known that
    this vLLM was built for CPUs.

    wanted: GPUs that it takes, the first ones it sees.
    """
    environment = read_environment()
    if vllm is not None and vllm.cpu:
        return TargetDevice(_processor(environment), 0, available_memory())
    cards = visible(environment.cards, os.environ)
    if not cards:
        return None
    taken = cards[:wanted]
    gpu = _gpu(min(taken, key=lambda card: card.memory))
    if not all(card.memory for card in taken):  # of memory that it shares a GPU tells nothing
        return TargetDevice(gpu, len(cards), round(gpu.memory * GIB))
    free = min(card.memory - card.used for card in taken)
    return TargetDevice(gpu, len(cards), round(free * _MIB))


def visible(cards: tuple[GpuInfo, ...], environment: Mapping[str, str]) -> tuple[GpuInfo, ...]:
    """The cards that a CUDA or HIP program sees, in its order.

    A variable that names them by other words than numbers leaves all, for which they are is not
    known; numbers of cards that are not there end the list, as they do in CUDA.
    """
    if not cards:
        return cards
    told = environment.get(_VISIBLE[cards[0].vendor])
    words = [word.strip() for word in told.split(",")] if told is not None else None
    if words is None or not all(word.lstrip("-").isdecimal() for word in words if word):
        return cards
    chosen = []
    for number in (int(word) for word in words if word):
        if not 0 <= number < len(cards):
            break
        chosen.append(cards[number])
    return tuple(chosen)


def _gpu(card: GpuInfo) -> Gpu:
    """The catalogue's row with the memory that the driver tells, or what the driver tells alone."""
    memory = card.memory / 1024
    vendor = "amd" if card.vendor == "amd" else "nvidia"
    try:
        known = find_gpu(card.name)
    except RequestError:
        return Gpu(card.name, vendor, "", memory, 0, 0, capability=card.capability, gfx=card.gfx)
    return Gpu(
        known.name,
        known.vendor,
        known.architecture,
        memory or known.memory,
        known.bandwidth,
        known.tflops,
        known.fp8_tflops,
        known.capability or card.capability,
        known.gfx or card.gfx,
    )


def _processor(environment: Environment) -> Gpu:
    """The processor; "AMX" stands in its architecture if it has that, for kernels ask for it."""
    amx = "AMX" if any(flag.startswith("amx") for flag in environment.flags) else ""
    memory = min(environment.memory, environment.limit or environment.memory) / GIB
    return Gpu(environment.cpu or "CPU", "cpu", amx, memory, 0, 0)
