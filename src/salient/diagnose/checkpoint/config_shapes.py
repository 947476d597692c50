"""Bits, group size and sizes of the tensors against config.json."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from salient.core.errors import ModelError
from salient.diagnose.finding import Finding
from salient.diagnose.rule import Place

from .companion_files import embeddings
from .contents import (
    FINDINGS,
    CheckpointContents,
    QuantizedLinear,
    as_integer,
    change,
    changes,
    in_block,
    pattern,
    place,
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


@dataclass(frozen=True)
class StoredMatrix:
    """The matrix of a linear. size: outputs, inputs; turned: some families store it transposed"""

    name: str
    place: str
    size: tuple[int, int]
    turned: bool = False


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
    """Sizes of linears and embedding, and the number of blocks, against config.json."""
    from salient.shapes.families import ARCHITECTURES
    from salient.shapes.from_config import family_of, read_shape

    try:
        family = family_of(contents.config)
    except ModelError as error:
        return FINDINGS["sizes-unknown"].at([("config.json", str(error))])
    try:
        shape = read_shape(contents.config)
    except ModelError as error:
        return FINDINGS["config-impossible"].at([("config.json", str(error))])
    sizes = {
        (index, linear.name): (linear.out, linear.width)
        for index, block in enumerate(shape.blocks)
        for linear in block.linears
    }
    prefix = _main_prefix(contents, sizes)
    matrices = list(_quantized(contents))
    rows: list[Finding] = []
    if family in ARCHITECTURES:  # of others only what the quantizer wrote is of a known form
        matrices += _unquantized(contents)
        rows = _check_rows(contents, shape.vocab)
    return [
        *_sizes(contents, matrices, sizes, prefix),
        *rows,
        *_blocks(contents, prefix, len(shape.blocks)),
    ]


def _quantized(contents: CheckpointContents) -> Iterator[StoredMatrix]:
    for linear in contents.packed.values():
        if linear.groups:
            yield StoredMatrix(linear.name, linear.place, (linear.out, linear.width))


def _unquantized(contents: CheckpointContents) -> Iterator[StoredMatrix]:
    for name, tensor in contents.linears.items():
        out, width = tensor.shape
        yield StoredMatrix(name, place(tensor), (out, width), turned=True)


def _sizes(
    contents: CheckpointContents, matrices: list[StoredMatrix], sizes: Sizes, prefix: str | None
) -> list[Finding]:
    odd: list[Place] = []
    pairs: set[tuple[int, int]] = set()
    for matrix in matrices:
        spot, real = in_block(matrix.name), matrix.size
        wanted = sizes.get((spot[1], pattern(spot[2]))) if spot and spot[0] == prefix else None
        if wanted and real != wanted and not (matrix.turned and real == wanted[::-1]):
            text = f"{real[0]} x {real[1]}; config.json gives {wanted[0]} x {wanted[1]}"
            odd.append((matrix.place, f"outputs x inputs are {text}"))
            pairs |= {(w, r) for w, r in zip(wanted, real, strict=True) if w != r}
    return FINDINGS["config-sizes"].at(odd, steps=_size_change(contents, pairs))


def _check_rows(contents: CheckpointContents, vocabulary: int) -> list[Finding]:
    """The rows of the embedding, which readers compare with vocab_size."""
    odd = [
        (place(contents.plain[name]), f"{shape[0]} rows; config.json's vocab_size is {vocabulary}")
        for name, shape in embeddings(contents)
    ]
    fits = any(shape[0] == vocabulary for _, shape in embeddings(contents))
    rows = {shape[0] for _, shape in embeddings(contents)}
    steps = change("config.json", "vocab_size", vocabulary, rows.pop()) if len(rows) == 1 else ()
    return FINDINGS["config-vocabulary"].at([] if fits else odd, steps=steps)


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
