"""Bits, group size and sizes of the tensors against config.json."""

from collections import Counter
from dataclasses import dataclass

from salient.core.errors import ModelError
from salient.diagnose.finding import Finding
from salient.diagnose.rule import Place

from .contents import (
    FINDINGS,
    CheckpointContents,
    QuantizedLinear,
    as_integer,
    change,
    changes,
    in_block,
    pattern,
)
from .ct_config import WeightArgs, args_of
from .tensor_layout import WHOLE_ROW, usual_group

Sizes = dict[tuple[int, str], tuple[int, int]]


@dataclass(frozen=True)
class ConfigShapes:
    """The sizes in one part of the settings, for the linears that it covers."""

    where: str
    group: int | None
    bits: int | None
    group_key: str = "group_size"
    bits_key: str = "bits"


def check_sizes(contents: CheckpointContents, groups: list[WeightArgs]) -> list[Finding]:
    """Bits and group size, for each part of the settings that covers linears."""
    findings: list[Finding] = []
    for declared, linears in _by_part(contents, groups).items():
        measured = [linear for linear in linears if linear.groups]
        if measured:
            findings += _check_bits(declared, measured) + _check_group(declared, measured)
    return findings


def _by_part(
    contents: CheckpointContents, groups: list[WeightArgs]
) -> dict[ConfigShapes, list[QuantizedLinear]]:
    if contents.method == "awq":
        settings = contents.settings
        group_key = "group_size" if settings.get("q_group_size") is None else "q_group_size"
        bits_key = "bits" if settings.get("w_bit") is None else "w_bit"
        group, bits = (as_integer(settings.get(key)) for key in (group_key, bits_key))
        declared = ConfigShapes(contents.where, group, bits, group_key, bits_key)
        return {declared: list(contents.packed.values())}
    parts: dict[ConfigShapes, list[QuantizedLinear]] = {}
    for linear in contents.packed.values():
        args = args_of(linear.name, groups)
        if args:
            where = f"{args.where}.weights"
            declared = ConfigShapes(where, args.group, args.bits, bits_key="num_bits")
            parts.setdefault(declared, []).append(linear)
    return parts


def _check_bits(declared: ConfigShapes, linears: list[QuantizedLinear]) -> list[Finding]:
    bits, key = declared.bits, declared.bits_key
    odd = [p for p in linears if bits is not None and p.bits != bits]
    real = Counter(p.bits for p in linears).most_common(1)[0][0]
    places = [(p.place, f"{p.bits} bits by its shapes") for p in odd]
    if not odd and key != "num_bits" and real != 4:
        unsupported = (linears[0].place, f"{real} bits by its shapes")
        return FINDINGS["bits-unsupported"].at([unsupported], real=real)
    steps = change(declared.where, key, bits, real)
    return FINDINGS["bits-wrong"].at(places, steps=steps, declared=bits, real=real)


def _fits(linear: QuantizedLinear, group: int) -> bool:
    if group == WHOLE_ROW:
        return linear.groups == 1
    return linear.groups * group >= linear.width > (linear.groups - 1) * group


def _check_group(declared: ConfigShapes, linears: list[QuantizedLinear]) -> list[Finding]:
    group = declared.group
    if group is None or not (group == WHOLE_ROW or group > 0):
        return []
    odd = [p for p in linears if not _fits(p, group)]
    real = usual_group(linears) or group
    places = [(p.place, f"{p.width} inputs in {p.groups} groups: {p.group} each") for p in odd]
    if real == group or sum(_fits(p, real) for p in linears) <= len(linears) / 2:
        return FINDINGS["group-size-mixed"].at(places, declared=group)
    steps = _group_change(declared, group, real)
    sizes = ["row" if size == WHOLE_ROW else f"{size} inputs" for size in (group, real)]
    return FINDINGS["group-size-wrong"].at(places, steps=steps, declared=sizes[0], real=sizes[1])


