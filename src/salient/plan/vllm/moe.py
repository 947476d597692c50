"""Which kernel runs a mixture's experts in vLLM, for 4-bit codes.

Sources: vLLM 0.32, layers/fused_moe/oracle/int_wna16.py (the order of backends and what each
refuses), utils/marlin_utils.py (check_moe_marlin_supports_config), layers/quantization/
moe_wna16.py, fused_moe/experts/cpu_moe.py and xpu_moe.py.
"""

from salient.shapes.model_shape import ModelShape

from .gates import MARLIN_GROUPS, REGROUP
from .sharding import divided, expert_widths
from .types import KernelVerdict, Refusal, ServingTarget, WeightPacking, refused, worst
from .versions import (
    AUTO_AWQ,
    EXPERT_PADDING,
    FALLBACK_REPORTED,
    HUMMING_FIRST,
    ROCM_EXPERTS,
    TURING_MARLIN,
)

TRITON = "Triton (moe_wna16)"
_HUMMING = Refusal("Humming", "needs the package humming-kernels; then it comes first")
_LEAST_GROUP = 32  # moe_wna16 halves groups down to this until they fit


def experts_verdict(
    shape: ModelShape, target: ServingTarget, packing: WeightPacking
) -> KernelVerdict | None:
    """The kernel of the experts, the worst of their widths; None for a dense model."""
    verdicts = [_of_width(*widths, target, packing) for widths in expert_widths(shape)]
    return worst(verdicts) if verdicts else None


def _of_width(
    inner: int, hidden: int, target: ServingTarget, packing: WeightPacking
) -> KernelVerdict:
    group = packing.group
    if group == -1 and packing.method == "awq":
        return refused("AWQ's loader cannot make experts with one group per column", REGROUP)
    if group > 0 and (inner % group or hidden % group):
        features = f"{inner} by {hidden} features"
        return refused(f"experts of {features} do not divide into groups of {group}", REGROUP)
    by_vendor = {"nvidia": _nvidia, "amd": _amd, "cpu": _cpu, "intel": _intel}
    return by_vendor[target.gpu.vendor](inner, hidden, target, packing)


def _marlin_misfit(inner: int, hidden: int, target: ServingTarget, packing: WeightPacking) -> str:
    group = packing.group
    step = max(group, 1) if target.version >= EXPERT_PADDING else max(group, 64)
    if hidden % 128:
        return f"{hidden} inputs, not a multiple of 128"
    if group not in MARLIN_GROUPS:
        return f"groups of {group}: the experts' Marlin takes 32, 64, 128 or a whole column"
    if inner // target.tp % step:
        return f"{divided(inner, target.tp, 'inner features')}, not a multiple of {step}"
    return ""


def _nvidia(
    inner: int, hidden: int, target: ServingTarget, packing: WeightPacking
) -> KernelVerdict:
    if target.capability < 80 and target.version < TURING_MARLIN:
        return refused(
            f"the experts' kernel needs compute capability 8.0, not {target.device}",
            "use vLLM 0.14 or newer",
        )
    why = _marlin_misfit(inner, hidden, target, packing)
    if target.forced == "moe_wna16":
        why = "--quantization moe_wna16 selects it"
    if why and target.version < FALLBACK_REPORTED and packing.method in ("awq", "gptq"):
        crash = "vLLM 0.8.5 crashes where it reports the fallback ('warning_one', vLLM #17608)"
        fewer = ", or fewer GPUs" if target.tp > 1 else ""
        return refused(f"{why}, and {crash}", f"use vLLM 0.9 or newer{fewer}")
    if why:
        return _triton(inner, hidden, target, packing, why)
    humming = target.capability == 90 and target.version >= HUMMING_FIRST
    refusals = (_HUMMING,) if humming else ()
    return KernelVerdict("Marlin", "fast", "it takes the experts' widths", refusals)


def _triton(
    inner: int, hidden: int, target: ServingTarget, packing: WeightPacking, why: str
) -> KernelVerdict:
    """The Triton kernel that is left for experts, and its own limits."""
    group, part = packing.group, inner // target.tp
    if packing.method == "compressed-tensors":
        stuck = group <= 0 or part % group
    else:
        while group >= _LEAST_GROUP and (part % group or hidden % group):
            group //= 2
        stuck = group < _LEAST_GROUP
    if stuck:
        return refused(f"{why}, and {TRITON} cannot cut its groups so either", REGROUP)
    whole = "serve with fewer GPUs or --enable-expert-parallel, which cuts no expert"
    do = whole if target.tp > 1 else REGROUP
    return KernelVerdict(TRITON, "slow", why, (Refusal("Marlin", why),), (do,))


def _amd(inner: int, hidden: int, target: ServingTarget, packing: WeightPacking) -> KernelVerdict:
    if target.version < ROCM_EXPERTS:
        return refused("vLLM gives the experts to Marlin, which ROCm lacks", "use 0.13 or newer")
    verdict = _triton(inner, hidden, target, packing, "Marlin is for NVIDIA")
    if verdict.pace == "refused":
        return verdict
    return KernelVerdict(TRITON, "fast", "the experts' kernel on ROCm", verdict.refusals)


def _cpu(inner: int, hidden: int, target: ServingTarget, packing: WeightPacking) -> KernelVerdict:
    if target.version < AUTO_AWQ:
        return refused("vLLM has no 4-bit experts on CPUs before 0.24", "use vLLM 0.24 or newer")
    why = _marlin_misfit(inner, hidden, target, packing)
    if why and packing.method == "awq":
        why = "moe_wna16 is left for these experts, and stops: Minimum capability: 75"
    if not target.amx:
        why = "vLLM's only 4-bit kernel for experts on a CPU needs Intel's AMX"
    elif packing.method != "awq" and packing.zeros:
        why = "that kernel takes zero points only in AWQ's layout"
    elif packing.method == "compressed-tensors" and packing.group == 32:
        why = "that kernel takes no groups of 32 of compressed-tensors"
    if why:
        return refused(
            f"No WNA16 MoE backend supports the deployment configuration: {why}",
            "run GGUF with llama.cpp, use Salient's own engine, or a CPU with AMX",
        )
    return KernelVerdict("CPU (AMX)", "fast", "experts with SiLU run with AMX, 8-bit activations")


def _intel(inner: int, hidden: int, target: ServingTarget, packing: WeightPacking) -> KernelVerdict:
    if packing.zeros or packing.method == "awq":
        return refused(
            "the experts' kernel for Intel's GPUs takes only codes without zero points, of GPTQ or "
            "compressed-tensors",
            "quantize symmetrically to compressed-tensors",
        )
    return KernelVerdict("XPU", "fast", "it takes the experts' widths")
