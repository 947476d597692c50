"""vLLM's kernels for quantized and 16-bit weights, one row each, and the limits of each.

KERNELS has the kernels for groups of 4- and 8-bit codes in the order in which vLLM tries them,
platform by platform (vLLM 0.32, model_executor/kernels/linear/__init__.py: _POSSIBLE_KERNELS); the
limits of a row are those of its can_implement in the file named with it. Kernels with 8-bit
activations are there for their refusals: no weight-only checkpoint has what they take.
FORMAT_KERNELS has those of the other formats.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from salient.plan.gpus import Vendor

from .sharding import MatrixShard
from .types import ServingTarget, WeightPacking, dotted
from .versions import AUTO_AWQ, EVER, HUMMING_FIRST, OLDEST, TURING_MARLIN, Version

_HALVES = ("float16", "bfloat16")


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
    dtypes: tuple[str, ...] = _HALVES
    inputs: int = 1
    outputs: int = 1
    whole: bool = False
    act_order: bool = False
    package: str = ""
    fast: bool = True
    class_name: str = ""


_MARLIN = VllmKernel(
    "Marlin", ("nvidia",), "marlin.py", until=TURING_MARLIN, least=80, plain=(4, 8),
    groups=(-1, 32, 64, 128), inputs=128, outputs=64, act_order=True,
)  # fmt: skip
_TRITON = VllmKernel(
    "TritonW4A16", ("amd",), "triton_w4a16.py", since=(0, 20), groups=(-1, 32, 64, 128, 256),
    column=True, outputs=8,
)  # fmt: skip
_TRITON_AWQ = VllmKernel(
    "Triton AWQ", ("nvidia", "amd"), "layers/quantization/awq_triton.py", until=AUTO_AWQ,
    groups=(-1, 32, 64, 128), column=True, dtypes=("float16",), fast=False,
    class_name="AutoAWQLinearMethod",
)  # fmt: skip
KERNELS = (
    VllmKernel("CutlassW4A8", ("nvidia",), "cutlass.py", since=(0, 12), exactly=90, zeros=(),
               plain=(), groups=(128,), dtypes=("float8",), inputs=128, outputs=128),
    VllmKernel("Machete", ("nvidia",), "machete.py", exactly=90, zeros=(4, 8), plain=(4, 8),
               groups=(-1, 64, 128), inputs=64, outputs=128, act_order=True),
    _MARLIN,
    replace(_MARLIN, since=TURING_MARLIN, until=AUTO_AWQ, least=75),
    # from 0.24 on it pads odd widths with zeros
    replace(_MARLIN, since=AUTO_AWQ, until=EVER, least=75, inputs=1, outputs=1),
    VllmKernel("RDNA3W4A16", ("amd",), "rdna3_w4a16.py", since=(0, 23), gfx=("gfx1100",), zeros=(),
               group_step=1, outputs=8),
    VllmKernel("RDNAHybridW4A16", ("amd",), "rdna_hybrid_w4a16.py", since=(0, 26),
               gfx=("gfx11", "gfx12"), groups=(32, 64, 128), inputs=16),
    _TRITON,
    VllmKernel("Conch", ("nvidia", "amd"), "conch.py", since=(0, 12), least=80, zeros=(4, 8),
               plain=(4, 8), groups=(-1, 128), package="conch-triton-kernels"),
    VllmKernel("Exllama", ("nvidia", "amd"), "exllama.py", least=60, zeros=(), plain=(4, 8),
               group_step=1, dtypes=("float16",), outputs=8, act_order=True, fast=False),
    replace(_TRITON, vendors=("nvidia",), since=(0, 23), fast=False),
    VllmKernel("Humming", ("nvidia",), "humming.py", since=(0, 23), least=75, zeros=(4, 8),
               plain=(4, 8), package="humming-kernels"),
    VllmKernel("XPUW4A8Int", ("intel",), "xpu.py", since=(0, 19), zeros=(), plain=()),
    VllmKernel("XPUwNa16", ("intel",), "xpu.py", since=(0, 13), groups=(-1,), group_step=32,
               inputs=32),
    VllmKernel("Dynamic4bit", ("cpu",), "dynamic_4bit.py", since=(0, 12), zeros=(), plain=()),
    VllmKernel("Zentorch", ("cpu",), "zentorch.py", since=(0, 23), package="zentorch",
               class_name="ZentorchWNA16LinearKernel"),
    VllmKernel("CPUWNA16", ("cpu",), "cpu.py", since=(0, 12), groups=(-1,), group_step=2, inputs=32,
               outputs=32),
)  # fmt: skip
# What AWQ's layers take where they do not try the list (auto_awq.py: AutoAWQLinearMethod). The
# first kernel's limits are in csrc/quantization/awq/gemm_kernels.cu.
SLOW_KERNELS = (
    VllmKernel("awq_gemm", ("nvidia",), "_custom_ops.py", least=75, group_step=32, column=True,
               dtypes=("float16",), outputs=64, whole=True, fast=False,
               class_name="AutoAWQLinearMethod"),
    _TRITON_AWQ,
    replace(_TRITON_AWQ, since=AUTO_AWQ, until=EVER, dtypes=_HALVES),
)  # fmt: skip


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

    why: with {device}; least: compute capability; gfx: prefixes of AMD's targets
    amx: whether it needs AMX
    """

    method: str
    vendors: tuple[Vendor, ...]
    kernel: str
    why: str
    least: int = 0
    gfx: tuple[str, ...] = ()
    amx: bool = False
    do: tuple[str, ...] = ()
    fast: bool = True

    def fits(self, target: ServingTarget, method: str) -> bool:
        if method != self.method or target.gpu.vendor not in self.vendors:
            return False
        gfx = not self.gfx or target.gpu.gfx.startswith(self.gfx)
        return gfx and target.capability >= self.least and (target.amx or not self.amx)


