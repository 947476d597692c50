"""A model's shape from its config and the headers of its files: exact for any architecture.

The config gives the role of each matrix and the cache; the files give the matrices and their
sizes. Imports no torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, cast

from salient.core.errors import ModelError
from salient.core.model_files import StoredTensor

from .config_reader import MOST_LAYERS
from .model_shape import BlockShape, CacheShape, LinearShape, ModelShape
from .rough_counts import UNREAD
from .tensor_names import (
    AHEAD,
    BLOCK,
    EMBEDDINGS,
    EXPERT,
    HEADS,
    STACKED,
    guess_linear,
    is_matrix,
    is_parameter,
    is_tower,
    language_block,
    tower_of,
    unpacked,
)

Sizes = dict[str, tuple[int, ...]]
UNKNOWN = (
    "model type {!r} is unknown: its matrices are named from the safetensors, its cache from "
    "k_proj and v_proj"
)


@dataclass
class ParameterGroups:
    """A model's parameters by place: name -> unpacked shape.

    blocks: names within each block; ahead: layers that predict further tokens
    """

    blocks: dict[int, Sizes] = field(default_factory=dict[int, Sizes])
    embedding: Sizes = field(default_factory=dict[str, tuple[int, ...]])
    head: Sizes = field(default_factory=dict[str, tuple[int, ...]])
    other: Sizes = field(default_factory=dict[str, tuple[int, ...]])
    towers: dict[str, int] = field(default_factory=dict[str, int])
    ahead: Sizes = field(default_factory=dict[str, tuple[int, ...]])


def stored_shape(shape: ModelShape, tensors: Iterable[StoredTensor], *, known: bool) -> ModelShape:
    """`shape` with the counts of `tensors`.

    known: whether its family is; if not, matrices are guessed by their names and differences are
    not noted. Raises ModelError where the files lack a block that the config counts.
    """
    tensors = list(tensors)
    sizes = dict(unpacked(t, shape.quantization) for t in tensors if is_parameter(t))
    groups = _grouped(sizes, len(shape.blocks))
    missing = [i for i in range(len(shape.blocks)) if i not in groups.blocks]
    if missing:
        raise ModelError(
            f"config.json counts {len(shape.blocks)} blocks, but the safetensors hold no tensor "
            f"of block {missing[0]} ({len(missing)} missing). Fetch the missing files."
        )
    blocks = tuple(
        _block(block, groups.blocks[index], shape, known=known)
        for index, block in enumerate(shape.blocks)
    )
    notes = [] if known else [UNKNOWN.format(shape.model_type)]
    head = _elements(groups.head)
    if head and shape.tied and known:
        notes.append("lm_head is stored, but tied to the embedding: counted once")
        head = 0
    stored = replace(
        shape,
        blocks=blocks,
        embedding=_elements(groups.embedding),
        head=head,
        other=_elements(groups.other),
        towers=groups.towers,
        ahead=_elements(groups.ahead),
    )
    notes += _differences(shape, stored) if known else []
    rough = [reason for reason in shape.rough if reason.startswith(UNREAD)]
    count = stored.parameters if rough else None
    size = sum(tensor.bytes for tensor in tensors)
    return replace(
        stored, notes=tuple(notes), rough=tuple(rough), low=count, high=count, stored_bytes=size
    )


def frame_of(
    tensors: Iterable[StoredTensor], model_type: str, quantization: Any = None
) -> ModelShape:
    """A shape without a readable config: as many empty blocks as the files have, and the widths of
    the embedding.

    Raises ModelError where no embedding or block is found.
    """
    packed = cast(dict[str, Any], quantization) if isinstance(quantization, dict) else {}
    groups = _grouped(dict(unpacked(t, packed) for t in tensors if is_parameter(t)), None)
    tables = [shape for shape in groups.embedding.values() if len(shape) == 2 and prod(shape)]
    if not tables:
        raise ModelError(
            "The safetensors hold no embedding of tokens that is known by its name (such as "
            "'model.embed_tokens'): this is no language model that Salient can count."
        )
    deepest = max(groups.blocks)
    if deepest >= MOST_LAYERS:
        raise ModelError(
            f"The safetensors hold a block {deepest}, but Salient counts models of up to "
            f"{MOST_LAYERS} blocks. Fetch the files again."
        )
    vocab, hidden = max(tables, key=prod)
    empty = BlockShape("full attention", (), CacheShape())
    blocks = (empty,) * (deepest + 1)
    rough = (f"{UNREAD}config.json, a layout of its own",)
    return ModelShape(model_type, hidden, vocab, blocks, 0, 0, quantization=packed, rough=rough)


def _grouped(sizes: Sizes, layers: int | None) -> ParameterGroups:
    """Every parameter in its place; blocks after the first `layers` predict further tokens."""
    home = _language_blocks(sizes)
    groups = ParameterGroups()
    for name, shape in sizes.items():
        match = BLOCK.match(name)
        if match and match[1] == home:
            index = int(match[2])
            if layers is None or index < layers:
                groups.blocks.setdefault(index, {})[match[3]] = shape
            else:
                groups.ahead[name] = shape
            continue
        module = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
        if AHEAD.search(name):
            groups.ahead[name] = shape
        elif is_tower(name) or (match and match[1] != home):
            tower = tower_of(name)
            groups.towers[tower] = groups.towers.get(tower, 0) + prod(shape)
        elif module in HEADS:
            groups.head[name] = shape
        elif module in EMBEDDINGS:
            groups.embedding[name] = shape
        else:
            groups.other[name] = shape
    return groups


def _language_blocks(sizes: Sizes) -> str:
    """The list of blocks that is the language model's: the largest that is no tower's."""
    elements: dict[str, int] = {}
    for name, shape in sizes.items():
        if match := language_block(name):
            elements[match[1]] = elements.get(match[1], 0) + prod(shape)
    if not elements:
        raise ModelError(
            "The safetensors hold no list of blocks (such as 'model.layers.0...'): this is no "
            "language model that Salient can count."
        )
    return max(elements, key=lambda name: elements[name])


def _block(block: BlockShape, sizes: Sizes, shape: ModelShape, *, known: bool) -> BlockShape:
    """`block` with the matrices of `sizes`."""
    counted = {linear.name: linear for linear in block.linears}
    active = max((linear.active for linear in block.linears if linear.copies > 1), default=0)
    total = _elements(sizes)
    linears: list[LinearShape] = []
    for name, (copies, out, width, bias) in _matrices(sizes, shape.hidden).items():
        linear = counted.get(name)
        if linear is None:
            linear = guess_linear(name, out, width, copies=copies, active=active or copies)
        if linear.width * linear.out == out * width:  # GPT-2 has [in, out], bitsandbytes a column
            out, width = linear.out, linear.width
        linear = replace(linear, out=out, width=width, copies=copies, bias=bias)
        linears.append(replace(linear, active=min(linear.active, copies)))
    linears.sort(
        key=lambda linear: list(counted).index(linear.name) if linear.name in counted else 1 << 20
    )
    rest = total - sum(linear.weights + linear.biases for linear in linears)
    cache = block.cache if known else _cache(block.cache, linears)
    return replace(block, linears=tuple(linears), cache=cache, other=rest)


def _matrices(sizes: Sizes, hidden: int) -> dict[str, tuple[int, int, int, bool]]:
    """The linears among a block's tensors: name -> copies, out, width, bias."""
    matrices: dict[str, tuple[int, int, int, bool]] = {}
    for name, shape in sizes.items():
        if not is_matrix(name, shape):
            continue
        module = name.removesuffix(".weight")
        if len(shape) == 3:
            biased = f"{module}_bias" in sizes or f"{module}.bias" in sizes
            matrices |= _stack(module, shape, hidden, biased=biased)
            continue
        name = EXPERT.sub("experts.*.", module)
        copies = matrices[name][0] + 1 if name in matrices else 1
        matrices[name] = (copies, shape[0], shape[1], f"{module}.bias" in sizes)
    return matrices


