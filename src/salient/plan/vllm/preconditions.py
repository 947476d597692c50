"""What makes vLLM stop before it looks at a matrix: device, release, type, flags, variables.

Each check gives a refusal or None; the first one counts. Sources are vLLM 0.32's config/model.py
(the match of --quantization), config/vllm.py (capability and types), platforms/*.py, and the
get_min_capability of each method's file in layers/quantization.
"""

from collections.abc import Callable
from dataclasses import dataclass

from salient.shapes.model_shape import ModelShape

from .awq_gates import MARLIN_GROUPS, REGROUP
from .sharding import expert_widths, pieces
from .types import KernelVerdict, ServingTarget, WeightPacking, refused
from .versions import (
    AUTO_AWQ,
    AUTO_GPTQ,
    BITSANDBYTES_GONE,
    CPU_AWQ,
    EVER,
    GPTQ_ORDER_GONE,
    HUMMING_METHOD,
    NEVER,
    NO_XPU_EXTENSION,
    ORDER_GONE,
    TURING_MARLIN,
    TURING_ONLY,
    Version,
    named,
)

OTHER_ENGINES = "run the 16-bit model or GGUF with llama.cpp, or use Salient's own engine"


@dataclass(frozen=True)
class MinimumCapability:
    """Compute capability that a method asks of an NVIDIA card, in releases from `since` on."""

    method: str
    least: int
    since: Version = (0, 6)
    until: Version = EVER


LEAST = (
    MinimumCapability("awq", 75),
    MinimumCapability("compressed-tensors", 80, until=TURING_MARLIN),
    MinimumCapability("compressed-tensors", 75, since=TURING_MARLIN),
    MinimumCapability("gptq", 60, until=AUTO_GPTQ),
    MinimumCapability("gptq", 75, since=AUTO_GPTQ),
    MinimumCapability("bitsandbytes", 70),
    MinimumCapability("gguf", 60),
    MinimumCapability("fp8", 80, until=TURING_MARLIN),
    MinimumCapability("fp8", 75, since=TURING_MARLIN),
    MinimumCapability("none", 70, until=TURING_ONLY),
    MinimumCapability("none", 75, since=TURING_ONLY),
)


@dataclass(frozen=True)
class MethodSupport:
    """From which release on, and up to which, vLLM runs a method on a vendor's devices."""

    method: str
    vendor: str
    since: Version = (0, 6)
    until: Version = EVER
    do: str = "use AWQ or compressed-tensors"


# Pairs without a row have no limit. On Intel's devices AWQ and GPTQ ran by its extension for
# PyTorch first, and after that not at all until vLLM had kernels of its own.
SERVES = (
    MethodSupport("awq", "intel", until=NO_XPU_EXTENSION, do="use vLLM 0.24 or newer"),
    MethodSupport("awq", "intel", AUTO_AWQ, do="use vLLM 0.24 or newer"),
    MethodSupport("compressed-tensors", "cpu", (0, 14), do="use vLLM 0.14 or newer"),
    MethodSupport("compressed-tensors", "intel", (0, 13), do="use vLLM 0.13 or newer"),
    MethodSupport("gptq", "cpu", until=CPU_AWQ, do="use vLLM 0.22 or newer"),
    MethodSupport("gptq", "cpu", AUTO_GPTQ, do="use vLLM 0.22 or newer"),
    MethodSupport("gptq", "intel", until=NO_XPU_EXTENSION, do="use vLLM 0.24 or newer"),
    MethodSupport("gptq", "intel", AUTO_AWQ, do="use vLLM 0.24 or newer"),
    MethodSupport("bitsandbytes", "nvidia", until=BITSANDBYTES_GONE),
    MethodSupport("bitsandbytes", "amd", (0, 18), BITSANDBYTES_GONE),
    MethodSupport("bitsandbytes", "cpu", until=NEVER),
    MethodSupport("bitsandbytes", "intel", until=NEVER),
    MethodSupport("gguf", "nvidia", until=AUTO_AWQ,
           do="install vllm-gguf-plugin, or run the file with llama.cpp"),
    MethodSupport("gguf", "amd", until=AUTO_AWQ, do="run the file with llama.cpp"),
    MethodSupport("gguf", "cpu", until=NEVER, do="run the file with llama.cpp"),
    MethodSupport("gguf", "intel", until=NEVER, do="run the file with llama.cpp"),
)  # fmt: skip
# Values of --quantization that fit a checkpoint's own method.
FORCED = {
    "awq": ("awq", "awq_marlin", "auto_awq", "marlin", "moe_wna16"),
    "gptq": ("gptq", "gptq_marlin", "auto_gptq", "marlin", "moe_wna16"),
    "compressed-tensors": ("compressed-tensors",),
    "bitsandbytes": ("bitsandbytes",),
    "gguf": ("gguf",),
    "fp8": ("fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel"),
}
NAMED_SINCE = {"auto_awq": AUTO_AWQ, "auto_gptq": AUTO_GPTQ}

