"""What decides before the table of kernels is tried: why vLLM stops, or takes the slow kernel.

A gate is a row with a check; the first one that applies and finds a reason counts. PRECONDITIONS
stop vLLM before it looks at a matrix: config/model.py (the match of --quantization), config/vllm.py
(capability and types), platforms/*.py and the get_min_capability of each method's file in
layers/quantization, of vLLM 0.32. AWQ_GATES and GPTQ_GATES leave a matrix to the slow kernel:
auto_awq.py (before 0.24 awq.py, awq_marlin.py) and auto_gptq.py (gptq.py, gptq_marlin.py) there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from salient.plan.gpus import Vendor
from salient.shapes.model_shape import ModelShape

from .sharding import MatrixShard, expert_widths, shards
from .types import ServingTarget, WeightPacking, dotted
from .versions import (
    AUTO_AWQ,
    AUTO_GPTQ,
    AWQ_TRIES_ALL,
    BATCH_INVARIANT,
    BITSANDBYTES_GONE,
    CPU_AWQ,
    EVER,
    GPTQ_ORDER_GONE,
    HUMMING_METHOD,
    NEVER,
    NO_XPU_EXTENSION,
    OLDEST,
    ORDER_GONE,
    TURING_MARLIN,
    TURING_ONLY,
    Version,
    release_name,
)

MARLIN_GROUPS = (-1, 32, 64, 128)
OTHER_ENGINES = "run the 16-bit model or GGUF with llama.cpp, or use Salient's own engine"
REGROUP = "quantize again with groups of 128, 64 or 32"
TO_COMPRESSED = (
    "write the checkpoint as compressed-tensors (quantize with --format compressed-tensors, or "
    "convert it: the codes stay the same); vLLM then tries its Triton and RDNA kernels"
)

Subject = TypeVar("Subject", ModelShape, MatrixShard)
Reason = tuple[str, ...]  # why, then what to do, one step each; empty where a check passes


@dataclass(frozen=True)
class Gate(Generic[Subject]):
    """A row: where it applies and what it checks.

    methods, vendors: () for all; since, until: releases
    local: whether the reason is about one matrix's widths
    """

    check: Callable[[ServingTarget, WeightPacking, Subject], Reason]
    methods: tuple[str, ...] = ()
    vendors: tuple[Vendor, ...] = ()
    since: Version = OLDEST
    until: Version = EVER
    local: bool = False

    def applies(self, target: ServingTarget, packing: WeightPacking) -> bool:
        return (
            (not self.methods or packing.method in self.methods)
            and (not self.vendors or target.gpu.vendor in self.vendors)
            and self.since <= target.version < self.until
        )


def first_closed(
    gates: tuple[Gate[Subject], ...],
    target: ServingTarget,
    packing: WeightPacking,
    subject: Subject,
) -> tuple[Gate[Subject] | None, Reason]:
    """The first gate that finds a reason, and the reason."""
    for gate in gates:
        if gate.applies(target, packing) and (reason := gate.check(target, packing, subject)):
            return gate, reason
    return None, ()


# Compute capability that a method needs of an NVIDIA card, from a release on.
LEAST: dict[str, tuple[tuple[Version, int], ...]] = {
    "awq": ((OLDEST, 75),),
    "compressed-tensors": ((TURING_MARLIN, 75), (OLDEST, 80)),
    "gptq": ((AUTO_GPTQ, 75), (OLDEST, 60)),
    "bitsandbytes": ((OLDEST, 70),),
    "gguf": ((OLDEST, 60),),
    "fp8": ((TURING_MARLIN, 75), (OLDEST, 80)),
    "none": ((TURING_ONLY, 75), (OLDEST, 70)),
}
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


def _unsupported(
    method: str, vendor: Vendor, do: str, since: Version = OLDEST, until: Version = EVER
) -> Gate[ModelShape]:
    """The releases in which vLLM does not run a method on a vendor's devices."""

    def check(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
        why = f"vLLM {release_name(target.version)} runs no {method} on {target.device}"
        if since > OLDEST and until == EVER:
            why += f": it left vLLM with {release_name(since)}"
        return why, do

    return Gate(check, (method,), (vendor,), since, until)


def _no_metal(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
    return "vLLM has no Metal backend: on a Mac it runs on the processor", OTHER_ENGINES


def _mismatch(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
    forced, vendor = target.forced, target.gpu.vendor
    awq_on_cpu = packing.method == "awq" and vendor == "cpu"
    # before 0.24 AWQ's CPU loaders took the model whatever the flag said
    if not forced or (awq_on_cpu and target.version < AUTO_AWQ):
        return ()
    known = ("awq",) if awq_on_cpu else FORCED.get(packing.method, ())
    if packing.grouped and vendor == "nvidia" and target.version >= HUMMING_METHOD:
        known = (*known, "humming")
    if forced in known and target.version >= NAMED_SINCE.get(forced, NEVER):
        return ()
    if packing.method == "none":
        return (
            f"--quantization {forced} needs a checkpoint of that method, and config.json names "
            f"none: vLLM stops with 'Cannot find the config file for {forced}'",
            "drop --quantization, or quantize the model first",
        )
    return (
        f"--quantization {forced} does not match the checkpoint's method, {packing.method}",
        "drop --quantization: vLLM reads the method from config.json",
    )


def _float32(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
    if target.dtype != "float32" or not (packing.grouped or packing.method == "fp8"):
        return ()
    return (
        f"torch.float32 is not supported for {packing.method}: its kernels multiply 16-bit "
        "activations",
        "serve with --dtype float16 or --dtype bfloat16",
    )


def _bfloat16(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
    if target.dtype != "bfloat16" or target.capability >= 80:
        return ()
    why = f"bfloat16 needs compute capability 8.0, not {target.device}"
    return why, "serve with --dtype float16"


def _least_capability(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
    least = next(value for since, value in LEAST[packing.method] if since <= target.version)
    if target.capability >= least:
        return ()
    return (
        f"vLLM {release_name(target.version)} does not run {packing.method} on {target.device}: "
        f"Minimum capability: {least}. Current capability: {target.capability}.",
        f"use a card of compute capability {dotted(least)} or newer, or llama.cpp with GGUF",
    )


def _bits(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
    if packing.bits in {"awq": (4,), "gptq": (2, 3, 4, 8)}[packing.method]:
        return ()
    return f"vLLM takes no {packing.bits}-bit {packing.method}", "quantize to 4 bits"


def _gptq_codes(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
    if packing.zeros or packing.bits not in (4, 8):
        return (
            f"Unsupported quantization config: bits={packing.bits}, sym={not packing.zeros}; vLLM "
            f"{release_name(target.version)} takes GPTQ of 4 or 8 bits with sym=true",
            "quantize again with sym=true, or to AWQ",
        )
    if packing.group not in MARLIN_GROUPS:
        return f"vLLM takes no GPTQ in groups of {packing.group}", REGROUP
    return ()


def _awq_without_zeros(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
    if packing.zeros:
        return ()
    return (
        f"zero_point is false: on {target.device} vLLM then reads the codes as if zero were 0, and "
        "writes nonsense",
        "quantize again with zero points, or write symmetric codes as compressed-tensors",
    )


def _act_order(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
    if not packing.act_order or packing.group == -1:
        return ()
    release = release_name(target.version)
    return (
        f"group activation ordering is no longer supported in vLLM {release}",
        "quantize again with desc_act=false (actorder static or none), or to AWQ",
    )


def _input_dtype(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
    """Marlin needs symmetric codes for 8-bit activations (mixed_precision/marlin.py)."""
    dtype = target.environment.get("VLLM_MARLIN_INPUT_DTYPE", "").lower()
    if dtype not in ("int8", "fp8") or not packing.zeros:
        return ()
    return (
        f"VLLM_MARLIN_INPUT_DTYPE={dtype} sets 8-bit activations, which Marlin has only for codes "
        "without zero points",
        "unset VLLM_MARLIN_INPUT_DTYPE",
    )


def _sharded_bitsandbytes(
    target: ServingTarget, packing: WeightPacking, shape: ModelShape
) -> Reason:
    if target.tp == 1 or not shape.quantization:
        return ()
    return (
        "a checkpoint already quantized by bitsandbytes cannot be cut over GPUs (vLLM #39583)",
        f"serve with --pipeline-parallel-size {target.tp}, or quantize to AWQ",
    )


def _no_matrix(target: ServingTarget, packing: WeightPacking, shape: ModelShape) -> Reason:
    widths = [shard.width for shard in shards(shape, 1)]
    widths += [width for widths in expert_widths(shape) for width in widths]
    if any(packing.group == -1 or width % packing.group == 0 for width in widths):
        return ()
    return f"groups of {packing.group} divide no matrix of this model", REGROUP


_GROUPED = ("awq", "compressed-tensors", "gptq")
_USE_24 = "use vLLM 0.24 or newer"
_USE_GROUPED = "use AWQ or compressed-tensors"
_USE_LLAMA_CPP = "run the file with llama.cpp"
_GGUF_PLUGIN = "install vllm-gguf-plugin, or run the file with llama.cpp"
PRECONDITIONS: tuple[Gate[ModelShape], ...] = (
    Gate(_no_metal, vendors=("apple",)),
    # On Intel's devices AWQ and GPTQ ran by its extension for PyTorch first, and after that not at
    # all until vLLM had kernels of its own.
    _unsupported("awq", "intel", _USE_24, NO_XPU_EXTENSION, AUTO_AWQ),
    _unsupported("compressed-tensors", "cpu", "use vLLM 0.14 or newer", until=(0, 14)),
    _unsupported("compressed-tensors", "intel", "use vLLM 0.13 or newer", until=(0, 13)),
    _unsupported("gptq", "cpu", "use vLLM 0.22 or newer", CPU_AWQ, AUTO_GPTQ),
    _unsupported("gptq", "intel", _USE_24, NO_XPU_EXTENSION, AUTO_AWQ),
    _unsupported("bitsandbytes", "nvidia", _USE_GROUPED, BITSANDBYTES_GONE),
    _unsupported("bitsandbytes", "amd", _USE_GROUPED, until=(0, 18)),
    _unsupported("bitsandbytes", "amd", _USE_GROUPED, BITSANDBYTES_GONE),
    _unsupported("bitsandbytes", "cpu", _USE_GROUPED),
    _unsupported("bitsandbytes", "intel", _USE_GROUPED),
    _unsupported("gguf", "nvidia", _GGUF_PLUGIN, AUTO_AWQ),
    _unsupported("gguf", "amd", _USE_LLAMA_CPP, AUTO_AWQ),
    _unsupported("gguf", "cpu", _USE_LLAMA_CPP),
    _unsupported("gguf", "intel", _USE_LLAMA_CPP),
    Gate(_mismatch),
    Gate(_float32),
    Gate(_bfloat16, vendors=("nvidia",)),
    Gate(_least_capability, vendors=("nvidia",)),
    Gate(_bits, methods=("awq", "gptq")),
    Gate(_gptq_codes, methods=("gptq",), since=AUTO_GPTQ),
    Gate(_awq_without_zeros, methods=("awq",), vendors=("cpu", "intel")),
    Gate(_act_order, methods=("gptq",), since=GPTQ_ORDER_GONE),
    Gate(_act_order, methods=("compressed-tensors",), since=ORDER_GONE),
    Gate(_input_dtype, methods=_GROUPED, vendors=("nvidia",), since=AUTO_AWQ),
    Gate(_sharded_bitsandbytes, methods=("bitsandbytes",)),
    Gate(_no_matrix, methods=_GROUPED),
)


def _rocm(target: ServingTarget, packing: WeightPacking, shard: MatrixShard) -> Reason:
    release, method = release_name(target.version), packing.method
    return (
        f"on ROCm vLLM {release} gives {method.upper()} to the slow kernel without trying a faster "
        "one, and the log says nothing",
        TO_COMPRESSED if method == "awq" else "use vLLM 0.22 or newer",
    )


def _forced_slow(target: ServingTarget, packing: WeightPacking, shard: MatrixShard) -> Reason:
    method = packing.method
    if target.forced != method:
        return ()
    return (
        f"--quantization {method} forces the slow kernel in vLLM {release_name(target.version)}",
        f"drop --quantization {method}, or write --quantization {method}_marlin",
    )


def _batch_invariant(target: ServingTarget, packing: WeightPacking, shard: MatrixShard) -> Reason:
    if not target.is_on("VLLM_BATCH_INVARIANT"):
        return ()
    why = "VLLM_BATCH_INVARIANT is set, and Marlin's sums depend on the batch"
    return why, "unset VLLM_BATCH_INVARIANT"


def _no_zeros(target: ServingTarget, packing: WeightPacking, shard: MatrixShard) -> Reason:
    if packing.zeros:
        return ()
    return (
        "zero_point is false, and the fast kernels take AWQ's codes only with zero points",
        "quantize again with zero points (zero_point: true); the slow kernel reads qzeros whatever "
        "the config says, and without them it writes nonsense",
    )


def _zeros(target: ServingTarget, packing: WeightPacking, shard: MatrixShard) -> Reason:
    if not packing.zeros:
        return ()
    why = "sym is false, and Marlin takes GPTQ's codes only without zero points"
    return why, "quantize again with sym=true, or to AWQ"


def _group_size(target: ServingTarget, packing: WeightPacking, shard: MatrixShard) -> Reason:
    if packing.group in MARLIN_GROUPS:
        return ()
    return f"groups of {packing.group}: Marlin takes 32, 64, 128 or a whole column", REGROUP


def _before_ampere(target: ServingTarget, packing: WeightPacking, shard: MatrixShard) -> Reason:
    if target.capability >= 80:
        return ()
    least = f"compute capability 8.0 in vLLM {release_name(target.version)}"
    why = f"Marlin needs {least}, not {target.device}"
    return why, "use vLLM 0.14 or newer, whose Marlin runs from 7.5 on"


def _before_turing(target: ServingTarget, packing: WeightPacking, shard: MatrixShard) -> Reason:
    if target.capability >= 75:
        return ()
    why = f"Marlin needs compute capability {dotted(75)}, not {target.device}"
    return why, "use a card of compute capability 7.5 or newer"


def _tiles(target: ServingTarget, packing: WeightPacking, shard: MatrixShard) -> Reason:
    """Marlin's min_thread_n and min_thread_k, before it padded."""
    do = "use vLLM 0.24 or newer, which pads such widths, or fewer GPUs"
    if shard.outputs % 64:
        return f"Marlin takes outputs in multiples of 64, not {shard.outputs} a GPU", do
    if shard.inputs % 128:
        return f"Marlin takes inputs in multiples of 128, not {shard.inputs} a GPU", do
    return ()


_BOTH: tuple[Vendor, ...] = ("nvidia", "amd")
AWQ_GATES: tuple[Gate[MatrixShard], ...] = (
    Gate(_rocm, vendors=("amd",), since=AUTO_AWQ),
    Gate(_rocm, vendors=("amd",), until=AWQ_TRIES_ALL),
    Gate(_forced_slow, vendors=_BOTH, until=AUTO_AWQ),
    Gate(_batch_invariant, vendors=_BOTH, since=BATCH_INVARIANT),
    Gate(_no_zeros, vendors=_BOTH),
    Gate(_group_size, vendors=_BOTH),
    Gate(_before_ampere, vendors=("nvidia",), until=TURING_MARLIN),
    Gate(_tiles, vendors=_BOTH, until=AUTO_AWQ, local=True),
)
GPTQ_GATES: tuple[Gate[MatrixShard], ...] = (
    Gate(_rocm, vendors=("amd",), until=AUTO_GPTQ),
    Gate(_forced_slow, vendors=_BOTH, until=AUTO_GPTQ),
    Gate(_zeros, vendors=_BOTH, until=AUTO_GPTQ),
    Gate(_group_size, vendors=_BOTH, until=AUTO_GPTQ),
    Gate(_before_ampere, vendors=("nvidia",), until=TURING_MARLIN),
    Gate(_before_turing, vendors=("nvidia",), until=AUTO_GPTQ),
)
