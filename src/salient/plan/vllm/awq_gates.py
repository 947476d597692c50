"""Which AWQ and GPTQ matrices vLLM keeps from its fast kernels, and why.

A gate is a reason why a matrix does not ask the list of kernels (vLLM: layers/quantization/
auto_awq.py and, before 0.24, awq.py and awq_marlin.py; auto_gptq.py, gptq.py and gptq_marlin.py).
Behind a gate stands the slow kernel, which has limits of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from salient.plan.gpus import Vendor

from .kernel_table import SLOW_KERNELS, asked, choose, why_not
from .sharding import MatrixShard
from .types import KernelVerdict, Refusal, ServingTarget, WeightPacking, dotted
from .versions import (
    AUTO_AWQ,
    AUTO_GPTQ,
    AWQ_ASKS,
    BATCH_INVARIANT,
    EVER,
    LAYER_FALLBACK,
    TURING_MARLIN,
    Version,
    named,
)

MARLIN_GROUPS = (-1, 32, 64, 128)
TO_COMPRESSED = (
    "write the checkpoint as compressed-tensors (quantize with --format compressed-tensors, or "
    "convert it: the codes stay the same); vLLM then asks its Triton and RDNA kernels"
)
REGROUP = "quantize again with groups of 128, 64 or 32"


@dataclass(frozen=True)
class AwqGate:
    """A row: a predicate that gives the reason or "", and what to do about it.

    local: whether the reason is about one matrix's widths
    """

    why: Callable[[ServingTarget, WeightPacking, MatrixShard], str]
    do: str
    vendors: tuple[Vendor, ...] = ("nvidia", "amd")
    since: Version = (0, 6)
    until: Version = EVER
    local: bool = False


def _rocm(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> str:
    return (
        f"on ROCm vLLM {named(served.version)} gives {packing.method.upper()} to the slow kernel "
        "without asking for a faster one, and the log says nothing"
    )


def _forced(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> str:
    slow = "gptq" if packing.method == "gptq" else "awq"
    if served.forced != slow:
        return ""
    return f"--quantization {slow} forces the slow kernel in vLLM {named(served.version)}"


def _invariant(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> str:
    if not served.on("VLLM_BATCH_INVARIANT"):
        return ""
    return "VLLM_BATCH_INVARIANT is set, and Marlin's sums depend on the batch"


def _no_zeros(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> str:
    if packing.zeros:
        return ""
    return "zero_point is false, and the fast kernels take AWQ's codes with zero points alone"


def _zeros(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> str:
    if not packing.zeros:
        return ""
    return "sym is false, and Marlin takes GPTQ's codes without zero points alone"


def _groups(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> str:
    if packing.group in MARLIN_GROUPS:
        return ""
    return f"groups of {packing.group}: Marlin takes 32, 64, 128 or a whole column"


def _before_turing(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> str:
    if served.gpu.vendor != "nvidia" or served.capability >= 80:
        return ""
    least = f"compute capability 8.0 in vLLM {named(served.version)}"
    return f"Marlin needs {least}, not {served.device}"


def _old_card(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> str:
    if served.gpu.vendor != "nvidia" or served.capability >= 75:
        return ""
    return f"Marlin needs compute capability {dotted(75)}, not {served.device}"


def _tiles(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> str:
    """Marlin's min_thread_n and min_thread_k, before it padded."""
    if piece.outputs % 64:
        return f"Marlin takes outputs in multiples of 64, not {piece.outputs} a GPU"
    if piece.inputs % 128:
        return f"Marlin takes inputs in multiples of 128, not {piece.inputs} a GPU"
    return ""


_UPDATE_TILES = "use vLLM 0.24 or newer, which pads such widths, or fewer GPUs"
AWQ_GATES = (
    AwqGate(_rocm, TO_COMPRESSED, ("amd",), since=AUTO_AWQ),
    AwqGate(_rocm, TO_COMPRESSED, ("amd",), until=AWQ_ASKS),
    AwqGate(_forced, "drop --quantization awq, or say --quantization awq_marlin", until=AUTO_AWQ),
    AwqGate(_invariant, "unset VLLM_BATCH_INVARIANT", since=BATCH_INVARIANT),
    AwqGate(_no_zeros, "quantize again with zero points (zero_point: true); the slow kernel reads "
         "qzeros whatever the config says, and without them it writes nonsense"),
    AwqGate(_groups, REGROUP),
    AwqGate(_before_turing, "use vLLM 0.14 or newer, whose Marlin runs from 7.5 on",
         until=TURING_MARLIN),
    AwqGate(_tiles, _UPDATE_TILES, until=AUTO_AWQ, local=True),
)  # fmt: skip
GPTQ_GATES = (
    AwqGate(_rocm, "use vLLM 0.22 or newer", ("amd",), until=AUTO_GPTQ),
    AwqGate(_forced, "drop --quantization gptq, or say --quantization gptq_marlin", until=AUTO_GPTQ),
    AwqGate(_zeros, "quantize again with sym=true, or to AWQ", until=AUTO_GPTQ),
    AwqGate(_groups, REGROUP, until=AUTO_GPTQ),
    AwqGate(_before_turing, "use vLLM 0.14 or newer, whose Marlin runs from 7.5 on",
         until=TURING_MARLIN),
    AwqGate(_old_card, "use a card of compute capability 7.5 or newer", until=AUTO_GPTQ),
)  # fmt: skip