def _group_change(declared: ConfigShapes, group: int, real: int) -> tuple[str, ...]:
    where, key = declared.where, declared.group_key
    if declared.bits_key == "num_bits" and real == WHOLE_ROW:
        return changes(where, ("strategy", "group", "channel"), (key, group, None))
    if declared.bits_key == "num_bits" and group == WHOLE_ROW:
        return changes(where, ("strategy", "channel", "group"), (key, None, real))
    return change(where, key, group, real)


def check_config_sizes(contents: CheckpointContents) -> list[Finding]:
    """Sizes of linears and the number of blocks, against config.json."""
    from salient.shapes.from_config import read_shape

    try:
        shape = read_shape(contents.config)
    except ModelError as error:
        return FINDINGS["sizes-unknown"].at([("config.json", str(error))])
    sizes = {
        (index, linear.name): (linear.out, linear.width)
        for index, block in enumerate(shape.blocks)
        for linear in block.linears
    }
    prefix = _main_prefix(contents, sizes)
    return _sizes(contents, sizes, prefix) + _blocks(contents, prefix, len(shape.blocks))


def _sizes(contents: CheckpointContents, sizes: Sizes, prefix: str | None) -> list[Finding]:
    odd: list[Place] = []
    pairs: set[tuple[int, int]] = set()
    for linear in contents.packed.values():
        spot = in_block(linear.name)
        wanted = sizes.get((spot[1], pattern(spot[2]))) if spot and spot[0] == prefix else None
        real = (linear.out, linear.width)
        if wanted and linear.groups and real != wanted:
            text = f"{real[0]} x {real[1]}; config.json gives {wanted[0]} x {wanted[1]}"
            odd.append((linear.place, f"outputs x inputs are {text}"))
            pairs |= {(w, r) for w, r in zip(wanted, real, strict=True) if w != r}
    return FINDINGS["config-sizes"].at(odd, steps=_size_change(contents, pairs))


def _size_change(contents: CheckpointContents, pairs: set[tuple[int, int]]) -> tuple[str, ...]:
    """The change of config.json if one key has the one number that does not fit."""
    config = contents.text_config
    where = "config.json" if config is contents.config else "config.json: text_config"
    for wrong, real in pairs if len(pairs) == 1 else ():
        keys = [key for key, value in config.items() if value == wrong and type(value) is int]
        if len(keys) == 1:
            return change(where, keys[0], wrong, real)
    return (
        "Compare hidden_size, intermediate_size, num_attention_heads, num_key_value_heads and "
        "head_dim with the original model's config.json.",
    )


def _main_prefix(contents: CheckpointContents, sizes: Sizes) -> str | None:
    """The path before the numbers of the language model's blocks."""
    wanted = {name for _, name in sizes}
    names = {name.rpartition(".")[0] for name in (*contents.tensors, *contents.lost)}
    spots = [spot for spot in map(in_block, names) if spot]
    known = Counter(before for before, _, rest in spots if pattern(rest) in wanted)
    return known.most_common(1)[0][0] if known else None


def _blocks(contents: CheckpointContents, prefix: str | None, layers: int) -> list[Finding]:
    """Blocks that config.json counts and no tensor has, or the other way round."""
    if prefix is None:
        return []
    spots = [spot for spot in map(in_block, (*contents.tensors, *contents.lost)) if spot]
    present = {index for before, index, _ in spots if before == prefix}
    absent = sorted(set(range(layers)) - present)
    extra = as_integer(contents.config_value("num_nextn_predict_layers")) or 0
    blocks = absent or sorted(index for index in present if index >= layers + extra)
    row, text = "config-layers-extra", "not counted"
    if absent:
        row, text = "config-layers-missing", "no tensors"
    counts = f"num_hidden_layers gives {layers}; the files have {min(present)} to {max(present)}"
    places = [(f"{prefix}.{index}", text) for index in blocks]
    places = [("config.json: num_hidden_layers", counts), *places] if places else []
    return FINDINGS[row].at(places, count=len(blocks))
