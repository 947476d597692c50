"""Formats without groups of integer codes: which kernel vLLM has for each on each device."""

from dataclasses import dataclass

from salient.plan.gpus import Vendor

from .types import KernelVerdict, ServingTarget, WeightPacking

_AWQ = "quantize to AWQ or compressed-tensors, whose kernels are several times as fast"
_LLAMA = "run the file with llama.cpp, which it was made for"


@dataclass(frozen=True)
class UnquantizedKernel:
    """A row: what vLLM runs `method` with on `vendor`'s devices. The first row that fits counts.

    why: with {device} for the device; least: compute capability from which it holds
    gfx: starts of AMD's targets; amx: whether it needs AMX
    """

    method: str
    vendor: Vendor
    kernel: str
    why: str
    least: int = 0
    gfx: tuple[str, ...] = ()
    amx: bool = False
    fast: bool = True
    do: tuple[str, ...] = ()


# 16 bits: layers/utils.py. FP8: kernels/linear/__init__.py, _POSSIBLE_FP8_KERNELS, and
# scaled_mm/*.py; ROCm's targets are those of _rocm_torch_fp8_scaled_mm_supported. GGUF and
# bitsandbytes: vLLM #39583.
PLAINS = (
    UnquantizedKernel("none", "nvidia", "cuBLAS", "16-bit weights are multiplied as they are"),
    UnquantizedKernel("none", "amd", "hipBLASLt", "16-bit weights are multiplied as they are"),
    UnquantizedKernel("none", "intel", "oneDNN", "16-bit weights are multiplied as they are"),
    UnquantizedKernel("none", "cpu", "oneDNN", "16-bit weights are multiplied as they are"),
    UnquantizedKernel("fp8", "nvidia", "CUTLASS FP8", "{device} multiplies FP8 itself", least=89),
    UnquantizedKernel("fp8", "nvidia", "Marlin FP8", "{device} multiplies no FP8: weights are widened "
          "while they are read, and prompts gain nothing"),
    UnquantizedKernel("fp8", "amd", "ROCm FP8", "{device} multiplies FP8 itself",
          gfx=("gfx942", "gfx950", "gfx12")),
    UnquantizedKernel("fp8", "intel", "XPU FP8", "FP8 weights are multiplied by Intel's kernels"),
    UnquantizedKernel("fp8", "cpu", "CPU FP8", "AMX multiplies FP8 weights", amx=True),
    UnquantizedKernel("fp8", "cpu", "torch._scaled_mm", "without AMX PyTorch's own FP8 product is left",
          fast=False, do=(_AWQ,)),
    UnquantizedKernel("bitsandbytes", "nvidia", "bitsandbytes", "its weights are widened at every step",
          fast=False, do=(_AWQ,)),
    UnquantizedKernel("bitsandbytes", "amd", "bitsandbytes", "its weights are widened at every step",
          fast=False, do=(_AWQ,)),
    UnquantizedKernel("gguf", "nvidia", "GGUF", "vLLM's GGUF kernels are experimental", fast=False,
          do=(_LLAMA, _AWQ)),
    UnquantizedKernel("gguf", "amd", "GGUF", "vLLM's GGUF kernels are experimental", fast=False,
          do=(_LLAMA, _AWQ)),
)  # fmt: skip


def plain_verdict(served: ServingTarget, packing: WeightPacking) -> KernelVerdict:
    """The kernel of a format without groups."""
    for row in PLAINS:
        if (row.method, row.vendor) == (packing.method, served.gpu.vendor) and _holds(row, served):
            pace = "fast" if row.fast else "slow"
            return KernelVerdict(row.kernel, pace, row.why.format(device=served.device), do=row.do)
    why = f"vLLM has no {packing.method} kernel for {served.device}"
    return KernelVerdict("", "refused", why, do=(_AWQ,))


def _holds(row: UnquantizedKernel, served: ServingTarget) -> bool:
    target = not row.gfx or served.gpu.gfx.startswith(row.gfx)
    return target and served.capability >= row.least and (served.amx or not row.amx)