USE_AWQ = "quantize to AWQ or compressed-tensors, whose kernels are several times as fast"
USE_LLAMA_CPP = "run the file with llama.cpp, which it was made for"
_PLAIN = "16-bit weights are multiplied as they are"
_WIDENED = "its weights are widened at every step"
_NO_FP8 = "{device} multiplies no FP8: weights are widened as they are read, prompts gain nothing"
# 16-bit: layers/utils.py. FP8: kernels/linear/__init__.py, _POSSIBLE_FP8_KERNELS, and
# scaled_mm/*.py; ROCm's targets are those of _rocm_torch_fp8_scaled_mm_supported. GGUF and
# bitsandbytes: vLLM #39583.
FORMAT_KERNELS = (
    FormatKernel("none", ("nvidia",), "cuBLAS", _PLAIN),
    FormatKernel("none", ("amd",), "hipBLASLt", _PLAIN),
    FormatKernel("none", ("intel", "cpu"), "oneDNN", _PLAIN),
    FormatKernel("fp8", ("nvidia",), "CUTLASS FP8", "{device} multiplies FP8 itself", least=89),
    FormatKernel("fp8", ("nvidia",), "Marlin FP8", _NO_FP8),
    FormatKernel("fp8", ("amd",), "ROCm FP8", "{device} multiplies FP8 itself",
                 gfx=("gfx942", "gfx950", "gfx12")),
    FormatKernel("fp8", ("intel",), "XPU FP8", "FP8 weights are multiplied by Intel's kernels"),
    FormatKernel("fp8", ("cpu",), "CPU FP8", "AMX multiplies FP8 weights", amx=True),
    FormatKernel("fp8", ("cpu",), "torch._scaled_mm", "without AMX only PyTorch's own is left",
                 do=(USE_AWQ,), fast=False),
    FormatKernel("bitsandbytes", ("nvidia", "amd"), "bitsandbytes", _WIDENED, do=(USE_AWQ,),
                 fast=False),
    FormatKernel("gguf", ("nvidia", "amd"), "GGUF", "vLLM's GGUF kernels are experimental",
                 do=(USE_LLAMA_CPP, USE_AWQ), fast=False),
)  # fmt: skip
