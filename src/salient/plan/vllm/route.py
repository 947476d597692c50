"""Which kernel vLLM takes for a model's weights, and why not the others.

The rules say what vLLM's code decides before a weight is loaded, not how fast a kernel turns out to
be. They run from top to bottom, and the first answer counts:

    preconditions   device, release, type, flags and variables at which vLLM stops (gates)
    sharding        whether the GPUs can share the matrices (sharding)
    formats         one kernel where the format has no groups of codes (kernel_table)
    each matrix     a gate to the slow kernel (gates), else the first kernel that takes it
    experts         the kernel of a mixture's experts (moe)

A model has as many answers as distinct matrices; the slowest one is the model's.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from salient.core.errors import RequestError
from salient.core.scheme import GROUP_SIZES
from salient.shapes.model_shape import ModelShape

from .gates import (
    AWQ_GATES,
    GPTQ_GATES,
    MARLIN_GROUPS,
    NO_GROUP,
    ODD_WIDTHS,
    OTHER_ENGINES,
    PRECONDITIONS,
    REGROUP,
    first_closed,
)
from .kernel_table import (
    FORMAT_KERNELS,
    SLOW_KERNELS,
    USE_AWQ,
    VllmKernel,
    kernel_misfit,
    kernel_order,
)
from .moe import experts_verdict
from .sharding import MatrixShard, fitting_tp, misfits, shards, split_advice
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
    worst,
)
from .versions import (
    AUTO_AWQ,
    AWQ_TRIES_ALL,
    CPU_AWQ,
    CPU_W4A8,
    NO_XPU_EXTENSION,
    OLDEST,
    version_caveat,
)

__all__ = ["Route", "ServingTarget", "WeightPacking", "fitting_tp", "route"]

# Values of --quantization that quantize a 16-bit model while it is loaded.
WHILE_LOADING = {
    **dict.fromkeys(("fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel"), "fp8"),
    "bitsandbytes": "bitsandbytes",
    "mxfp4": "mxfp4",
    "mxfp8": "mxfp8",
}
EXPERTS_ONLY = "the experts have a kernel of their own; other weights are unquantized"
ShardVerdict = tuple[MatrixShard, KernelVerdict]


def route(shape: ModelShape, packing: WeightPacking, target: ServingTarget) -> Route:
    """How vLLM would run `shape` with weights stored as `packing` on `target`.

    A release older than OLDEST follows the rules of OLDEST. Raises RequestError for an unknown
    method, type or group size, or a tensor-parallel size below 1.
    """
    _check(packing, target)
    caveats = _caveats(target)
    target = replace(target, version=max(target.version, OLDEST))
    if packing.method == "none" and target.forced in WHILE_LOADING:
        packing = replace(packing, method=WHILE_LOADING[target.forced])
    answer = _answer(shape, packing, target)
    steps = (
        _regroup(shape, packing, target, answer) if step == REGROUP else step for step in answer.do
    )
    return replace(answer, do=(*dict.fromkeys(steps), *caveats))


def _answer(shape: ModelShape, packing: WeightPacking, target: ServingTarget) -> Route:
    return _whole_model(shape, packing, target) or _by_matrix(shape, packing, target)


def _regroup(
    shape: ModelShape, packing: WeightPacking, target: ServingTarget, answer: Route
) -> str:
    """REGROUP with the sizes that are faster by the same rules, or that none is."""
    pace = PACES.index(answer.pace)
    sizes = [
        str(size)
        for size in GROUP_SIZES
        if PACES.index(_answer(shape, replace(packing, group=size), target).pace) < pace
    ]
    listed = " or ".join(filter(None, (", ".join(sizes[:-1]), *sizes[-1:])))
    return REGROUP.format(groups=listed) if sizes else NO_GROUP


def _check(packing: WeightPacking, target: ServingTarget) -> None:
    for what, value, known in (
        ("packing method", packing.method, METHODS),
        ("type of activations", target.dtype, DTYPES),
    ):
        if value not in known:
            raise RequestError(f"Unknown {what} {value!r}. Use one of: {', '.join(known)}.")
    if target.tp < 1:
        raise RequestError(f"Tensor-parallel size must be at least 1, got {target.tp}.")
    if packing.grouped and packing.group < 1 and packing.group != -1:
        raise RequestError(
            f"Unsupported group size {packing.group}; use 32, 64, 128, or -1 (per column)."
        )


def _caveats(target: ServingTarget) -> list[str]:
    """What to do about what is not known."""
    steps: list[str] = []
    if target.gpu.vendor == "nvidia" and not target.gpu.capability:
        steps.append("name the card: without it a compute capability of 8.0 is assumed")
    if caveat := version_caveat(target.version):
        steps.append(caveat)
    return steps


def _whole_model(shape: ModelShape, packing: WeightPacking, target: ServingTarget) -> Route | None:
    """The answer that is the same for every matrix, None where widths decide."""
    _, reason = first_closed(PRECONDITIONS, target, packing, shape)
    if reason:
        return Route("", "refused", reason[0], do=reason[1:])
    group = packing.group if packing.grouped else 0
    if causes := misfits(shape, group, target.tp, experts=False):
        do = split_advice(shape, group, target.tp) or (REGROUP,)
        why = f"{target.tp} GPUs cannot share this model: {causes[0]}"
        return Route("", "refused", why, fallen=causes, do=do)
    if not packing.grouped:
        return _block_misfit(shape, packing, target) or _format_route(shape, packing, target)
    if target.forced == "humming":
        why = "--quantization humming selects it; it needs the package humming-kernels"
        return Route("Humming", "fast", why, do=("install humming-kernels next to vLLM",))
    extension = {"cpu": CPU_AWQ, "intel": NO_XPU_EXTENSION}.get(target.gpu.vendor, OLDEST)
    if target.version < extension and packing.method != "compressed-tensors":
        do = "install intel-extension-for-pytorch next to vLLM"
        return Route("IPEX", "fast", "Intel's extension for PyTorch multiplies it", do=(do,))
    return None


def _format_route(shape: ModelShape, packing: WeightPacking, target: ServingTarget) -> Route:
    """The kernel of a format without groups of codes; of its experts, where only they have it."""
    row = next((row for row in FORMAT_KERNELS if row.fits(target, packing.method)), None)
    if row is None:
        why = f"vLLM has no {packing.method} kernel for {target.device}"
        return Route("", "refused", why, do=(USE_AWQ,))
    parts = {linear.part == "experts" for linear in shape.linears if not linear.unquantized}
    experts = (row.experts or row.kernel) if True in parts else ""
    alone = parts == {True} and row.experts
    pace = "fast" if row.fast or alone else "slow"
    why = row.why.format(device=target.device) if row.fast or not alone else EXPERTS_ONLY
    return Route(experts if alone else row.kernel, pace, why, experts=experts, do=row.do)


def _block_misfit(shape: ModelShape, packing: WeightPacking, target: ServingTarget) -> Route | None:
    """Why `tp` GPUs cannot share blocks of FP8: vLLM cuts none of them (fp8_utils.py:
    validate_fp8_block_shape)."""
    if packing.method != "fp8_block" or target.tp == 1 or packing.group < 1:
        return None
    causes = misfits(shape, packing.group, target.tp, columns=True)
    if not causes:
        return None
    why = f"{target.tp} GPUs would cut blocks of {packing.group}: {causes[0]}"
    sizes = [tp for tp in fitting_tp(shape, 1) if tp < target.tp]
    fits = [tp for tp in sizes if not misfits(shape, packing.group, tp, columns=True)]
    do = [f"serve with --tensor-parallel-size {fits[-1]}"] if fits else []
    if any("experts" in cause for cause in causes):
        do.append("or with --enable-expert-parallel, which cuts no expert")
    return Route("", "refused", why, fallen=causes, do=tuple(do))


def _by_matrix(shape: ModelShape, packing: WeightPacking, target: ServingTarget) -> Route:
    """The slowest answer of all distinct matrices and of the experts."""
    group = packing.group
    verdicts = [
        (shard, _matrix_verdict(target, packing, shard))
        for shard in shards(shape, target.tp)
        if group <= 0 or shard.width % group == 0  # others stay unquantized
    ]
    experts = experts_verdict(shape, target, packing)
    slowest = worst([verdict for _, verdict in verdicts] + ([experts] if experts else []))
    main = _main_verdict(verdicts, slowest) or slowest
    fallen = dict.fromkeys(
        f"{shard.name}: {verdict.why}"
        for shard, verdict in verdicts
        if verdict.local and verdict.pace != "fast"
    )
    if experts and experts.pace != "fast":
        fallen[f"experts: {experts.why}"] = None
    refusals = [*main.refusals, *slowest.refusals, *(experts.refusals if experts else ())]
    why, do = _sentence(verdicts, slowest), slowest.do
    rounds = target.version >= CPU_W4A8 and target.is_on("VLLM_CPU_INT4_W4A8", "1")
    if slowest.pace != "refused" and target.amx and rounds and target.dtype == "bfloat16":
        why += "; with AMX and bfloat16 it also rounds activations to 8 bits by default"
        do += ("set VLLM_CPU_INT4_W4A8=0 or serve with --dtype float16 for 16-bit activations",)
    return Route(
        "" if slowest.pace == "refused" else main.kernel,
        slowest.pace,
        why,
        tuple(dict.fromkeys(refusals)),
        tuple(fallen),
        experts.kernel if experts else "",
        do,
    )


def _matrix_verdict(
    target: ServingTarget, packing: WeightPacking, shard: MatrixShard
) -> KernelVerdict:
    by_method = {"awq": _awq_verdict, "gptq": _gptq_verdict}
    verdict = by_method.get(packing.method, first_kernel)(target, packing, shard)
    if verdict.pace == "fast" or verdict.do:
        return verdict
    grouped = packing.group in MARLIN_GROUPS and "group" not in verdict.why
    step = ODD_WIDTHS if verdict.local and grouped else REGROUP
    return replace(verdict, do=(step, OTHER_ENGINES) if verdict.pace == "refused" else (step,))


def first_kernel(
    target: ServingTarget,
    packing: WeightPacking,
    shard: MatrixShard,
    kernels: Iterable[VllmKernel] | None = None,
) -> KernelVerdict:
    """The first kernel that takes a matrix, with the refusals of those before it.

    The GPU's part is assumed to hold whole groups (`sharding.misfits`).
    """
    refusals: list[Refusal] = []
    narrow = ""
    for kernel in kernel_order(target) if kernels is None else kernels:
        why, local = kernel_misfit(kernel, target, packing, shard)
        if not why:
            why = f"takes {packing.summary} on {target.device}"
            pace = "fast" if kernel.fast else "slow"
            return KernelVerdict(
                kernel.name, pace, narrow or why, tuple(refusals), local=bool(narrow)
            )
        refusals.append(Refusal(kernel.name, why))
        narrow = f"{kernel.name} {why}" if local else narrow
    causes = "; ".join(f"{r.kernel} {r.why}" for r in refusals) or "vLLM has none for this device"
    why = f"no kernel takes {packing.summary} in {target.dtype} on {target.device}: {causes}"
    return KernelVerdict("", "refused", narrow or why, tuple(refusals), local=bool(narrow))


def _awq_verdict(
    target: ServingTarget, packing: WeightPacking, shard: MatrixShard
) -> KernelVerdict:
    # the loader packs 8 outputs together and, with one group per column, gives matrices cut over
    # their inputs no scale at all (auto_awq.py: num_groups)
    if shard.outputs % 8:
        why = f"AWQ packs 8 outputs together, and {shard.outputs} a GPU are not a multiple of 8"
        return refused(why, local=True)
    if packing.group == -1 and shard.ways > 1:
        why = f"AWQ's loader cannot share a column's only group among {shard.ways} GPUs"
        return refused(why, local=True)
    gate, reason = first_closed(AWQ_GATES, target, packing, shard)
    if gate is None:
        if target.gpu.vendor == "nvidia" and target.version < AWQ_TRIES_ALL:
            marlin = [kernel for kernel in kernel_order(target) if kernel.name == "Marlin"]
            return first_kernel(target, packing, shard, marlin)
        verdict = first_kernel(target, packing, shard)
        if verdict.pace == "refused" and target.gpu.vendor == "amd":
            verdict = replace(verdict, do=("use --quantization awq, or vLLM 0.20 or newer",))
        return verdict
    why, *do = reason
    if not gate.local and target.version < AUTO_AWQ and target.forced in ("awq_marlin", "marlin"):
        why = f"--quantization {target.forced} does not match the checkpoint here: {why}"
        return refused(why, *do, "or drop --quantization")
    return _slow_awq(why, do, target, packing, shard, local=gate.local)


def _slow_awq(
    why: str,
    do: list[str],
    target: ServingTarget,
    packing: WeightPacking,
    shard: MatrixShard,
    *,
    local: bool,
) -> KernelVerdict:
    """The slow kernel of a matrix that a gate stops, or why that does not run either."""
    triton = target.gpu.vendor == "amd" or target.is_on("VLLM_USE_TRITON_AWQ")
    name = "Triton AWQ" if triton else "awq_gemm"
    slow = [kernel for kernel in kernel_order(target, SLOW_KERNELS) if kernel.name == name]
    # it reads zero points, whatever the config says, so only the other limits count
    packing = replace(packing, zeros=True)
    verdict = first_kernel(target, packing, shard, slow)
    if verdict.pace != "refused":
        skipped = (
            Refusal(kernel.name, kernel_misfit(kernel, target, packing, shard)[0] or why)
            for kernel in kernel_order(target)
            if kernel.fast and kernel.zeros and not kernel.package
            if target.version >= AWQ_TRIES_ALL or kernel.name == "Marlin"
        )
        return KernelVerdict(name, "slow", why, tuple(skipped), tuple(do), local)
    limit = verdict.refusals[0].why
    if "multiplies float16" in limit:
        do = ["serve with --dtype float16", *do]
    stop = f"{name}, the slow kernel, {limit}; it is the only one left, because {why}"
    return KernelVerdict("", "refused", stop, verdict.refusals, tuple(do), verdict.local or local)


def _gptq_verdict(
    target: ServingTarget, packing: WeightPacking, shard: MatrixShard
) -> KernelVerdict:
    gate, reason = first_closed(GPTQ_GATES, target, packing, shard)
    if gate is None:
        return first_kernel(target, packing, shard)
    why, *do = reason
    if target.dtype != "float16":
        stop = (
            f"GPTQ's slow kernel multiplies float16, not {target.dtype}, and it is left, as {why}"
        )
        return refused(stop, "serve with --dtype float16", *do)
    return KernelVerdict("Exllama", "slow", why, (Refusal("Marlin", why),), tuple(do))


def _main_verdict(verdicts: list[ShardVerdict], slowest: KernelVerdict) -> KernelVerdict | None:
    """Of the dense answers as slow as the slowest, that whose kernel has most weights."""
    weights: Counter[str] = Counter()
    for shard, verdict in verdicts:
        if verdict.pace == slowest.pace:
            weights[verdict.kernel] += shard.weights
    if not weights:
        return None
    kernel = weights.most_common(1)[0][0]
    return next(v for _, v in verdicts if v.pace == slowest.pace and v.kernel == kernel)


def _sentence(verdicts: list[ShardVerdict], slowest: KernelVerdict) -> str:
    """Why, with the matrix it is about and, where they differ, the others' kernels."""
    names = [shard.name for shard, verdict in verdicts if verdict is slowest]
    if slowest.pace != "fast":
        if slowest.local and names:
            return f"{names[0]}: {slowest.why}"
        return slowest.why if names else f"experts: {slowest.why}"
    kernels: dict[str, list[str]] = {}
    for shard, verdict in verdicts:
        kernels.setdefault(verdict.kernel, []).append(shard.name)
    if len(kernels) < 2:
        return slowest.why
    parts = "; ".join(f"{kernel} for {', '.join(names)}" for kernel, names in kernels.items())
    return f"{slowest.why}: {parts}"