Check = Callable[[ModelShape, WeightPacking, ServingTarget], KernelVerdict | None]


def _apple(
    shape: ModelShape, packing: WeightPacking, served: ServingTarget
) -> KernelVerdict | None:
    if served.gpu.vendor != "apple":
        return None
    return refused("vLLM has no Metal backend: on a Mac it runs on the processor", OTHER_ENGINES)


def _unserved(
    shape: ModelShape, packing: WeightPacking, served: ServingTarget
) -> KernelVerdict | None:
    pair = (packing.method, served.gpu.vendor)
    rows = [row for row in SERVES if (row.method, row.vendor) == pair]
    if not rows or any(row.since <= served.version < row.until for row in rows):
        return None
    why = f"vLLM {named(served.version)} runs no {packing.method} on {served.device}"
    if NEVER < rows[-1].until <= served.version:
        why += f": it left vLLM with {named(rows[-1].until)}"
    return refused(why, rows[-1].do)


def _mismatch(
    shape: ModelShape, packing: WeightPacking, served: ServingTarget
) -> KernelVerdict | None:
    forced, vendor = served.forced, served.gpu.vendor
    awq_on_cpu = packing.method == "awq" and vendor == "cpu"
    # before 0.24 AWQ's CPU loaders took the model whatever the flag said
    if not forced or (awq_on_cpu and served.version < AUTO_AWQ):
        return None
    known = ("awq",) if awq_on_cpu else FORCED.get(packing.method, ())
    if packing.grouped and vendor == "nvidia" and served.version >= HUMMING_METHOD:
        known = (*known, "humming")
    if forced in known and served.version >= NAMED_SINCE.get(forced, NEVER):
        return None
    if packing.method == "none":
        return refused(
            f"--quantization {forced} needs a checkpoint made so, and config.json names none: "
            f"vLLM stops with 'Cannot find the config file for {forced}'",
            "drop --quantization, or quantize the model first",
        )
    return refused(
        f"--quantization {forced} does not match the checkpoint's method, {packing.method}",
        "drop --quantization: vLLM reads the method from config.json",
    )


def _dtype(
    shape: ModelShape, packing: WeightPacking, served: ServingTarget
) -> KernelVerdict | None:
    dtype = served.dtype
    if dtype == "float32" and (packing.grouped or packing.method == "fp8"):
        return refused(
            f"torch.float32 is not supported for {packing.method}: its kernels multiply 16-bit "
            "activations",
            "serve with --dtype float16 or --dtype bfloat16",
        )
    if dtype == "bfloat16" and served.gpu.vendor == "nvidia" and served.capability < 80:
        return refused(
            f"bfloat16 needs compute capability 8.0, not {served.device}",
            "serve with --dtype float16",
        )
    return None


def _least(
    shape: ModelShape, packing: WeightPacking, served: ServingTarget
) -> KernelVerdict | None:
    if served.gpu.vendor != "nvidia":
        return None
    rows = (r for r in LEAST if r.method == packing.method and r.since <= served.version < r.until)
    least = next(rows).least
    if served.capability >= least:
        return None
    return refused(
        f"vLLM {named(served.version)} does not run {packing.method} on {served.device}: "
        f"Minimum capability: {least}. Current capability: {served.capability}.",
        f"use a card of compute capability {least // 10}.{least % 10} or newer, or llama.cpp "
        "with GGUF",
    )


