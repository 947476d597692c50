"""Devices: what they hold, how fast they read and multiply, what engines call them.

The rows are in gpu_table.py; here a name finds its row, however people or drivers spell it.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Literal

from salient.core.errors import RequestError

Vendor = Literal["nvidia", "amd", "intel", "apple", "cpu"]
LARGEST = 10_000  # GiB; no device has more
LONGEST = 100  # characters of a name that are read
# Memory in a name ("T4 16GB") is what the box says; drivers show up to a tenth less.
KEPT_BACK = 0.1
EXAMPLES = ("RTX 4090", "H100 SXM", "L40S", "MI300X", "M3 Max")  # where nothing is near


@dataclass(frozen=True)
class Gpu:
    """A device of the catalogue; figures from its vendor's data sheet.

    name: as people write it, "RTX 4090", "H100 SXM", "MI300X"
    architecture: "Ada", "Hopper", "CDNA 3"
    memory: GiB that the driver shows (a data sheet's GB where it says no more)
    bandwidth: GB/s of its memory
    tflops: dense float16 products summed in float32, 10^12 a second (no sparsity)
    fp8_tflops: the same in FP8, 0 where it has none
    capability: CUDA compute capability, 89 for 8.9; 0 for others
    gfx: AMD's name of the target, "gfx942"; "" for others
    source: where the figures are from
    aliases: other names that it is called by
    """

    name: str
    vendor: Vendor
    architecture: str
    memory: float
    bandwidth: float
    tflops: float
    fp8_tflops: float = 0
    capability: int = 0
    gfx: str = ""
    source: str = ""
    aliases: tuple[str, ...] = ()


# Words that say who made it or what it is, not which one it is. They are cut out of names that
# have lost their spaces, so none of them may stand within another name of the table.
_MAKERS = re.compile(
    "nvidia|geforce|tesla|gtx|rtx|amd|radeon|instinct|rx|intel|arc|apple"
    "|corporation|generation|workstation|edition|datacenter|graphics|gpu"
)
# "(R)", and what stands around names of CPUs: "13th Gen", "24-Core Processor", "CPU @ 2.30GHz"
_MARKS = re.compile(r"\((?:r|tm|c)\)|^\d+th gen |\b\d+-core processor\b|( cpu)? @ .*$| w/ .*$")
_MEMORY = re.compile(r"(?<![a-z0-9.])(\d+) ?gi?b?\)?$")


def find_gpu(name: str) -> Gpu:
    """The device called `name`: "4090", "NVIDIA GeForce RTX 4090", "nvidia a100-sxm4-80gb".

    Case, spaces, dashes and vendors' words do not matter. A name that fits several rows ("H100") is
    the one that has it as an alias. Memory may stand at the end, as sold or as shown.
    Raises RequestError with the nearest names.
    """
    text = name[:LONGEST].lower().strip()
    found = _catalogue().get(simplified(text)) or _without_memory(text)
    if found is None or len(name) > LONGEST:
        raise RequestError(
            f"Unknown device {name[:LONGEST]!r}. Try one of: {', '.join(_nearest(text))}. "
            "Or give its memory alone: --vram GB works without a catalogue."
        )
    return found


def gpu_of_memory(gib: float) -> Gpu:
    """A device of `gib` GiB of which nothing else is known: its figures are 0.

    Raises RequestError unless it is above 0 and at most LARGEST.
    """
    if not 0 < gib <= LARGEST:  # NaN is neither
        raise RequestError(
            f"No device has {gib:g} GiB of memory. "
            f"Give --vram a number above 0 and up to {LARGEST}, in GiB."
        )
    name = f"{gib:g} GiB GPU"
    return Gpu(name, "nvidia", "unknown", gib, bandwidth=0, tflops=0, source="--vram")


def simplified(name: str) -> str:
    """`name` as it is looked up: letters and digits, without vendors' words."""
    return _MAKERS.sub("", re.sub("[^a-z0-9]", "", _MARKS.sub("", name.lower())))


@cache
def _catalogue() -> dict[str, Gpu]:
    """Every row under its name and its aliases, simplified."""
    from .gpu_table import GPUS  # here, for the table imports Gpu

    return {simplified(name): gpu for gpu in GPUS for name in (gpu.name, *gpu.aliases)}


def _without_memory(text: str) -> Gpu | None:
    """The device that `text` names before a memory size, if it has about that much."""
    size = _MEMORY.search(text)
    gpu = _catalogue().get(simplified(text[: size.start()])) if size else None
    if size and gpu and abs(int(size[1]) - gpu.memory) <= KEPT_BACK * int(size[1]):
        return gpu
    return None


def _nearest(text: str) -> list[str]:
    """Names of the five rows that are spelled most like `text`."""
    known = _catalogue()
    keys = get_close_matches(simplified(text), known, n=len(known), cutoff=0.4)
    return list(dict.fromkeys([known[key].name for key in keys] + [*EXAMPLES]))[:5]
