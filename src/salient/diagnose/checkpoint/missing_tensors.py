"""Completeness: the tensors of each linear, and the linears of each block.

Blocks are compared with each other, so that no list of architectures is needed: a linear that a
block lacks and its siblings have is missing, unless the block has something else in its place.
"""

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from salient.core.model_files import missing_tensors
from salient.diagnose.finding import Finding
from salient.diagnose.rule import SHOWN, Place

from .contents import FINDINGS, CheckpointContents, QuantizedLinear, in_block, pattern, strings
from .ct_config import WeightArgs, args_of

SILENT = (
    "vLLM loads the folder without a warning and computes with uninitialized memory: its strict "
    "check is off for quantized models."
)
# Tensors of compressed-tensors that vLLM 0.32 does without (schemes/compressed_tensors_wNa16.py).
FILLED = {
    "weight_zero_point": "vLLM loads the folder without a warning and takes 0 for the zero of "
    "every group: no weight is negative.",
    "weight_shape": "vLLM takes the sizes from config.json; Transformers cannot unpack the codes.",
}


def check_tensors(
    contents: CheckpointContents, groups: list[WeightArgs], layout: str
) -> list[Finding]:
    """Quantized linears that lack one of their tensors."""
    packed = contents.packed
    needed = {name: _needed(linear, groups, layout) for name, linear in packed.items()}
    names = contents.tensors.keys() | contents.lost.keys()
    missing = [(packed[name], suffix) for name, suffix in missing_tensors(needed, names)]
    unzeroed = [linear for linear, suffix in missing if suffix == linear.suffixes.zeros]
    findings: list[Finding] = []
    if len(unzeroed) == len(packed) and contents.method != "awq":
        missing = [(linear, s) for linear, s in missing if s != linear.suffixes.zeros]
        args = args_of(unzeroed[0].name, groups) if unzeroed else None
        findings = FINDINGS["zeros-absent"].at(
            ((f"{p.name}.{p.suffixes.zeros}", "missing") for p in unzeroed),
            where=f"{args.where}.weights" if args else "config.json",
        )
    missing.sort(key=lambda pair: pair[1] in FILLED)
    places = [(f"{p.first.path.name}: {p.name}.{s}", _present(p)) for p, s in missing]
    effect = FILLED.get(missing[0][1], SILENT) if missing else ""
    title = _title([f"{p.name}.{s}" for p, s in missing], "tensors of quantized linears")
    return findings + FINDINGS["tensor-missing"].at(places, title=title, effect=effect)


def _title(names: list[str], nouns: str) -> str:
    return f"{names[0]} is missing" if len(names) == 1 else f"{len(names)} {nouns} are missing"


def _needed(linear: QuantizedLinear, groups: list[WeightArgs], layout: str) -> list[str]:
    s, args = linear.suffixes, args_of(linear.name, groups)
    zeros = (args is not None and not args.symmetric) if s.shape else layout != "marlin"
    return list(filter(None, (s.codes, s.scales, s.shape, s.zeros if zeros else "")))


def _present(linear: QuantizedLinear) -> str:
    verb = "are" if len(linear.parts) > 1 else "is"
    return f"missing; {', '.join(linear.parts)} {verb} there"


@dataclass(frozen=True)
class BlockPart:
    """A part of a block (or the block itself, "") and the names of its children."""

    path: str
    children: frozenset[str]


def check_siblings(contents: CheckpointContents) -> list[Finding]:
    """Linears that a block or an expert lacks and its siblings have.

    Of a quantized checkpoint quantized ones only: others may be in some of its blocks.
    """
    missing: list[Place] = []
    coded = set(contents.packed or contents.linears)
    for name in list(coded):
        coded |= {name[:i] for i, letter in enumerate(name) if letter == "."}
    for parts in _siblings(contents).values():
        counts = Counter(part.children for part in parts)
        usual = max(counts, key=lambda children: (counts[children], len(children)))
        like = next(part.path for part in parts if part.children == usual)
        for part in parts:
            if part.children < usual:
                absent = sorted(usual - part.children)
                missing += [(f"{part.path}.{c}", like) for c in absent if f"{like}.{c}" in coded]
    title = _title([name for name, _ in missing], "parts that similar blocks have")
    places = [(f"{_file_of(contents, n)}: {n}", f"missing; {p} has it") for n, p in missing[:SHOWN]]
    row = "linear-missing" if contents.packed else "matrix-missing"
    return FINDINGS[row].at(places, count=len(missing), title=title)


def _file_of(contents: CheckpointContents, name: str) -> str:
    """The file of a missing module's neighbours."""
    while name := name.rpartition(".")[0]:
        for tensor in contents.tensors.values():
            if tensor.name.startswith(f"{name}."):
                return tensor.path.name
    return "no file"


def _siblings(contents: CheckpointContents) -> dict[tuple[Any, ...], list[BlockPart]]:
    """Parts of blocks, those together that should have the same children."""
    children: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for module in {n.rpartition(".")[0] for n in (*contents.tensors, *contents.lost)}:
        spot = in_block(module)
        if spot:
            before, index, rest = spot
            parts = rest.split(".")
            for depth in range(len(parts)):
                children[before, index, ".".join(parts[:depth])].add(parts[depth])
    layers = max((index for _, index, _ in children), default=0) + 1
    siblings: dict[tuple[Any, ...], list[BlockPart]] = defaultdict(list)
    kinds = block_kinds(contents, {index for _, index, _ in children}, layers)
    own_layout = bool(contents.config_value("block_configs"))
    for (before, index, inner), leaves in children.items():
        if inner or not own_layout:
            path = ".".join(filter(None, (before, str(index), inner)))
            key = (before, pattern(inner), kinds[index])
            siblings[key].append(BlockPart(path, frozenset(leaves)))
    return siblings


def block_kinds(
    contents: CheckpointContents, blocks: Collection[int], layers: int
) -> dict[int, tuple[Any, ...]]:
    """What may differ between `blocks` by config.json.

    Per-block lists of strings or strings of letters, such as layer_types, and the last blocks that
    share the keys and values of others (Gemma 3n).
    """
    count = contents.config_value("num_hidden_layers", "n_layer", "num_layers")
    count = count if type(count) is int else layers
    lists = [v if isinstance(v, str) else strings(v) for v in contents.text_config.values()]
    lists = [kind for kind in lists if len(kind) == count > 1]
    shared = contents.config_value("num_kv_shared_layers")
    shared = shared if type(shared) is int else 0
    return {
        index: (
            *(kind[index] for kind in lists if index < count),
            index >= count - shared,
            index >= count,
        )
        for index in blocks
    }