def _stack(
    module: str, shape: tuple[int, ...], hidden: int, *, biased: bool
) -> dict[str, tuple[int, int, int, bool]]:
    """A stack of experts, [experts, out, in] or [experts, in, out], one by one."""
    home, _, last = module.rpartition(".")
    if last in STACKED:
        home, _, last = f"{home}.{STACKED[last]}".rpartition(".")
    copies, out, width = shape
    entry = not last.startswith(("down", "w2"))
    if (width if entry else out) != hidden and (out if entry else width) == hidden:
        out, width = width, out
    if last == "gate_up_proj":
        half = (copies, out // 2, width, biased)
        return {f"{home}.*.gate_proj": half, f"{home}.*.up_proj": half}
    return {f"{home}.*.{last}": (copies, out, width, biased)}


def _cache(cache: CacheShape, linears: list[LinearShape]) -> CacheShape:
    """The cache of a block of an unknown family: the outputs of k_proj and v_proj, the latent, or
    nothing where it has no attention."""
    outs = [linear.out for linear in linears if linear.name.endswith((".k_proj", ".v_proj"))]
    latent = [linear.out for linear in linears if linear.name.endswith(".kv_a_proj_with_mqa")]
    if latent:
        return replace(cache, values=latent[0], heads=1)
    if not any(linear.part == "attention" for linear in linears):
        return CacheShape(state=cache.state)
    values = sum(outs) if len(outs) == 2 else cache.values
    return replace(cache, values=values, heads=cache.heads if values % cache.heads == 0 else 1)


def _elements(sizes: Sizes) -> int:
    return sum(prod(shape) for shape in sizes.values())


def _differences(counted: ModelShape, stored: ModelShape) -> list[str]:
    """Where files and config do not agree, part by part."""
    ours, theirs = _parts(counted), _parts(stored)
    return [
        f"{part}: {theirs.get(part, 0):,} parameters in the files, {ours.get(part, 0):,} by "
        "config.json"
        for part in dict.fromkeys((*ours, *theirs))
        if ours.get(part, 0) != theirs.get(part, 0)
    ]


def _parts(shape: ModelShape) -> dict[str, int]:
    counts = shape.parts | {"towers": sum(shape.towers.values())}
    return {"norms and the like" if name == "other" else name: n for name, n in counts.items()}
