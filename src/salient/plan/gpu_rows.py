"""How the rows of the device tables become records.

A row is one line: what a device has of its own. What it shares with its like (architecture, source,
what a core does in a cycle) stands once, in a Family.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .gpus import Gpu, Vendor

# family, name, memory, GB/s, then cores and MHz or float16 and FP8 TFLOP/s, then aliases "a, b"
Row = tuple[str, str, float, float, float, float, str]


@dataclass(frozen=True)
class GpuSeries:
    """What rows have in common; see Gpu for the rest.

    per_core: float16 operations that a core of the row does in a cycle, summed in float32; 0 where
        the source prints TFLOP/s, and rows hold those of float16 and FP8 instead of cores and MHz
    mib: whether the rows' memory is in MiB, not GiB
    """

    vendor: Vendor
    architecture: str
    source: str
    per_core: int = 0
    mib: bool = False
    capability: int = 0
    gfx: str = ""


def records(families: Mapping[str, GpuSeries], rows: tuple[Row, ...]) -> tuple[Gpu, ...]:
    """One record a row, in their order."""
    return tuple(_record(families[row[0]], row) for row in rows)


def _takes_fp8(family: GpuSeries) -> bool:
    """Whether its matrix cores multiply FP8, which all of them do twice as fast as float16."""
    return family.capability >= 89 or family.gfx.startswith(("gfx94", "gfx95", "gfx12"))


def _record(family: GpuSeries, row: Row) -> Gpu:
    _, name, memory, bandwidth, first, second, aliases = row
    tflops, fp8 = first, second
    if family.per_core:
        tflops = first * second * family.per_core / 1e6
        fp8 = 2 * tflops if _takes_fp8(family) else 0
    return Gpu(
        name=name,
        vendor=family.vendor,
        architecture=family.architecture,
        memory=round(memory / 1024, 2) if family.mib else memory,
        bandwidth=bandwidth,
        tflops=round(tflops, 2),
        fp8_tflops=round(fp8, 1),
        capability=family.capability,
        gfx=family.gfx,
        source=family.source,
        aliases=tuple(aliases.split(", ")) if aliases else (),
    )
