"""Devices: memory, bandwidth and rate of each, and how to find one by its name.

The catalogue is gpus.json: a series of devices with what they share, then one line a device,

    [name, memory, bandwidth in GB/s, cores, MHz, aliases...]

where the series has `per_core`, the float16 operations (summed in float32) of a core in a cycle, or

    [name, memory, bandwidth in GB/s, float16 TFLOP/s, FP8 TFLOP/s, aliases...]

where the vendor prints rates. A series has `vendor`, `architecture`, `source`, `capability`
(NVIDIA) or `gfx` (AMD), `unified` where it shares the memory of its processor, and a `note` for
readers of the file.

- Rates are dense float16 products summed in float32; sources print sparse ones from Ampere on, and
  GeForce cards sum in float32 at half the advertised rate. Before Volta the rate is float32's.
- NVIDIA: memory in MiB as nvidia-smi prints it (as CUDA reports it where it is shared with the
  CPU). No laptop GPUs: their clocks differ from maker to maker. A bare name that fits several rows
  ("H100") is an alias of the commonest; "RTX 4060 Ti" and "RTX 5060 Ti" are the smaller ones.
- Other memory is in GiB. AMD's MI250 and MI250X are one of the card's two dies and Intel's Max 1550
  one of its two tiles, as drivers show them. Cores are compute units, Xe cores or GPU cores.
  Without matrix cores (before CDNA and RDNA 3) the rate is that of float16 dot products. Intel
  prints INT8 rates, of which float16 is half. "Ryzen AI Max+ 395" is its GPU with all the memory.
- Apple: the largest memory sold with the chip; a core has 128 lanes, where float16 is as fast as
  float32. Clocks of M1 and M2 give the printed TFLOP/s, M3 and M4 are powermetrics' highest.
- CPUs: one socket, all memory channels in use (channels x 8 bytes x MT/s), a common amount of
  memory, base clock, the widest instruction that multiplies bfloat16 (else float32) into float32;
  of a hybrid CPU the performance cores. "CPU" alone is a desktop.
"""

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

from salient.core.errors import RequestError

Vendor = Literal["nvidia", "amd", "intel", "apple", "cpu"]
LARGEST = 10_000  # GiB; no device has more
LONGEST = 100  # characters of a name that are read
# Memory in a name ("T4 16GB") is the nominal size; drivers show up to a tenth less.
RESERVED = 0.1
EXAMPLES = ("RTX 4090", "H100 SXM", "L40S", "MI300X", "M3 Max")  # where no name is similar


@dataclass(frozen=True)
class Gpu:
    """A device; figures from its vendor's data sheet.

    name: "RTX 4090", "H100 SXM", "MI300X"
    architecture: "Ada", "Hopper", "CDNA 3"
    memory: GiB that the driver shows
    bandwidth: GB/s of its memory
    tflops: dense float16 products summed in float32, 10^12 a second
    fp8_tflops: the same in FP8, 0 where the hardware has none
    capability: CUDA compute capability, 89 for 8.9; 0 for other vendors
    gfx: AMD's target, "gfx942"; "" for other vendors
    unified: whether the processor and the system have their part of the memory
    source: where the figures are from
    aliases: other names of the device
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
    unified: bool = False


@cache
def catalogue() -> tuple[Gpu, ...]:
    """Every device of gpus.json, NVIDIA's first."""
    path = Path(__file__).with_name("gpus.json")
    series = json.loads(path.read_text(encoding="utf-8")).values()
    return tuple(_device(shared, row) for shared in series for row in shared["devices"])


def _device(shared: dict[str, Any], row: list[Any]) -> Gpu:
    """The device of a row and what its series shares."""
    name, memory, bandwidth, first, second, *aliases = row
    capability, gfx = shared.get("capability", 0), shared.get("gfx", "")
    tflops, fp8_tflops = first, second
    if per_core := shared.get("per_core"):
        tflops = first * second * per_core / 1e6
        # matrix cores that multiply FP8 do so at twice the rate of float16
        has_fp8 = capability >= 89 or gfx.startswith(("gfx94", "gfx95", "gfx12"))
        fp8_tflops = 2 * tflops if has_fp8 else 0
    return Gpu(
        name=name,
        vendor=shared["vendor"],
        architecture=shared["architecture"],
        memory=round(memory / 1024, 2) if shared["vendor"] == "nvidia" else memory,
        bandwidth=bandwidth,
        tflops=round(tflops, 2),
        fp8_tflops=round(fp8_tflops, 1),
        capability=capability,
        gfx=gfx,
        source=shared["source"],
        aliases=tuple(aliases),
        unified=shared.get("unified", shared["vendor"] == "apple"),
    )


# Words for the maker or kind of a device. They are cut out of names that have lost their spaces,
# so none may be part of another name of the catalogue.
_MAKERS = re.compile(
    "nvidia|geforce|tesla|gtx|rtx|amd|radeon|instinct|rx|intel|arc|apple"
    "|corporation|generation|workstation|edition|datacenter|graphics|gpu"
)
# "(R)", and around names of CPUs: "13th Gen", "24-Core Processor", "CPU @ 2.30GHz"
_MARKS = re.compile(r"\((?:r|tm|c)\)|^\d+th gen |\b\d+-core processor\b|( cpu)? @ .*$| w/ .*$")
_MEMORY = re.compile(r"(?<![a-z0-9.])(\d+) ?gi?b?\)?$")


def find_gpu(name: str) -> Gpu:
    """The device called `name`: "4090", "NVIDIA GeForce RTX 4090", "nvidia a100-sxm4-80gb".

    Case, spaces, dashes and vendors' words are ignored. Memory may stand at the end, nominal or as
    the driver shows it. Raises RequestError with the most similar names.
    """
    text = name[:LONGEST].lower().strip()
    gpu = _by_name().get(simplified(text)) or _without_memory(text)
    if gpu is None or len(name) > LONGEST:
        raise RequestError(
            f"Unknown device {name[:LONGEST]!r}. Try one of: {', '.join(_nearest(text))}. "
            "Or give its memory alone: --vram GB works without a catalogue."
        )
    return gpu


def gpu_of_memory(gib: float) -> Gpu:
    """A device of which only the memory is known: its other figures are 0.

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
    """The key of a name: letters and digits, without vendors' words."""
    return _MAKERS.sub("", re.sub("[^a-z0-9]", "", _MARKS.sub("", name.lower())))


@cache
def _by_name() -> dict[str, Gpu]:
    """Every device by its simplified name and aliases."""
    return {simplified(name): gpu for gpu in catalogue() for name in (gpu.name, *gpu.aliases)}


def _without_memory(text: str) -> Gpu | None:
    """The device named before a memory size, if it has about that much."""
    size = _MEMORY.search(text)
    gpu = _by_name().get(simplified(text[: size.start()])) if size else None
    if size and gpu and abs(int(size[1]) - gpu.memory) <= RESERVED * int(size[1]):
        return gpu
    return None


def _nearest(text: str) -> list[str]:
    """Names of the five devices that are spelled most like `text`."""
    known = _by_name()
    keys = get_close_matches(simplified(text), known, n=len(known), cutoff=0.4)
    return list(dict.fromkeys([known[key].name for key in keys] + [*EXAMPLES]))[:5]