def awq_verdict(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> KernelVerdict:
    """What runs one AWQ matrix."""
    stuck = _unloadable(served, packing, piece)
    if stuck:
        return KernelVerdict("", "refused", stuck, local=True)
    gate, why = _closed(AWQ_GATES, served, packing, piece)
    if gate is None:
        if served.gpu.vendor == "nvidia" and served.version < AWQ_ASKS:
            return choose(served, packing, piece, [k for k in asked(served) if k.name == "Marlin"])
        made = choose(served, packing, piece)
        if made.pace == "refused" and served.gpu.vendor == "amd":
            made = replace(made, do=("say --quantization awq, or use vLLM 0.20 or newer",))
        return made
    if gate.local and served.version < LAYER_FALLBACK:
        stop = f"{why}; vLLM {named(served.version)} stops there"
        return KernelVerdict("", "refused", stop, do=(gate.do,), local=True)
    if not gate.local and served.version < AUTO_AWQ and served.forced in ("awq_marlin", "marlin"):
        stop = f"--quantization {served.forced} does not match the checkpoint here: {why}"
        return KernelVerdict("", "refused", stop, do=(gate.do, "or drop --quantization"))
    return _behind(gate, why, served, packing, piece)


def gptq_verdict(
    served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> KernelVerdict:
    """What runs one GPTQ matrix."""
    gate, why = _closed(GPTQ_GATES, served, packing, piece)
    if gate is None:
        return choose(served, packing, piece)
    if served.dtype != "float16":
        stop = f"GPTQ's slow kernel, left as {why}, multiplies float16, not {served.dtype}"
        return KernelVerdict("", "refused", stop, do=("serve with --dtype float16", gate.do))
    return KernelVerdict("Exllama", "slow", why, (Refusal("Marlin", why),), (gate.do,))


def _closed(
    gates: tuple[AwqGate, ...], served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> tuple[AwqGate | None, str]:
    """The first gate that keeps a matrix from the list of kernels, with its reason."""
    for gate in gates:
        if served.gpu.vendor in gate.vendors and gate.since <= served.version < gate.until:
            why = gate.why(served, packing, piece)
            if why:
                return gate, why
    return None, ""


def _unloadable(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> str:
    """What AWQ's loader itself cannot cut: it packs 8 outputs together and, with a whole column a
    group, gives matrices cut over their inputs no scale at all (auto_awq.py: num_groups)."""
    if piece.outputs % 8:
        return f"AWQ packs 8 outputs together, and {piece.outputs} a GPU are no multiple of that"
    if packing.group == -1 and piece.ways > 1:
        return f"AWQ's loader cannot share a column's only group among {piece.ways} GPUs"
    return ""


def _behind(
    gate: AwqGate, why: str, served: ServingTarget, packing: WeightPacking, piece: MatrixShard
) -> KernelVerdict:
    """The slow kernel of a matrix that a gate stops, or why that does not run either."""
    triton = served.gpu.vendor == "amd" or served.on("VLLM_USE_TRITON_AWQ")
    name = "Triton AWQ" if triton else "awq_gemm"
    slow = [kernel for kernel in asked(served, SLOW_KERNELS) if kernel.name == name]
    # it reads zero points, whatever the config says, so only the other limits count
    packing = replace(packing, zeros=True)
    answer = choose(served, packing, piece, slow)
    if answer.pace != "refused":
        better = [k for k in asked(served) if k.fast and k.zeros and not k.package]
        skipped = (
            Refusal(k.name, why_not(k, served, packing, piece)[0] or why)
            for k in better
            if served.version >= AWQ_ASKS or k.name == "Marlin"
        )
        return KernelVerdict(name, "slow", why, tuple(skipped), (gate.do,), gate.local)
    wrong = answer.refusals[0].why
    do = ["serve with --dtype float16"] if "multiplies float16" in wrong else []
    stop = f"{name}, the slow kernel, {wrong}; it is the one left, for {why}"
    return KernelVerdict(
        "", "refused", stop, answer.refusals, (*do, gate.do), answer.local or gate.local
    )