def _bits(shape: ModelShape, packing: WeightPacking, served: ServingTarget) -> KernelVerdict | None:
    wrong = {"awq": packing.bits != 4, "gptq": packing.bits not in (2, 3, 4, 8)}
    if wrong.get(packing.method):
        return refused(f"vLLM takes no {packing.bits}-bit {packing.method}", "quantize to 4 bits")
    return None


def _awq_zeros(
    shape: ModelShape, packing: WeightPacking, served: ServingTarget
) -> KernelVerdict | None:
    if packing.method != "awq" or packing.zeros or served.gpu.vendor not in ("cpu", "intel"):
        return None
    return refused(
        f"zero_point is false: on {served.device} vLLM then reads the codes as if zero were 0, and "
        "writes nonsense",
        "quantize again with zero points, or write symmetric codes as compressed-tensors",
    )


def _gptq_limits(
    shape: ModelShape, packing: WeightPacking, served: ServingTarget
) -> KernelVerdict | None:
    if packing.method != "gptq" or served.version < AUTO_GPTQ:
        return None
    if packing.zeros or packing.bits not in (4, 8):
        return refused(
            f"Unsupported quantization config: bits={packing.bits}, sym={not packing.zeros}; vLLM "
            f"{named(served.version)} takes GPTQ of 4 or 8 bits with sym=true",
            "quantize again with sym=true, or to AWQ",
        )
    if packing.group not in MARLIN_GROUPS:
        return refused(f"vLLM takes no GPTQ in groups of {packing.group}", REGROUP)
    return None


def _order(
    shape: ModelShape, packing: WeightPacking, served: ServingTarget
) -> KernelVerdict | None:
    gone = {"gptq": GPTQ_ORDER_GONE, "compressed-tensors": ORDER_GONE}.get(packing.method, EVER)
    if not packing.act_order or packing.group == -1 or served.version < gone:
        return None
    return refused(
        f"group activation ordering is no longer supported in vLLM {named(served.version)}",
        "quantize again with desc_act=false (actorder static or none), or to AWQ",
    )


def _input_dtype(
    shape: ModelShape, packing: WeightPacking, served: ServingTarget
) -> KernelVerdict | None:
    """Marlin asks for symmetric codes where activations have 8 bits (mixed_precision/marlin.py)."""
    wanted = served.environment.get("VLLM_MARLIN_INPUT_DTYPE", "").lower()
    if wanted not in ("int8", "fp8") or served.gpu.vendor != "nvidia":
        return None
    if not packing.grouped or not packing.zeros or served.version < AUTO_AWQ:
        return None
    return refused(
        f"VLLM_MARLIN_INPUT_DTYPE={wanted} asks for 8-bit activations, which Marlin has for codes "
        "without zero points alone",
        "unset VLLM_MARLIN_INPUT_DTYPE",
    )


def _bitsandbytes_tp(
    shape: ModelShape, packing: WeightPacking, served: ServingTarget
) -> KernelVerdict | None:
    if packing.method != "bitsandbytes" or served.tp == 1 or not shape.quantization:
        return None
    return refused(
        "a checkpoint already rounded by bitsandbytes cannot be cut over GPUs (vLLM #39583)",
        f"serve with --pipeline-parallel-size {served.tp}, or quantize to AWQ",
    )


def _nothing(
    shape: ModelShape, packing: WeightPacking, served: ServingTarget
) -> KernelVerdict | None:
    if not packing.grouped:
        return None
    widths = [piece.width for piece in pieces(shape, 1)]
    widths += [width for widths in expert_widths(shape) for width in widths]
    if any(packing.group == -1 or width % packing.group == 0 for width in widths):
        return None
    return refused(f"groups of {packing.group} divide no matrix of this model", REGROUP)


CHECKS: tuple[Check, ...] = (
    _apple, _unserved, _mismatch, _dtype, _least, _bits, _gptq_limits, _awq_zeros,
    _order, _input_dtype, _bitsandbytes_tp, _nothing,
)  # fmt: skip


def entry(shape: ModelShape, packing: WeightPacking, served: ServingTarget) -> KernelVerdict | None:
    """The refusal of the first check that fails, None where the model gets as far as its layers."""
    return next((stop for check in CHECKS if (stop := check(shape, packing, served))), None)
