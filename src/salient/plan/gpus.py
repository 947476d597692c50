"""The catalogue of devices: memory, bandwidth and rate of each.

It is gpus.json: a series of devices with what they share, then one line a device,

    [name, memory, bandwidth in GB/s, cores, MHz, aliases...]

where the series has `per_core`, the float16 operations (summed in float32) of a core in a cycle, or

    [name, memory, bandwidth in GB/s, float16 TFLOP/s, FP8 TFLOP/s, aliases...]

where vendors print rates. A series has `vendor`, `architecture`, `source`, `capability` (NVIDIA) or
`gfx` (AMD); `unified` where it shares the memory of its processor; `per_board`, the GPUs of a board
that is sold as one; and a `note` for readers of the file. `device_names.py` reads the names.

- Rates are dense float16 products summed in float32; sources print sparse ones from Ampere on, and
  GeForce cards sum in float32 at half the advertised rate. Before Volta the rate is float32's.
- NVIDIA: memory in MiB as nvidia-smi prints it (as CUDA reports it where it is shared with the
  CPU). A bare name that fits several rows ("H100") is an alias of the commonest; "RTX 4060 Ti" and
  "RTX 5060 Ti" are the smaller ones. MHz of laptop GPUs is [least, most]: the boost clocks of the
  lowest and the highest power that a maker may set.
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
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from salient.core.errors import RequestError
from salient.core.records import is_list

Vendor = Literal["nvidia", "amd", "intel", "apple", "cpu"]
LARGEST = 10_000  # GiB; no device has more


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
    slowest: share of its rates at the lowest power that a laptop's maker may set
    per_board: such GPUs on a board that is sold as one
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
    slowest: float = 1.0
    per_board: int = 1
    unified: bool = False


@cache
def catalogue() -> tuple[Gpu, ...]:
    """Every device of gpus.json, NVIDIA's first."""
    path = Path(__file__).with_name("gpus.json")
    series = json.loads(path.read_text(encoding="utf-8")).values()
    return tuple(_device(shared, row) for shared in series for row in shared["devices"])


def _device(series: dict[str, Any], row: list[Any]) -> Gpu:
    """The device of a row and what its series shares."""
    name, memory, bandwidth, first, second, *aliases = row
    capability, gfx = series.get("capability", 0), series.get("gfx", "")
    least, most = second if is_list(second) else (second, second)
    tflops, fp8_tflops = first, most
    if per_core := series.get("per_core"):
        tflops = first * most * per_core / 1e6
        # matrix cores that multiply FP8 do so at twice the rate of float16
        has_fp8 = capability >= 89 or gfx.startswith(("gfx94", "gfx95", "gfx12"))
        fp8_tflops = 2 * tflops if has_fp8 else 0
    return Gpu(
        name=name,
        vendor=series["vendor"],
        architecture=series["architecture"],
        memory=round(memory / 1024, 2) if series["vendor"] == "nvidia" else memory,
        bandwidth=bandwidth,
        tflops=round(tflops, 2),
        fp8_tflops=round(fp8_tflops, 1),
        capability=capability,
        gfx=gfx,
        source=series["source"],
        aliases=tuple(aliases),
        slowest=round(least / most, 2) if least else 1.0,
        per_board=series.get("per_board", {}).get(name, 1),
        unified=series.get("unified", series["vendor"] == "apple"),
    )


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
