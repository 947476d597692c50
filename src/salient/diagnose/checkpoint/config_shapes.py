"""Do the tensors have the bits, the group size and the sizes that config.json says?"""

from collections import Counter
from dataclasses import dataclass

from salient.core.errors import ModelError
from salient.diagnose.finding import Finding

from .awq_layout import WHOLE_ROW, place_of
from .contents import (
    CheckpointContents,
    QuantizedLinear,
    change,
    changes,
    in_block,
    many,
    pattern,
    seen,
    whole,
)
from .ct_config import WeightArgs, args_of
from .quant_config import first_of

WRONG_SCALES = (
    "Readers take the wrong scale for most weights, or stop: vLLM with a bare AssertionError or "
    '"start (0) + length (48) exceeds dimension size (24)".'
)
Sizes = dict[tuple[int, str], tuple[int, int]]


@dataclass(frozen=True)
class ConfigShapes:
    """What one place of the settings says of the linears that fall under it."""

    where: str
    group: int | None
    bits: int | None
    group_key: str = "group_size"
    bits_key: str = "bits"


def check_sizes(contents: CheckpointContents, groups: list[WeightArgs]) -> list[Finding]:
    """Bits and group size, for each place of the settings that speaks of linears."""
    found = []
    for said, linears in _by_place(contents, groups).items():
        measured = [p for p in linears if p.groups]
        if measured:
            found += _check_bits(said, measured)
            found += _check_group(said, measured)
    return found


def _by_place(
    contents: CheckpointContents, groups: list[WeightArgs]
) -> dict[ConfigShapes, list[QuantizedLinear]]:
    if contents.method == "awq":
        settings = contents.settings
        said = ConfigShapes(
            contents.where,
            whole(first_of(settings, "q_group_size", "group_size")),
            whole(first_of(settings, "w_bit", "bits")),
            "q_group_size" if settings.get("q_group_size") is not None else "group_size",
            "w_bit" if settings.get("w_bit") is not None else "bits",
        )
        return {said: list(contents.packed.values())}
    found: dict[ConfigShapes, list[QuantizedLinear]] = {}
    for linear in contents.packed.values():
        args = args_of(linear.name, groups)
        if args:
            said = ConfigShapes(f"{args.where}.weights", args.group, args.bits, bits_key="num_bits")
            found.setdefault(said, []).append(linear)
    return found


def _check_bits(said: ConfigShapes, linears: list[QuantizedLinear]) -> list[Finding]:
    odd = [p for p in linears if said.bits is not None and p.bits != said.bits]
    real = Counter(p.bits for p in linears).most_common(1)[0][0]
    if odd:
        return [
            Finding(
                "bits-wrong",
                "error",
                f"The settings say {said.bits} bits, the codes have {real}",
                matters="Readers cut the words into other codes than were written.",
                do=change(said.where, said.bits_key, said.bits, real),
                evidence=seen((place_of(p), f"{p.bits} bits by its shapes") for p in odd),
                count=len(odd),
                rank=13,
            )
        ]
    if said.bits_key != "num_bits" and real != 4:
        return [
            Finding(
                "bits-unsupported",
                "error",
                f"The codes have {real} bits",
                matters=f'vLLM 0.32 reads AWQ with 4 bits only: "Unsupported num_bits = {real}."',
                do=("Quantize again with 4 bits: salient quantize MODEL -o OUT",),
                evidence=seen([(place_of(linears[0]), f"{real} bits by its shapes")]),
                rank=13,
            )
        ]
    return []


def _fits(linear: QuantizedLinear, group: int) -> bool:
    if group == WHOLE_ROW:
        return linear.groups == 1
    return linear.groups * group >= linear.width > (linear.groups - 1) * group


def _check_group(said: ConfigShapes, linears: list[QuantizedLinear]) -> list[Finding]:
    if said.group is None or not (said.group == WHOLE_ROW or said.group > 0):
        return []
    odd = [p for p in linears if not _fits(p, said.group)]
    if not odd:
        return []
    rows = all(p.groups == 1 for p in linears) and len({p.width for p in linears}) > 1
    real = WHOLE_ROW if rows else Counter(p.group for p in linears).most_common(1)[0][0]
    evidence = seen(
        (place_of(p), f"{p.width} inputs in {p.groups} groups: {p.group} each") for p in odd
    )
    if real != said.group and sum(_fits(p, real) for p in linears) > len(linears) / 2:
        return [
            Finding(
                "group-size-wrong",
                "error",
                f"The settings give a scale to {_size(said.group)}, the tensors to {_size(real)}",
                matters=WRONG_SCALES,
                do=_group_change(said, real),
                evidence=evidence,
                count=len(odd),
                rank=13,
            )
        ]
    return [
        Finding(
            "group-size-mixed",
            "error",
            f"Other groups than the settings' {said.group} inputs in {many(len(odd), 'linear')}",
            matters=WRONG_SCALES,
            do=("Fetch these files again: they are of another checkpoint. Or quantize again.",),
            evidence=evidence,
            count=len(odd),
            rank=15,
        )
    ]


