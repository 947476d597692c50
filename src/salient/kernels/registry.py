"""Select the kernel of a layer; measure from how many rows a dense product is faster."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.functional import linear

from salient.core.errors import ModelError

from .base import Layer, PackedWeight

# Name -> module and class, imported lazily. In order of preference; `dense` supports every layer,
# so later ones are only selected by name.
KERNELS = {
    "triton": ("triton", "TritonWeight"),
    "cpu": ("cpu", "CpuWeight"),
    "torch-int4": ("torch_int4", "TorchInt4Weight"),
    "dense": ("dense", "DenseWeight"),
    "reference": ("dense", "ReferenceWeight"),
}
# vLLM's kernels, for comparison: only selected by name.
FOREIGN = {"marlin": ("vllm_kernels", "MarlinWeight"), "machete": ("vllm_kernels", "MacheteWeight")}
CROSSOVER_ROWS = (16, 64, 256)
MARGIN = 1.2  # a dense product must be this much faster: it rounds activations to 16 bits
NEVER = 2**31


@dataclass(frozen=True)
class KernelChoice:
    """The kernel of a layer, and the reason for it."""

    kernel: type[PackedWeight]
    why: str


def find_kernel(name: str) -> type[PackedWeight]:
    """The kernel called `name`. Raises ModelError for an unknown name."""
    known = KERNELS | FOREIGN
    if name not in known:
        raise ModelError(f"Unknown kernel {name!r}. Known kernels: {', '.join(known)}.")
    module, attribute = known[name]
    return getattr(import_module(f"salient.kernels.{module}"), attribute)


def select_kernel(layer: Layer, wanted: str = "auto") -> KernelChoice:
    """The first kernel of KERNELS that supports `layer`, or the one called `wanted`.

    Raises ModelError if the wanted kernel does not support the layer.
    """
    if wanted != "auto":
        kernel = find_kernel(wanted)
        refused = kernel.unsupported(layer)
        if refused:
            raise ModelError(
                f"The kernel {wanted!r} does not support a layer of {layer.out} x {layer.width}: "
                f"{refused}. Use another, or 'auto'."
            )
        return KernelChoice(kernel, "selected by name")
    passed = []
    for name in KERNELS:
        kernel = find_kernel(name)
        refused = kernel.unsupported(layer)
        if refused is None:
            return KernelChoice(kernel, "; ".join(passed) or "the fastest on this device")
        if runs_on(name, layer.device):
            passed.append(f"not {name}: {refused}")
    raise AssertionError("unreachable: the dense kernel supports every layer")


def runs_on(name: str, device: torch.device) -> bool:
    """Whether the kernel called `name` is made for devices of this type."""
    return find_kernel(name).on_gpu != (device.type == "cpu")


def measured_crossover(weight: PackedWeight, device: torch.device) -> tuple[int, torch.dtype]:
    """From how many rows on a dense product is faster than `weight`, and its dtype.

    Measured on a CPU, at CROSSOVER_ROWS; NEVER on a GPU, whose kernel decides that itself.
    """
    if device.type != "cpu" or weight.name in ("dense", "reference"):
        return NEVER, torch.float32
    dtypes = (torch.bfloat16, torch.float32)
    for rows in CROSSOVER_ROWS:
        x = torch.ones(rows, weight.width, device=device)
        own = _seconds(lambda x=x: weight(x))
        for dtype in dtypes:
            dense = _seconds(lambda x=x, d=dtype: dense_product(weight, x, d))
            if dense * MARGIN < own:
                return rows, dtype
    return NEVER, torch.float32


def dense_product(weight: PackedWeight, x: Tensor, dtype: torch.dtype) -> Tensor:
    """y [..., out] = x [..., width] @ W.T by a dense product in `dtype`, in the dtype of `x`."""
    return linear(x.to(dtype), weight.dequantize(dtype)).to(x.dtype)


def _seconds(work: Callable[[], Tensor]) -> float:
    """The shortest of three runs after a warm-up run."""
    work()
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)
