"""vLLM's kernels for 4- and 8-bit weights, one row each, and why a row does not take a matrix.

The order of the rows is the order in which vLLM asks them, platform by platform (vLLM 0.32,
model_executor/kernels/linear/__init__.py: _POSSIBLE_KERNELS); a row's limits are those of its
can_implement in the file named with it. Kernels for 4-bit weights with 8-bit activations are here
for their refusals alone: no weight-only checkpoint has what they take.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from salient.plan.gpus import Vendor

from .sharding import MatrixShard
from .types import KernelVerdict, Refusal, ServingTarget, WeightPacking, dotted
from .versions import AUTO_AWQ, EVER, HUMMING_FIRST, TURING_MARLIN, Version

_HALVES = ("float16", "bfloat16")
_FOLDER = "model_executor/kernels/linear/mixed_precision/"


@dataclass(frozen=True)
class VllmKernel:
    """A row of the table.

    name: as users say it; cls: vLLM's class, as logs and VLLM_DISABLED_KERNELS have it
    vendors: platforms; since, until: releases that have it with these limits
    least, exactly: compute capability; gfx: starts of AMD's targets
    zeros, plain: bits of the codes that it takes with zero points, and without
    groups: sizes that it takes, () for any; group_step: or multiples of this (and -1)
    column: whether a group of all the GPU's inputs does too
    dtypes: of activations; inputs, outputs: a GPU's part must be a multiple of
    whole: outputs must be a multiple of the group; act_order: whether it takes activation order
    package: what must be installed beside vLLM; fast: whether it is meant to run
    """

    name: str
    cls: str
    vendors: tuple[Vendor, ...]
    source: str
    since: Version = (0, 6)
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


_MARLIN = VllmKernel(
    "Marlin", "MarlinLinearKernel", ("nvidia",), _FOLDER + "marlin.py",
    least=80, plain=(4, 8), groups=(-1, 32, 64, 128), inputs=128, outputs=64, act_order=True,
    until=TURING_MARLIN,
)  # fmt: skip
_TRITON = VllmKernel(
    "TritonW4A16", "TritonW4A16LinearKernel", ("amd",), _FOLDER + "triton_w4a16.py",
    since=(0, 20), groups=(-1, 32, 64, 128, 256), column=True, outputs=8,
)  # fmt: skip
KERNELS = (
    VllmKernel(
        "CutlassW4A8", "CutlassW4A8LinearKernel", ("nvidia",), _FOLDER + "cutlass.py",
        since=(0, 12), exactly=90, zeros=(), plain=(), groups=(128,), dtypes=("float8",),
        inputs=128, outputs=128,
    ),
    VllmKernel(
        "Machete", "MacheteLinearKernel", ("nvidia",), _FOLDER + "machete.py",
        exactly=90, zeros=(4, 8), plain=(4, 8), groups=(-1, 64, 128), inputs=64, outputs=128,
        act_order=True,
    ),
    _MARLIN,
    replace(_MARLIN, since=TURING_MARLIN, until=AUTO_AWQ, least=75),
    # from 0.24 on it pads odd widths with zeros
    replace(_MARLIN, since=AUTO_AWQ, until=EVER, least=75, inputs=1, outputs=1),
    VllmKernel(
        "RDNA3W4A16", "RDNA3W4A16LinearKernel", ("amd",), _FOLDER + "rdna3_w4a16.py",
        since=(0, 23), gfx=("gfx1100",), zeros=(), group_step=1, outputs=8,
    ),
    VllmKernel(
        "RDNAHybridW4A16", "RDNAHybridW4A16LinearKernel", ("amd",),
        _FOLDER + "rdna_hybrid_w4a16.py",
        since=(0, 26), gfx=("gfx11", "gfx12"), groups=(32, 64, 128), inputs=16,
    ),
    _TRITON,
    VllmKernel(
        "Conch", "ConchLinearKernel", ("nvidia", "amd"), _FOLDER + "conch.py",
        since=(0, 12), least=80, zeros=(4, 8), plain=(4, 8), groups=(-1, 128),
        package="conch-triton-kernels",
    ),
    VllmKernel(
        "Exllama", "ExllamaLinearKernel", ("nvidia", "amd"), _FOLDER + "exllama.py",
        least=60, zeros=(), plain=(4, 8), group_step=1, dtypes=("float16",), outputs=8,
        act_order=True, fast=False,
    ),
    replace(_TRITON, vendors=("nvidia",), since=(0, 23), fast=False),
    VllmKernel(
        "Humming", "HummingLinearKernel", ("nvidia",), _FOLDER + "humming.py",
        since=(0, 23), least=75, zeros=(4, 8), plain=(4, 8), package="humming-kernels",
    ),
    VllmKernel(
        "XPUW4A8Int", "XPUW4A8IntLinearKernel", ("intel",), _FOLDER + "xpu.py",
        since=(0, 19), zeros=(), plain=(),
    ),
    VllmKernel(
        "XPUwNa16", "XPUwNa16LinearKernel", ("intel",), _FOLDER + "xpu.py",
        since=(0, 13), groups=(-1,), group_step=32, inputs=32,
    ),
    VllmKernel(
        "Dynamic4bit", "Dynamic4bitLinearKernel", ("cpu",), _FOLDER + "dynamic_4bit.py",
        since=(0, 12), zeros=(), plain=(),
    ),
    VllmKernel(
        "Zentorch", "ZentorchWNA16LinearKernel", ("cpu",), _FOLDER + "zentorch.py",
        since=(0, 23), package="zentorch",
    ),
    VllmKernel(
        "CPUWNA16", "CPUWNA16LinearKernel", ("cpu",), _FOLDER + "cpu.py",
        since=(0, 12), groups=(-1,), group_step=2, inputs=32, outputs=32,
    ),
)  # fmt: skip
# What AWQ's layers take where they do not ask the list (auto_awq.py: AutoAWQLinearMethod). The
# first kernel's limits are in csrc/quantization/awq/gemm_kernels.cu, the other's in awq_triton.py.
SLOW_KERNELS = (
    VllmKernel(
        "awq_gemm", "AutoAWQLinearMethod", ("nvidia",), "_custom_ops.py",
        least=75, group_step=32, column=True, dtypes=("float16",), outputs=64, whole=True,
        fast=False,
    ),
    VllmKernel(
        "Triton AWQ", "AutoAWQLinearMethod", ("nvidia", "amd"), "layers/quantization/awq_triton.py",
        until=AUTO_AWQ, groups=(-1, 32, 64, 128), column=True, dtypes=("float16",), fast=False,
    ),
    VllmKernel(
        "Triton AWQ", "AutoAWQLinearMethod", ("nvidia", "amd"), "layers/quantization/awq_triton.py",
        since=AUTO_AWQ, groups=(-1, 32, 64, 128), column=True, fast=False,
    ),
)  # fmt: skip


def _disabled(
    kernel: VllmKernel, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> str:
    names = served.environment.get("VLLM_DISABLED_KERNELS", "").replace(" ", "").split(",")
    return "VLLM_DISABLED_KERNELS switches it off" if kernel.cls in names else ""


def _capability(
    kernel: VllmKernel, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> str:
    if served.gpu.vendor != "nvidia":
        return ""
    if kernel.exactly and served.capability != kernel.exactly:
        return f"needs compute capability {dotted(kernel.exactly)} exactly, not {served.device}"
    if served.capability < kernel.least:
        return f"needs compute capability {dotted(kernel.least)} or newer, not {served.device}"
    return ""


def _target(
    kernel: VllmKernel, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> str:
    if not kernel.gfx or served.gpu.gfx.startswith(kernel.gfx):
        return ""
    return f"is made for {' and '.join(kernel.gfx)}, not {served.device}"


def _codes(
    kernel: VllmKernel, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> str:
    if not kernel.zeros and not kernel.plain:
        return "takes 8-bit activations alone"
    with_zeros = "with zero points" if packing.zeros else "without zero points"
    if packing.bits not in (kernel.zeros if packing.zeros else kernel.plain):
        return f"takes no {packing.bits}-bit codes {with_zeros}"
    return ""


def _order(
    kernel: VllmKernel, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> str:
    if packing.act_order and packing.group != -1 and not kernel.act_order:
        return "takes no activation order"
    return ""


def _dtype(
    kernel: VllmKernel, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> str:
    if served.dtype in kernel.dtypes:
        return ""
    return f"multiplies {' and '.join(kernel.dtypes)}, not {served.dtype}"


def _group(
    kernel: VllmKernel, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> str:
    group, step = packing.group, kernel.group_step
    if group in kernel.groups or (not kernel.groups and not step):
        return ""
    if step and group > 0 and group % step == 0:
        return ""
    if kernel.column and group in (-1, piece.inputs):
        return ""
    sizes = ["a column" if size == -1 else str(size) for size in kernel.groups]
    if step:
        sizes.append(f"multiples of {step}" if step > 1 else "any size but a column")
    return f"takes groups of {', '.join(sizes)}, not {'a column' if group == -1 else group}"


def _package(
    kernel: VllmKernel, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> str:
    return f"needs the package {kernel.package} beside vLLM" if kernel.package else ""


def _inputs(
    kernel: VllmKernel, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> str:
    if piece.inputs % kernel.inputs == 0:
        return ""
    return f"takes inputs in multiples of {kernel.inputs}, not {piece.inputs} a GPU"


def _outputs(
    kernel: VllmKernel, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> str:
    group = piece.inputs if packing.group == -1 else packing.group
    for step in (kernel.outputs, group if kernel.whole else 1):
        if piece.outputs % step:
            return f"takes outputs in multiples of {step}, not {piece.outputs} a GPU"
    return ""


Rule = Callable[[VllmKernel, ServingTarget, WeightPacking, MatrixShard], str]
_RULES: tuple[Rule, ...] = (
    _disabled, _capability, _target, _codes, _order, _dtype, _group, _package,
)  # fmt: skip
_LOCAL_RULES: tuple[Rule, ...] = (_inputs, _outputs)  # about a matrix's widths


def why_not(
    kernel: VllmKernel, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> tuple[str, bool]:
    """Why a kernel does not take a matrix ("" where it does), and whether its widths are why."""
    for rules, local in ((_RULES, False), (_LOCAL_RULES, True)):
        for rule in rules:
            reason = rule(kernel, served, packing, piece)
            if reason:
                return reason, local
    return "", False


def asked(served: ServingTarget, kernels: tuple[VllmKernel, ...] = KERNELS) -> list[VllmKernel]:
    """The kernels that vLLM asks on this device, in its order."""
    rows = [
        kernel
        for kernel in kernels
        if served.gpu.vendor in kernel.vendors and kernel.since <= served.version < kernel.until
    ]
    names = [kernel.name for kernel in rows]
    if served.capability == 90 and served.version >= HUMMING_FIRST and "Humming" in names:
        rows.insert(names.index("Marlin"), rows.pop(names.index("Humming")))
    return rows


def choose(
    served: ServingTarget,
    packing: WeightPacking,
    piece: MatrixShard,
    kernels: Iterable[VllmKernel] | None = None,
) -> KernelVerdict:
    """The first kernel that takes a matrix, with the refusals of those asked before it.

    That the GPU's part holds whole groups is taken for granted (`kernel_layers.misfits`).
    """
    refusals, narrow = [], ""
    for kernel in asked(served) if kernels is None else kernels:
        why, local = why_not(kernel, served, packing, piece)
        if not why:
            why = f"takes {packing.words} on {served.device}"
            pace = "fast" if kernel.fast else "slow"
            return KernelVerdict(
                kernel.name, pace, narrow or why, tuple(refusals), local=bool(narrow)
            )
        refusals.append(Refusal(kernel.name, why))
        narrow = f"{kernel.name} {why}" if local else narrow
    said = "; ".join(f"{r.kernel} {r.why}" for r in refusals) or "vLLM has none for this device"
    why = f"no kernel takes {packing.words} in {served.dtype} on {served.device}: {said}"
    return KernelVerdict("", "refused", narrow or why, tuple(refusals), local=bool(narrow))
