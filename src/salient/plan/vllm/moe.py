"""Which kernel runs a mixture's experts in vLLM, for 4-bit codes.

Sources: vLLM 0.32, layers/fused_moe/oracle/int_wna16.py (the order of backends and what each
refuses), utils/marlin_utils.py (check_moe_marlin_supports_config), layers/quantization/
moe_wna16.py, fused_moe/experts/cpu_moe.py and xpu_moe.py.
"""

from salient.shapes.model_shape import ModelShape

from .awq_gates import MARLIN_GROUPS, REGROUP
from .sharding import divided, expert_widths
from .types import PACES, KernelVerdict, Refusal, ServingTarget, WeightPacking, refused
from .versions import (
    AUTO_AWQ,
    EXPERT_PADDING,
    HUMMING_FIRST,
    LAYER_FALLBACK,
    ROCM_EXPERTS,
    TURING_MARLIN,
    named,
)

TRITON = "Triton (moe_wna16)"
_HUMMING = Refusal("Humming", "needs the package humming-kernels beside vLLM; then it comes first")
_LEAST_GROUP = 32  # moe_wna16 halves groups down to this until they fit


def experts_verdict(
    shape: ModelShape, served: ServingTarget, packing: WeightPacking
) -> KernelVerdict | None:
    """The kernel of the experts, the worst of its kinds; None for a dense model."""
    found = [_of_width(inner, hidden, served, packing) for inner, hidden in expert_widths(shape)]
    return max(found, key=lambda verdict: PACES.index(verdict.pace), default=None)


def _of_width(
    inner: int, hidden: int, served: ServingTarget, packing: WeightPacking
) -> KernelVerdict:
    if packing.group == -1 and packing.method == "awq":
        return refused("AWQ's loader cannot make experts with a whole column a group", REGROUP)
    if packing.group > 0 and (inner % packing.group or hidden % packing.group):
        return refused(
            f"experts of {inner} by {hidden} features are no whole groups of {packing.group}",
            REGROUP,
        )
    by_vendor = {"nvidia": _nvidia, "amd": _amd, "cpu": _cpu, "intel": _intel}
    return by_vendor[served.gpu.vendor](inner, hidden, served, packing)


def _marlin_misfit(inner: int, hidden: int, served: ServingTarget, packing: WeightPacking) -> str:
    group = packing.group
    step = max(group, 1) if served.version >= EXPERT_PADDING else max(group, 64)
    if hidden % 128:
        return f"{hidden} inputs, not a multiple of 128"
    if group not in MARLIN_GROUPS:
        return f"groups of {group}: the experts' Marlin takes 32, 64, 128 or a whole column"
    if inner // served.tp % step:
        cut = divided(inner, served.tp, "inner features")
        return f"{cut}, not a multiple of {step}"
    return ""


def _nvidia(
    inner: int, hidden: int, served: ServingTarget, packing: WeightPacking
) -> KernelVerdict:
    why = _marlin_misfit(inner, hidden, served, packing)
    if served.version < LAYER_FALLBACK:
        why = f"the kernels of experts in vLLM {named(served.version)} are not known"
        return KernelVerdict("not known", "slow", why, do=("use vLLM 0.8 or newer",))
    if served.capability < 80 and served.version < TURING_MARLIN:
        return refused(
            f"the experts' kernel needs compute capability 8.0, not {served.device}",
            "use vLLM 0.14 or newer",
        )
    if served.forced == "moe_wna16":
        return _triton(inner // served.tp, hidden, packing, "--quantization moe_wna16 asks for it")
    if why:
        return _triton(inner // served.tp, hidden, packing, why)
    first = served.capability == 90 and served.version >= HUMMING_FIRST
    return KernelVerdict(
        "Marlin", "fast", "it takes the experts' widths", (_HUMMING,) if first else ()
    )


def _triton(part: int, hidden: int, packing: WeightPacking, why: str) -> KernelVerdict:
    """The Triton kernel that is left for experts, and its own limits."""
    group = packing.group
    if packing.method == "compressed-tensors":
        stuck = group <= 0 or part % group
    else:
        while group >= _LEAST_GROUP and (part % group or hidden % group):
            group //= 2
        stuck = group < _LEAST_GROUP
    if stuck:
        return refused(f"{why}, and {TRITON} cannot cut its groups so either", REGROUP)
    do = "serve with fewer GPUs or --enable-expert-parallel, which cuts no expert"
    return KernelVerdict(TRITON, "slow", why, (Refusal("Marlin", why),), (do,))


def _amd(inner: int, hidden: int, served: ServingTarget, packing: WeightPacking) -> KernelVerdict:
    if served.version < ROCM_EXPERTS:
        return refused("vLLM gives the experts to Marlin, which ROCm lacks", "use 0.13 or newer")
    made = _triton(inner // served.tp, hidden, packing, "Marlin is for NVIDIA")
    if made.pace == "refused":
        return made
    return KernelVerdict(TRITON, "fast", "the experts' kernel on ROCm", made.refusals)


def _cpu(inner: int, hidden: int, served: ServingTarget, packing: WeightPacking) -> KernelVerdict:
    if served.version < AUTO_AWQ:
        return refused("vLLM has no 4-bit experts on CPUs before 0.24", "use vLLM 0.24 or newer")
    why = _marlin_misfit(inner, hidden, served, packing) if packing.method != "awq" else ""
    if packing.method == "awq" and _marlin_misfit(inner, hidden, served, packing):
        why = "moe_wna16 is left for these experts, and stops: Minimum capability: 75"
    if not served.amx:
        why = "vLLM's only 4-bit kernel for experts on a CPU needs Intel's AMX"
    elif packing.method != "awq" and packing.zeros:
        why = "that kernel takes zero points of AWQ's layout alone"
    elif packing.method == "compressed-tensors" and packing.group == 32:
        why = "that kernel takes no groups of 32 of compressed-tensors"
    if why:
        return refused(
            f"No WNA16 MoE backend supports the deployment configuration: {why}",
            "run GGUF with llama.cpp, use Salient's own engine, or a CPU with AMX",
        )
    return KernelVerdict(
        "CPU (AMX)", "fast", "experts with SiLU run with AMX, activations at 8 bits"
    )


def _intel(inner: int, hidden: int, served: ServingTarget, packing: WeightPacking) -> KernelVerdict:
    if packing.zeros or packing.method == "awq":
        return refused(
            "the experts' kernel for Intel's GPUs takes codes without zero points, of GPTQ or "
            "compressed-tensors, alone",
            "quantize symmetrically to compressed-tensors",
        )
    return KernelVerdict("XPU", "fast", "it takes the experts' widths")
