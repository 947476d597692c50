"""Which kernel vLLM will take for a model's weights, and why not the others.

A model has as many answers as it has distinct matrices: each is put to the rules alone, and the
worst one is the model's. The rules are vLLM 0.32's and, where they differ, those of older releases;
they tell what its code decides before a weight is loaded, not how fast a kernel turns out to be.
"""

from collections import Counter
from dataclasses import replace

from salient.core.errors import RequestError
from salient.shapes.model_shape import ModelShape

from .awq_gates import REGROUP, awq_verdict, gptq_verdict
from .kernel_table import choose
from .moe import experts_verdict
from .preconditions import OTHER_ENGINES, entry
from .sharding import MatrixShard, fitting_tp, misfits, pieces, split_advice
from .types import (
    DTYPES,
    METHODS,
    PACES,
    KernelVerdict,
    Refusal,
    Route,
    ServingTarget,
    WeightPacking,
    refused,
)
from .unquantized import plain_verdict
from .versions import CPU_AWQ, CPU_W4A8, NO_XPU_EXTENSION, doubt, parse_version

__all__ = [
    "Refusal",
    "Route",
    "ServingTarget",
    "WeightPacking",
    "fitting_tp",
    "parse_version",
    "route",
]

# Values of --quantization that round a 16-bit model while it is loaded.
WHILE_LOADING = {
    "fp8": "fp8",
    "fp8_per_tensor": "fp8",
    "fp8_per_block": "fp8",
    "fp8_per_channel": "fp8",
    "bitsandbytes": "bitsandbytes",
}


def route(shape: ModelShape, packing: WeightPacking, served: ServingTarget) -> Route:
    """How vLLM would run `shape`, packed and served so.

    Raises RequestError for a packing, type or number of GPUs that there is none of.
    """
    _check(packing, served)
    if packing.method == "none" and served.forced in WHILE_LOADING:
        packing = replace(packing, method=WHILE_LOADING[served.forced])
    stop = entry(shape, packing, served)
    if stop:
        return _told(stop, served)
    group = packing.group if packing.grouped else 0
    fallen = misfits(shape, group, served.tp, experts=False)
    if fallen:
        why = f"{served.tp} GPUs cannot share this model: {fallen[0]}"
        do = split_advice(shape, group, served.tp) or (REGROUP,)
        return _told(refused(why, *do), served, fallen)
    whole = _one_answer(packing, served)
    return _told(whole, served) if whole else _by_matrix(shape, packing, served)


def _check(packing: WeightPacking, served: ServingTarget) -> None:
    for what, value, known in (
        ("packing method", packing.method, METHODS),
        ("type of activations", served.dtype, DTYPES),
    ):
        if value not in known:
            raise RequestError(f"Unknown {what} {value!r}. Known ones: {', '.join(known)}.")
    if served.tp < 1:
        raise RequestError(f"Tensor parallelism over {served.tp} GPUs is none; give 1 or more.")
    if packing.grouped and packing.group < 1 and packing.group != -1:
        raise RequestError(
            f"A group of {packing.group} inputs is none; give 32, 64, 128, or -1 for a column."
        )


def _one_answer(packing: WeightPacking, served: ServingTarget) -> KernelVerdict | None:
    """The answer that is the same for every matrix, None where widths decide."""
    if not packing.grouped:
        return plain_verdict(served, packing)
    if served.forced == "humming":
        why = "--quantization humming asks for it; it needs the package humming-kernels"
        return KernelVerdict("Humming", "fast", why, do=("install humming-kernels beside vLLM",))
    borrowed = {"cpu": CPU_AWQ, "intel": NO_XPU_EXTENSION}.get(served.gpu.vendor)
    if borrowed and served.version < borrowed and packing.method != "compressed-tensors":
        why = "Intel's extension for PyTorch multiplies it"
        do = ("install intel-extension-for-pytorch beside vLLM",)
        return KernelVerdict("IPEX", "fast", why, do=do)
    return None


