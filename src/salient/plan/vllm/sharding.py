"""A model's matrices as an engine's kernels see them: merged, and sharded over GPUs.

vLLM merges q, k and v into qkv_proj, and gate and up into gate_up_proj; their outputs add up.
Tensor parallelism cuts most matrices over their outputs, and o_proj and down_proj over their
inputs, where each shard must hold whole groups (vLLM 0.32: distributed/utils.py, layers/linear.py).
"""

from collections import Counter
from dataclasses import dataclass, replace

from salient.core.scheme import GROUP_SIZES
from salient.shapes.model_shape import CacheShape, LinearShape, ModelShape

BlockKinds = Counter[tuple[tuple[LinearShape, ...], CacheShape]]


@dataclass(frozen=True)
class MatrixShard:
    """One GPU's part of a matrix.

    inputs, outputs: of the part; width: inputs of the whole matrix
    weights: elements of all such matrices together, uncut
    """

    name: str
    inputs: int
    outputs: int
    width: int
    weights: int = 0

    @property
    def ways(self) -> int:
        """Over how many GPUs the inputs are cut."""
        return self.width // self.inputs if self.inputs else 1


def shards(shape: ModelShape, tp: int) -> tuple[MatrixShard, ...]:
    """Each distinct matrix that a 4-bit format rounds, except experts, on one of `tp` GPUs."""
    weights: Counter[MatrixShard] = Counter()
    for (linears, cache), times in _block_kinds(shape).items():
        for name, parts in _merged(linears).items():
            first, row = parts[0], parts[0].split == "in"
            outputs = sum(part.out if row else part.out // _ways(part, cache, tp) for part in parts)
            inputs = first.width // _ways(first, cache, tp) if row else first.width
            shard = MatrixShard(name, inputs, outputs, first.width)
            weights[shard] += times * sum(part.weights for part in parts)
    return tuple(replace(shard, weights=count) for shard, count in weights.items())


def expert_widths(shape: ModelShape) -> tuple[tuple[int, int], ...]:
    """(inner width, hidden width) of each distinct kind of expert."""
    widths = (
        (linear.width, linear.out)
        for linear in shape.linears
        if linear.part == "experts" and linear.split == "in" and not linear.unquantized
    )
    return tuple(dict.fromkeys(widths))


def misfits(
    shape: ModelShape, group: int, tp: int, *, experts: bool = True, columns: bool = False
) -> tuple[str, ...]:
    """Why `tp` GPUs cannot share the model, one line for each distinct cause.

    A `group` of 0 or -1 needs even parts only. A matrix whose whole width the group does not divide
    stays unquantized, so its shards need no whole groups. With `experts` False theirs need none
    either: vLLM has a kernel that halves their groups. With `columns` the outputs of a part must be
    whole groups too.
    """
    return _misfits(_block_kinds(shape), group, tp, experts=experts, columns=columns)


def fitting_tp(shape: ModelShape, group: int, limit: int = 16) -> tuple[int, ...]:
    """Tensor-parallel sizes, up to `limit`, over which the model with groups of `group` can be cut.

    Attention heads divide, key-value heads divide or repeat, every matrix splits evenly, and those
    cut over their inputs into whole groups. A vocabulary may be padded, so it sets no limit.
    """
    kinds = _block_kinds(shape)
    return tuple(tp for tp in range(1, limit + 1) if not _misfits(kinds, group, tp))


def split_advice(shape: ModelShape, group: int, tp: int) -> tuple[str, ...]:
    """What to change where `tp` GPUs cannot share the model."""
    steps: list[str] = []
    if sizes := fitting_tp(shape, group):
        steps.append(f"serve with --tensor-parallel-size {' or '.join(map(str, sizes))}")
    if tp > 1:
        steps.append(f"or with --pipeline-parallel-size {tp} instead, which cuts no matrix")
    smaller = [g for g in GROUP_SIZES if g < group and not misfits(shape, g, tp)]
    if smaller:
        steps.append(f"or quantize again with groups of {smaller[0]}, which {tp} GPUs can share")
    return tuple(steps)


def divided(features: int, ways: int, what: str) -> str:
    """ "5120 inputs / 8 GPUs = 640"."""
    if ways == 1:
        return f"{features} {what}"
    return f"{features} {what} / {ways} GPUs = {features / ways:.10g}"


def _block_kinds(shape: ModelShape) -> BlockKinds:
    """Distinct blocks by their matrices and cache, with how many there are of each."""
    return Counter((block.linears, block.cache) for block in shape.blocks)


def _misfits(
    kinds: BlockKinds, group: int, tp: int, *, experts: bool = True, columns: bool = False
) -> tuple[str, ...]:
    causes: dict[str, None] = {}
    for linears, cache in kinds:
        causes |= dict.fromkeys(_head_misfits(linears, cache, tp))
        for linear in linears:
            whole = group if experts or linear.part != "experts" else 0
            if why := _misfit(linear, cache, whole, tp, columns=columns):
                causes[f"{linear.name}: {why}"] = None
    return tuple(causes)


def _merged(linears: tuple[LinearShape, ...]) -> dict[str, list[LinearShape]]:
    """The matrices by the module that holds them in an engine."""
    modules: dict[str, list[LinearShape]] = {}
    for linear in linears:
        if linear.unquantized or linear.part == "experts":
            continue
        parent = linear.name.rpartition(".")[0]
        name = f"{parent}.{linear.joined}" if linear.joined and parent else linear.joined
        modules.setdefault(name or linear.name, []).append(linear)
    return modules


def _ways(linear: LinearShape, cache: CacheShape, tp: int) -> int:
    """Over how many GPUs a matrix is cut; keys and values repeat where GPUs outnumber heads."""
    if linear.split == "none":
        return 1
    if linear.part == "attention" and linear.name.endswith(("k_proj", "v_proj")):
        return min(tp, cache.heads)
    return tp


def _misfit(linear: LinearShape, cache: CacheShape, group: int, tp: int, *, columns: bool) -> str:
    ways, width = _ways(linear, cache, tp), linear.width
    if linear.split == "out":
        whole = group if columns and not linear.unquantized and linear.out % group == 0 else 1
        if linear.out % ways:
            return divided(linear.out, ways, "outputs")
        odd = linear.out // ways % whole
        return f"{divided(linear.out, ways, 'outputs')}, not a multiple of {group}" if odd else ""
    if linear.split == "in" and width % ways:
        return divided(width, ways, "inputs")
    if linear.unquantized or group <= 0 or width % group or width // ways % group == 0:
        return ""
    return f"{divided(width, ways, 'inputs')}, not a multiple of {group}"


def _head_misfits(linears: tuple[LinearShape, ...], cache: CacheShape, tp: int) -> list[str]:
    """vLLM 0.32: config/model.py for attention heads, layers/linear.py for key-value heads."""
    heads, causes = _attention_heads(linears, cache), list[str]()
    if heads % tp:
        causes.append(f"{heads} attention heads cannot be shared by {tp} GPUs evenly")
    if heads and cache.heads % tp and tp % cache.heads:
        causes.append(f"{cache.heads} key-value heads neither divide over nor repeat on {tp} GPUs")
    return causes


def _attention_heads(linears: tuple[LinearShape, ...], cache: CacheShape) -> int:
    """Query heads, or 0 where widths do not give them: latent attention, states, shared caches.

    A cache holds 2 * heads * head_dim numbers a token, and o_proj reads query heads * head_dim.
    """
    latent = any("kv_a_proj" in linear.name or "kv_b_proj" in linear.name for linear in linears)
    reads = [n.width for n in linears if n.part == "attention" and n.split == "in"]
    head = cache.values // (2 * cache.heads)
    if latent or not reads or not head or reads[0] % head:
        return 0
    return reads[0] // head