def _size(group: int) -> str:
    return "a whole row" if group == WHOLE_ROW else f"{group} inputs"


def _group_change(said: ConfigShapes, real: int) -> tuple[str, ...]:
    row = (said.group_key, said.group, real)
    if said.bits_key != "num_bits":
        return changes(said.where, row)
    if real == WHOLE_ROW:
        rows = ("strategy", "group", "channel"), (said.group_key, said.group, None)
        return changes(said.where, *rows)
    if said.group == WHOLE_ROW:
        return changes(said.where, ("strategy", "channel", "group"), (said.group_key, None, real))
    return changes(said.where, row)


def check_config_sizes(contents: CheckpointContents) -> list[Finding]:
    """Sizes of linears and the number of blocks, against what config.json's numbers give."""
    from salient.shapes.from_config import read_shape

    try:
        shape = read_shape(contents.config)
    except ModelError as error:
        return [
            Finding(
                "sizes-unknown",
                "note",
                "The sizes in config.json were not compared with the tensors",
                evidence=seen([("config.json", str(error))]),
            )
        ]
    sizes = {
        (index, linear.name): (linear.out, linear.width)
        for index, block in enumerate(shape.blocks)
        for linear in block.linears
    }
    return [*_sizes(contents, sizes), *_blocks(contents, sizes, len(shape.blocks))]


def _sizes(contents: CheckpointContents, sizes: Sizes) -> list[Finding]:
    odd = []
    pairs: set[tuple[int, int]] = set()
    prefix = _main_prefix(contents, sizes)
    for linear in contents.packed.values():
        spot = in_block(linear.name)
        wanted = sizes.get((spot[1], pattern(spot[2]))) if spot and spot[0] == prefix else None
        if wanted and linear.groups and (linear.out, linear.width) != wanted:
            words = f"{linear.out} x {linear.width}; config.json gives {wanted[0]} x {wanted[1]}"
            odd.append((place_of(linear), f"outputs x inputs are {words}"))
            real = (linear.out, linear.width)
            pairs |= {(w, r) for w, r in zip(wanted, real, strict=True) if w != r}
    if not odd:
        return []
    return [
        Finding(
            "config-sizes",
            "error",
            f"Other sizes than config.json gives in {many(len(odd), 'linear')}",
            certainty="likely",
            matters="Readers build the model from config.json; the tensors do not go in.",
            do=_mend(contents, pairs),
            evidence=seen(odd),
            count=len(odd),
            rank=11,
        )
    ]


def _mend(contents: CheckpointContents, pairs: set[tuple[int, int]]) -> tuple[str, ...]:
    """The change of config.json if one key has the one number that does not fit."""
    wrong, real = min(pairs)
    found = contents.text_config
    keys = [key for key, value in found.items() if value == wrong and type(value) is int]
    where = "config.json" if found is contents.config else "config.json: text_config"
    if len(pairs) == len(keys) == 1:
        return change(where, keys[0], wrong, real)
    return (
        "Compare hidden_size, intermediate_size, num_attention_heads, num_key_value_heads and "
        "head_dim with the 16-bit model's config.json.",
    )


def _main_prefix(contents: CheckpointContents, sizes: Sizes) -> str | None:
    """The path before the numbers of the language model's blocks."""
    wanted = {name for _, name in sizes}
    names = {name.rpartition(".")[0] for name in (*contents.tensors, *contents.lost)}
    spots = [spot for spot in map(in_block, names) if spot]
    known = Counter(before for before, _, rest in spots if pattern(rest) in wanted)
    return known.most_common(1)[0][0] if known else None


def _blocks(contents: CheckpointContents, sizes: Sizes, layers: int) -> list[Finding]:
    """Blocks that config.json counts and no tensor has, or the other way round."""
    prefix = _main_prefix(contents, sizes)
    if prefix is None:
        return []
    spots = [spot for spot in map(in_block, (*contents.tensors, *contents.lost)) if spot]
    held = {index for before, index, _ in spots if before == prefix}
    absent = sorted(set(range(layers)) - held)
    extra = whole(contents.word("num_nextn_predict_layers")) or 0
    beyond = sorted(index for index in held if index >= layers + extra)
    if not absent and not beyond:
        return []
    text = f"num_hidden_layers gives {layers}; the files have {min(held)} to {max(held)}"
    where = [f"{prefix}.{index}" for index in absent or beyond][:8]
    words = "no tensors" if absent else "not counted"
    return [
        Finding(
            "config-layers",
            "error",
            f"Without tensors: {many(len(absent), 'block')}"
            if absent
            else f"Not counted by config.json: {many(len(beyond), 'block')}",
            matters="vLLM runs blocks without tensors on uninitialised memory."
            if absent
            else "Readers leave them out, or stop over tensors that they do not know.",
            do=("Fetch the missing files again, or correct num_hidden_layers in config.json.",),
            evidence=seen([("config.json: num_hidden_layers", text), *((w, words) for w in where)]),
            count=len(absent or beyond),
            rank=11,
        )
    ]
