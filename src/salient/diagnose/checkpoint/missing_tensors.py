"""Is everything there: the tensors of each linear, and the linears of each block.

Blocks are compared with their like, so that no list of architectures is needed: a linear that a
block lacks and its siblings have is missing, unless the block has something else in its place.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from salient.diagnose.finding import Finding

from .contents import SHOWN, CheckpointContents, QuantizedLinear, in_block, pattern, seen
from .ct_config import WeightArgs, args_of

SILENT = (
    "vLLM loads the folder without a word and computes with uninitialised memory: its strict check "
    "is off for quantized models."
)
# What of compressed-tensors vLLM 0.32 does without (schemes/compressed_tensors_wNa16.py).
FILLED = {
    "weight_zero_point": "vLLM loads the folder without a word and takes 0 for the zero of every "
    "group: no weight is negative.",
    "weight_shape": "vLLM takes the sizes from config.json; Transformers cannot unpack the codes.",
}
TRACK = "--model-loader-extra-config '{\"enable_weights_track\": true}'"


def check_tensors(
    contents: CheckpointContents, groups: list[WeightArgs], layout: str
) -> list[Finding]:
    """Quantized linears that lack one of their tensors."""
    lacking: list[tuple[QuantizedLinear, str]] = []
    unzeroed: list[QuantizedLinear] = []
    packed = contents.packed.values()
    for linear in packed:
        for suffix in _required(linear, groups, layout):
            full = f"{linear.name}.{suffix}"
            if suffix not in linear.parts and full not in contents.lost:
                zeros = suffix == linear.suffixes.zeros
                (unzeroed if zeros else []).append(linear)
                lacking.append((linear, suffix))
    if len(unzeroed) == len(packed) and contents.method != "awq":
        lacking = [(linear, s) for linear, s in lacking if s != linear.suffixes.zeros]
        return [_no_zeros(unzeroed, groups), *([_lacking(lacking)] if lacking else [])]
    return [_lacking(lacking)] if lacking else []


def _required(linear: QuantizedLinear, groups: list[WeightArgs], layout: str) -> tuple[str, ...]:
    s = linear.suffixes
    if not s.shape:
        return (s.codes, s.scales) if layout == "marlin" else (s.codes, s.scales, s.zeros)
    args = args_of(linear.name, groups)
    asymmetric = args is not None and not args.symmetric
    return (s.codes, s.scales, s.shape, s.zeros) if asymmetric else (s.codes, s.scales, s.shape)


def _lacking(lacking: list[tuple[QuantizedLinear, str]]) -> Finding:
    lacking = sorted(lacking, key=lambda one: one[1] in FILLED)
    linear, suffix = lacking[0]
    places = [
        (f"{next(iter(p.parts.values())).path.name}: {p.name}.{s}", f"missing; {_there(p)} there")
        for p, s in lacking
    ]
    return Finding(
        "tensor-missing",
        "error",
        f"{linear.name}.{suffix} is missing"
        if len(lacking) == 1
        else f"{len(lacking)} tensors of quantized linears are missing",
        matters=FILLED.get(suffix, SILENT),
        do=(
            "Fetch the files again, or quantize again.",
            f"Serve with the check that vLLM leaves out: vllm serve ... {TRACK}",
        ),
        evidence=seen(places),
        count=len(lacking),
        rank=14,
    )


def _there(linear: QuantizedLinear) -> str:
    parts = list(linear.parts)
    return f"{', '.join(parts)} {'are' if len(parts) > 1 else 'is'}"


def _no_zeros(linears: list[QuantizedLinear], groups: list[WeightArgs]) -> Finding:
    args = args_of(linears[0].name, groups)
    where = f"{args.where}.weights" if args else "config.json"
    return Finding(
        "zeros-absent",
        "error",
        "The settings say asymmetric, and no linear has zero points",
        matters=FILLED["weight_zero_point"],
        do=(
            "If it was made symmetric (W4A16), say so:",
            f"In {where}:",
            '-  "symmetric": false',
            '+  "symmetric": true',
            "Otherwise fetch the files again.",
        ),
        evidence=seen((f"{p.name}.{p.suffixes.zeros}", "missing") for p in linears),
        count=len(linears),
        rank=14,
    )


@dataclass(frozen=True)
class BlockPart:
    """A part of a block (or the block itself, "") and the names of what it holds."""

    path: str
    holds: frozenset[str]


def check_siblings(contents: CheckpointContents) -> list[Finding]:
    """Linears that a block or an expert lacks and its like have."""
    places = []
    holders = set(contents.packed)
    for name in contents.packed:
        holders |= {name[:i] for i, letter in enumerate(name) if letter == "."}
    for sites in _sites(contents).values():
        counts = Counter(site.holds for site in sites)
        usual = max(counts, key=lambda holds: (counts[holds], len(holds)))
        for site in sites:
            if site.holds < usual:
                like = next(other.path for other in sites if other.holds == usual)
                gone = [leaf for leaf in sorted(usual - site.holds) if f"{like}.{leaf}" in holders]
                places += [(f"{site.path}.{leaf}", like) for leaf in gone]
    if not places:
        return []
    named = [
        (f"{_file_of(contents, name)}: {name}", f"missing; {like} has it")
        for name, like in places[:SHOWN]
    ]
    return [
        Finding(
            "linear-missing",
            "error",
            f"{places[0][0]} is missing"
            if len(places) == 1
            else f"{len(places)} parts that like blocks have are missing",
            certainty="likely",
            matters=SILENT,
            do=(
                "Fetch the files again, or quantize again.",
                f"Serve with the check that vLLM leaves out: vllm serve ... {TRACK}",
            ),
            evidence=seen(named),
            count=len(places),
            rank=14,
        )
    ]


def _file_of(contents: CheckpointContents, name: str) -> str:
    """The file where the neighbours of a missing module lie."""
    near = name.rpartition(".")[0]
    while near:
        for tensor in contents.tensors.values():
            if tensor.name.startswith(f"{near}."):
                return tensor.path.name
        near = near.rpartition(".")[0]
    return "no file"


def _sites(contents: CheckpointContents) -> dict[tuple[Any, ...], list[BlockPart]]:
    """Parts of blocks, those together that should hold the same."""
    children: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for module in {n.rpartition(".")[0] for n in (*contents.tensors, *contents.lost)}:
        spot = in_block(module)
        if spot:
            before, index, rest = spot
            parts = rest.split(".")
            for depth in range(len(parts)):
                children[before, index, ".".join(parts[:depth])].add(parts[depth])
    layers = max((index for _, index, _ in children), default=0) + 1
    found: dict[tuple[Any, ...], list[BlockPart]] = defaultdict(list)
    for (before, index, inner), held in children.items():
        if inner or not contents.word("block_configs"):
            path = ".".join(filter(None, (before, str(index), inner)))
            key = (before, pattern(inner), kind_of(contents, index, layers))
            found[key].append(BlockPart(path, frozenset(held)))
    return found


def kind_of(contents: CheckpointContents, index: int, layers: int) -> tuple[Any, ...]:
    """What config.json says of one block that may change what it holds.

    Lists of words or strings of letters with one for each block, such as layer_types, and the last
    blocks that share the keys and values of others (Gemma 3n).
    """
    count = contents.word("num_hidden_layers", "n_layer", "num_layers")
    count = count if type(count) is int else layers
    words = [
        value[index]
        for value in contents.text_config.values()
        if isinstance(value, (list, str)) and len(value) == count > index
        if all(isinstance(one, str) for one in value) and count > 1
    ]
    shared = contents.word("num_kv_shared_layers")
    shared = shared if type(shared) is int else 0
    return (*words, index >= count - shared, index >= count)
