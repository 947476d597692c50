"""A model's matrices as an engine's kernels see them: joined, and cut over GPUs.

vLLM joins q, k and v into qkv_proj, and gate and up into gate_up_proj; their outputs add up. Tensor
parallelism cuts most matrices over their outputs, and o_proj and down_proj over their inputs, where
each part must hold whole groups (vLLM 0.32, distributed/utils.py and layers/linear.py).
"""

from collections import Counter
from dataclasses import dataclass

from salient.shapes.model_shape import CacheShape, LinearShape, ModelShape

GROUPS = (128, 64, 32)


@dataclass(frozen=True)
class MatrixShard:
    """What one GPU holds of a matrix.

    inputs, outputs: of this part; width: inputs of the whole matrix
    weights: elements of all such matrices together, uncut
    """

    name: str
    inputs: int
    outputs: int
    width: int
    weights: int = 0

    @property
    def ways(self) -> int:
        """Over how many GPUs its inputs are cut."""
        return self.width // self.inputs if self.inputs else 1


def pieces(shape: ModelShape, tp: int) -> tuple[MatrixShard, ...]:
    """Each distinct matrix that a 4-bit format rounds, but experts, as one of `tp` GPUs has it."""
    weights: Counter[MatrixShard] = Counter()
    for (linears, cache), times in _kinds(shape).items():
        for name, parts in _joined(linears).items():
            row = parts[0].split == "in"
            width = parts[0].width
            outputs = sum(p.out if row else p.out // _ways(p, cache, tp) for p in parts)
            inputs = width // _ways(parts[0], cache, tp) if row else width
            piece = MatrixShard(name, inputs, outputs, width)
            weights[piece] += times * sum(part.weights for part in parts)
    return tuple(MatrixShard(p.name, p.inputs, p.outputs, p.width, n) for p, n in weights.items())


def expert_widths(shape: ModelShape) -> tuple[tuple[int, int], ...]:
    """(inner width, hidden width) of each distinct kind of expert."""
    found = (
        (linear.width, linear.out)
        for linear in shape.linears
        if linear.part == "experts" and linear.split == "in" and not linear.kept
    )
    return tuple(dict.fromkeys(found))


def misfits(shape: ModelShape, group: int, tp: int, *, experts: bool = True) -> tuple[str, ...]:
    """Why `tp` GPUs cannot share the model, a line for each distinct cause; empty where they can.

    `group` of 0 or -1 asks for even parts only. A matrix whose whole width the group does not
    divide stays at 16 bits, so its parts need no whole groups. Without `experts` theirs need none
    either: vLLM has a kernel that halves their groups.
    """
    return _misfits(_kinds(shape), group, tp, experts=experts)


def fitting_tp(shape: ModelShape, group: int, limit: int = 16) -> tuple[int, ...]:
    """Numbers of GPUs, up to `limit`, that can share the model with groups of `group` inputs.

    Attention heads divide, key-value heads divide or repeat, every matrix splits evenly, and those
    cut over their inputs into whole groups. A vocabulary may be padded, so it sets no limit.
    """
    kinds = _kinds(shape)
    return tuple(tp for tp in range(1, limit + 1) if not _misfits(kinds, group, tp))


def split_misfit(piece: MatrixShard, group: int) -> str:
    """Why a matrix's groups do not survive the cut over its inputs, "" where they do."""
    if group <= 0 or piece.width % group or piece.inputs % group == 0:
        return ""
    return f"{divided(piece.width, piece.ways, 'inputs')}, not a multiple of {group}"


def split_advice(shape: ModelShape, group: int, tp: int) -> tuple[str, ...]:
    """What to change where `tp` GPUs cannot share the model."""
    found = []
    fits = fitting_tp(shape, group)
    if fits:
        found.append(f"serve with --tensor-parallel-size {' or '.join(map(str, fits))}")
    if tp > 1:
        found.append(f"or with --pipeline-parallel-size {tp} instead, which cuts no matrix")
    smaller = [g for g in GROUPS if g < group and not misfits(shape, g, tp)]
    if smaller:
        found.append(f"or quantize again with groups of {smaller[0]}, which {tp} GPUs can share")
    return tuple(found)


Kinds = Counter[tuple[tuple[LinearShape, ...], CacheShape]]


def _kinds(shape: ModelShape) -> Kinds:
    """Blocks by what they hold, with how many are alike."""
    return Counter((block.linears, block.cache) for block in shape.blocks)


def _misfits(kinds: Kinds, group: int, tp: int, *, experts: bool = True) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for linears, cache in kinds:
        found |= dict.fromkeys(_heads_misfit(linears, cache, tp))
        for linear in linears:
            asked = group if experts or linear.part != "experts" else 0
            why = _misfit(linear, cache, asked, tp)
            if why:
                found[f"{linear.name}: {why}"] = None
    return tuple(found)


def _joined(linears: tuple[LinearShape, ...]) -> dict[str, list[LinearShape]]:
    """The matrices by the module that holds them in an engine."""
    found: dict[str, list[LinearShape]] = {}
    for linear in linears:
        if linear.kept or linear.part == "experts":
            continue
        above = linear.name.rpartition(".")[0]
        name = f"{above}.{linear.joined}" if linear.joined and above else linear.joined
        found.setdefault(name or linear.name, []).append(linear)
    return found


def _ways(linear: LinearShape, cache: CacheShape, tp: int) -> int:
    """Over how many GPUs a matrix is cut; keys and values repeat where GPUs outnumber heads."""
    if linear.split == "none":
        return 1
    if linear.part == "attention" and linear.name.endswith(("k_proj", "v_proj")):
        return min(tp, cache.heads)
    return tp


def _misfit(linear: LinearShape, cache: CacheShape, group: int, tp: int) -> str:
    ways = _ways(linear, cache, tp)
    if linear.split == "out":
        return divided(linear.out, ways, "outputs") if linear.out % ways else ""
    if linear.split == "in" and linear.width % ways:
        return divided(linear.width, ways, "inputs")
    if linear.kept:
        return ""
    part = MatrixShard(linear.name, linear.width // ways, linear.out, linear.width)
    return split_misfit(part, group)


def divided(features: int, ways: int, what: str) -> str:
    """ "5120 inputs / 8 GPUs = 640"."""
    if ways == 1:
        return f"{features} {what}"
    return f"{features} {what} / {ways} GPUs = {features / ways:.10g}"


def _heads_misfit(linears: tuple[LinearShape, ...], cache: CacheShape, tp: int) -> tuple[str, ...]:
    """vLLM 0.32: config/model.py for attention heads, layers/linear.py for key-value heads."""
    heads = _attention_heads(linears, cache)
    if not heads:
        return ()
    found = []
    if heads % tp:
        found.append(f"{heads} attention heads cannot be shared by {tp} GPUs evenly")
    if cache.heads % tp and tp % cache.heads:
        found.append(f"{cache.heads} key-value heads neither divide over nor repeat on {tp} GPUs")
    return tuple(found)


def _attention_heads(linears: tuple[LinearShape, ...], cache: CacheShape) -> int:
    """Query heads, or 0 where widths do not tell: latent attention (MLA), states, shared caches.

    A cache keeps 2 * heads * head_dim numbers a token, and o_proj reads query heads * head_dim.
    """
    latent = any("kv_a_proj" in linear.name or "kv_b_proj" in linear.name for linear in linears)
    reads = [n.width for n in linears if n.part == "attention" and n.split == "in"]
    head = cache.values // (2 * cache.heads)
    if latent or not reads or not head or reads[0] % head:
        return 0
    return reads[0] // head