def _by_matrix(shape: ModelShape, packing: WeightPacking, served: ServingTarget) -> Route:
    """The worst answer of all distinct matrices and of the experts."""
    group = packing.group
    judged = [
        (piece, _verdict(served, packing, piece))
        for piece in pieces(shape, served.tp)
        if group <= 0 or piece.width % group == 0  # others stay at 16 bits
    ]
    experts = experts_verdict(shape, served, packing)
    worst = _worst([verdict for _, verdict in judged] + ([experts] if experts else []))
    most = _most_common(judged, worst)
    kernel = "" if worst.pace == "refused" else (most or worst).kernel
    fallen = dict.fromkeys(
        f"{piece.name}: {verdict.why}"
        for piece, verdict in judged
        if verdict.local and verdict.pace != "fast"
    )
    if experts and experts.pace != "fast":
        fallen[f"experts: {experts.why}"] = None
    refusals = dict.fromkeys(
        [*(most or worst).refusals, *worst.refusals, *(experts.refusals if experts else ())]
    )
    answer = KernelVerdict(kernel, worst.pace, _sentence(judged, worst), tuple(refusals), worst.do)
    name = experts.kernel if experts else ""
    return _told(_noted(answer, served), served, tuple(fallen), name)


def _verdict(served: ServingTarget, packing: WeightPacking, piece: MatrixShard) -> KernelVerdict:
    by_method = {"awq": awq_verdict, "gptq": gptq_verdict}
    made = by_method.get(packing.method, choose)(served, packing, piece)
    if made.pace == "fast" or made.do:
        return made
    advice = (REGROUP, OTHER_ENGINES) if made.pace == "refused" else (REGROUP,)
    return replace(made, do=advice)


def _worst(verdicts: list[KernelVerdict]) -> KernelVerdict:
    return max(verdicts, key=lambda verdict: PACES.index(verdict.pace))


def _most_common(
    judged: list[tuple[MatrixShard, KernelVerdict]], worst: KernelVerdict
) -> KernelVerdict | None:
    """Of the dense answers as bad as the worst, that whose kernel has most weights; else None."""
    weights: Counter[str] = Counter()
    for piece, verdict in judged:
        if verdict.pace == worst.pace:
            weights[verdict.kernel] += piece.weights
    if not weights:
        return None
    kernel = weights.most_common(1)[0][0]
    return next(v for _, v in judged if v.pace == worst.pace and v.kernel == kernel)


def _sentence(judged: list[tuple[MatrixShard, KernelVerdict]], worst: KernelVerdict) -> str:
    """Why, with the matrix it is about and, where they differ, the others' kernels."""
    names = [piece.name for piece, verdict in judged if verdict is worst]
    if worst.pace != "fast":
        if worst.local and names:
            return f"{names[0]}: {worst.why}"
        return worst.why if names else f"experts: {worst.why}"
    kernels: dict[str, list[str]] = {}
    for piece, verdict in judged:
        kernels.setdefault(verdict.kernel, []).append(piece.name)
    if len(kernels) < 2:
        return worst.why
    told = "; ".join(f"{kernel} for {', '.join(names)}" for kernel, names in kernels.items())
    return f"{worst.why}: {told}"


def _noted(answer: KernelVerdict, served: ServingTarget) -> KernelVerdict:
    """With a word on activations that vLLM rounds to 8 bits on CPUs with AMX, unasked."""
    rounds = served.version >= CPU_W4A8 and served.on("VLLM_CPU_INT4_W4A8", "1")
    if answer.pace == "refused" or not (served.amx and rounds and served.dtype == "bfloat16"):
        return answer
    why = f"{answer.why}; with AMX and bfloat16 it also rounds activations to 8 bits, unasked"
    do = "set VLLM_CPU_INT4_W4A8=0 or serve with --dtype float16 to keep activations at 16 bits"
    return replace(answer, why=why, do=(*answer.do, do))


def _told(
    answer: KernelVerdict, served: ServingTarget, fallen: tuple[str, ...] = (), experts: str = ""
) -> Route:
    """The answer with what could not be known added to its advice."""
    do = list(answer.do)
    if served.gpu.vendor == "nvidia" and not served.gpu.capability:
        do.append("name the card: without it a compute capability of 8.0 is assumed")
    if doubt(served.version):
        do.append(doubt(served.version))
    pace, kernel = answer.pace, answer.kernel
    return Route(kernel, pace, answer.why, answer.refusals, fallen, experts, tuple(do))
