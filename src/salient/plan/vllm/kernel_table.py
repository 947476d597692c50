"""vLLM's kernels for quantized and 16-bit weights, one row each, and the limits of each.

The rows are in kernels.json. KERNELS has the kernels for groups of 4- and 8-bit codes in the order
in which vLLM tries them, platform by platform (vLLM 0.32, model_executor/kernels/linear/__init__.py
with _POSSIBLE_KERNELS); the limits of a row are those of its can_implement in the file named with
it. Marlin pads odd widths with zeros from 0.24 on. Kernels with 8-bit activations are there for
their refusals: no weight-only checkpoint has what they take.

SLOW_KERNELS has what AWQ's layers take where they do not try the list (auto_awq.py:
AutoAWQLinearMethod); awq_gemm's limits are in csrc/quantization/awq/gemm_kernels.cu.

FORMAT_KERNELS has those of the other formats. 16-bit: layers/utils.py. FP8:
kernels/linear/__init__.py, _POSSIBLE_FP8_KERNELS, and scaled_mm/*.py; ROCm's targets are those of
_rocm_torch_fp8_scaled_mm_supported. Its blocks, INT8, NVFP4, MXFP4 and MXFP8: the lists there of
these names, and nvfp4/, mxfp4/, mxfp8/; of experts fused_moe/oracle/{nvfp4,mxfp4}.py (Triton's
MXFP4 experts need a capability from 9.0 to below 11.0). GGUF and bitsandbytes: vLLM #39583.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from salient.plan.gpus import Vendor

from .rows import Rows, read_table
from .sharding import MatrixShard
from .types import ServingTarget, WeightPacking, dotted
from .versions import EVER, HUMMING_FIRST, OLDEST, Version


@dataclass(frozen=True)
class VllmKernel:
    """A row of the table.

    name: in messages; source: its file, in mixed_precision/ where no folder is named
    vendors: platforms; since, until: releases that have it with these limits
    least, exactly: compute capability; gfx: prefixes of AMD's targets
    zeros, plain: bits of the codes that it takes with zero points, and without
    groups: sizes that it takes, () for any; group_step: or multiples of this (and -1)
    column: whether a group of all the GPU's inputs fits too
    dtypes: of activations; inputs, outputs: a GPU's part must be a multiple of
    whole: outputs must be a multiple of the group; act_order: whether it takes activation order
    package: what must be installed in addition to vLLM; fast: whether it is meant to run
    class_name: vLLM's, as logs and VLLM_DISABLED_KERNELS have it
    """

    name: str
    vendors: tuple[Vendor, ...]
    source: str
    since: Version = OLDEST
    until: Version = EVER
    least: int = 0
    exactly: int = 0
    gfx: tuple[str, ...] = ()
    zeros: tuple[int, ...] = (4,)
    plain: tuple[int, ...] = (4,)
    groups: tuple[int, ...] = ()
    group_step: int = 0
    column: bool = False
    dtypes: tuple[str, ...] = ("float16", "bfloat16")
    inputs: int = 1
    outputs: int = 1
    whole: bool = False
    act_order: bool = False
    package: str = ""
    fast: bool = True
    class_name: str = ""


def _kernels(rows: Rows) -> tuple[VllmKernel, ...]:
    """The kernels of rows; one that is "like" another differs from the last row of that name."""
    kernels: list[VllmKernel] = []
    for row in rows:
        like = row.pop("like", None)
        base = next((kernel for kernel in reversed(kernels) if kernel.name == like), None)
        kernels.append(replace(base, **row) if base else VllmKernel(**row))
    return tuple(kernels)


_TABLE, _TEXTS = read_table("kernels.json")
USE_AWQ = _TEXTS["awq"]
KERNELS, SLOW_KERNELS = _kernels(_TABLE["kernels"]), _kernels(_TABLE["slow"])


def kernel_order(
    target: ServingTarget, kernels: tuple[VllmKernel, ...] = KERNELS
) -> list[VllmKernel]:
    """The kernels that vLLM tries on this device, in its order."""
    rows = [
        kernel
        for kernel in kernels
        if target.gpu.vendor in kernel.vendors and kernel.since <= target.version < kernel.until
    ]
    names = [kernel.name for kernel in rows]
    if target.capability == 90 and target.version >= HUMMING_FIRST and "Humming" in names:
        rows.insert(names.index("Marlin"), rows.pop(names.index("Humming")))
    return rows


def kernel_misfit(
    kernel: VllmKernel, target: ServingTarget, packing: WeightPacking, shard: MatrixShard
) -> tuple[str, bool]:
    """Why a kernel does not take a matrix ("" where it does), and whether its widths are why."""
    general = chain(
        _device_misfits(kernel, target), _packing_misfits(kernel, target, packing, shard)
    )
    if why := next(general, ""):
        return why, False
    return next(_width_misfits(kernel, packing, shard), ""), True


def _device_misfits(kernel: VllmKernel, target: ServingTarget) -> Iterator[str]:
    disabled = target.environment.get("VLLM_DISABLED_KERNELS", "").replace(" ", "").split(",")
    if (kernel.class_name or f"{kernel.name}LinearKernel") in disabled:
        yield "VLLM_DISABLED_KERNELS switches it off"
    if target.gpu.vendor == "nvidia" and kernel.exactly not in (0, target.capability):
        yield f"needs compute capability {dotted(kernel.exactly)} exactly, not {target.device}"
    if target.gpu.vendor == "nvidia" and target.capability < kernel.least:
        yield f"needs compute capability {dotted(kernel.least)} or newer, not {target.device}"
    if kernel.gfx and not target.gpu.gfx.startswith(kernel.gfx):
        yield f"is made for {' and '.join(kernel.gfx)}, not {target.device}"


def _packing_misfits(
    kernel: VllmKernel, target: ServingTarget, packing: WeightPacking, shard: MatrixShard
) -> Iterator[str]:
    if not kernel.zeros and not kernel.plain:
        yield "takes 8-bit activations only"
    if packing.bits not in (kernel.zeros if packing.zeros else kernel.plain):
        zeros = "with zero points" if packing.zeros else "without zero points"
        yield f"takes no {packing.bits}-bit codes {zeros}"
    if packing.act_order and packing.group != -1 and not kernel.act_order:
        yield "takes no activation order"
    if target.dtype not in kernel.dtypes:
        yield f"multiplies {' and '.join(kernel.dtypes)}, not {target.dtype}"
    if not _takes_group(kernel, packing.group, shard):
        sizes = ["a column" if size == -1 else str(size) for size in kernel.groups]
        if kernel.group_step == 1:
            sizes.append("any size but a column")
        elif kernel.group_step:
            sizes.append(f"multiples of {kernel.group_step}")
        size = "a column" if packing.group == -1 else packing.group
        yield f"takes groups of {', '.join(sizes)}, not {size}"
    if kernel.package:
        yield f"needs the package {kernel.package}"


def _takes_group(kernel: VllmKernel, group: int, shard: MatrixShard) -> bool:
    step = kernel.group_step
    if group in kernel.groups or (not kernel.groups and not step):
        return True
    if step and group > 0 and group % step == 0:
        return True
    return kernel.column and group in (-1, shard.inputs)


def _width_misfits(kernel: VllmKernel, packing: WeightPacking, shard: MatrixShard) -> Iterator[str]:
    if shard.inputs % kernel.inputs:
        yield f"takes inputs in multiples of {kernel.inputs}, not {shard.inputs} a GPU"
    group = shard.inputs if packing.group == -1 else packing.group
    for step in (kernel.outputs, group if kernel.whole else 1):
        if shard.outputs % step:
            yield f"takes outputs in multiples of {step}, not {shard.outputs} a GPU"


@dataclass(frozen=True)
class FormatKernel:
    """What runs a format without groups of codes; the first row that fits counts.

    why: with {device}; least, most: compute capability; gfx: prefixes of AMD's targets
    amx: whether it needs AMX; experts: the kernel of a mixture's experts, "" for the same
    """

    method: str
    vendors: tuple[Vendor, ...]
    kernel: str
    why: str
    least: int = 0
    most: int = 10_000
    gfx: tuple[str, ...] = ()
    amx: bool = False
    experts: str = ""
    do: tuple[str, ...] = ()
    fast: bool = True

    def fits(self, target: ServingTarget, method: str) -> bool:
        if method != self.method or target.gpu.vendor not in self.vendors:
            return False
        gfx = not self.gfx or target.gpu.gfx.startswith(self.gfx)
        capable = self.least <= target.capability <= self.most
        return gfx and capable and (target.amx or not self.amx)


FORMAT_KERNELS = tuple(FormatKernel(**row) for row in _TABLE["formats"])
