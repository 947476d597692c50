"""Linears at 16 bits among quantized ones, and the two ends of the model: embedding and head."""

from collections import defaultdict

from salient.core.model_files import StoredTensor
from salient.diagnose.finding import Finding

from .contents import (
    EXPERT,
    HEADS,
    JOINED,
    TABLES,
    CheckpointContents,
    change,
    fitting_entries,
    in_block,
    many,
    pattern,
    place,
    said,
    seen,
)
from .ct_config import WeightArgs, args_of
from .ignore_lists import KEYS, entries_of, named
from .missing_tensors import kind_of


def check_kept(contents: CheckpointContents, groups: list[WeightArgs]) -> list[Finding]:
    """16-bit linears that readers would want as codes."""
    split = _split(contents)
    found = [_joined(contents, split)] if split else []
    twice = [tensor for name, tensor in contents.plain.items() if name in contents.packed]
    found += [_twice(twice)] if twice else []
    if not contents.settings:
        return found
    missed = [n for n in _unnamed(contents, groups) if n not in split]
    kinds = {_kind(contents, name) for name in contents.packed}
    like = [name for name in missed if _kind(contents, name) in kinds]
    alone = [name for name in missed if name not in set(like)]
    found += [_like_are_quantized(contents, like)] if like else []
    return [*found, *([_no_entry(contents, alone)] if alone else [])]


def _split(contents: CheckpointContents) -> dict[str, str]:
    """16-bit linears whose partners are quantized -> words about what engines join them into."""
    together: dict[str, list[str]] = defaultdict(list)
    joined = {shard: name for name, shards in JOINED for shard in shards}
    for module in (*contents.packed, *contents.plain):
        parent, _, leaf = module.rpartition(".")
        if leaf in joined:
            together[f"{parent}.{joined[leaf]}"].append(module)
        expert = EXPERT.match(module)
        if expert:
            together[expert[1]].append(module)
    split = {}
    for name, held in together.items():
        coded = [module for module in held if module in contents.packed]
        for module in held if coded else ():
            if module in contents.plain and module not in contents.packed:
                split[module] = f"16 bits; {coded[0]} is quantized, both are of {name}"
    return split


def _joined(contents: CheckpointContents, split: dict[str, str]) -> Finding:
    return Finding(
        "joined-mixed",
        "error",
        "Linears that engines join are partly quantized",
        matters='vLLM stops: "Detected some but not all shards of ... are quantized. All shards of '
        'fused layers to have the same precision."',
        do=("Quantize again, all of them or none: salient quantize MODEL --skip PATTERN -o OUT",),
        evidence=seen((place(contents.plain[name]), words) for name, words in split.items()),
        count=len(split),
        rank=17,
    )


def _twice(weights: list[StoredTensor]) -> Finding:
    return Finding(
        "linear-twice",
        "error",
        f"A 16-bit weight beside the codes of {many(len(weights), 'linear')}",
        matters='vLLM has no place for the weight and stops: "There is no module or parameter '
        "named '...weight'\".",
        do=("Delete the 16-bit weights, or quantize again.",),
        evidence=seen((place(tensor), f"{tensor.dtype} beside codes") for tensor in weights),
        count=len(weights),
        rank=17,
    )


def _unnamed(contents: CheckpointContents, groups: list[WeightArgs]) -> list[str]:
    """16-bit linears that readers take for quantized ones, by the settings."""
    method, entries = contents.method, entries_of(contents)
    return [
        name
        for name in contents.linears
        if not any(named(name, entry, method) for entry in entries)
        if method == "awq" or args_of(name, groups) is not None
    ]


def _kind(contents: CheckpointContents, name: str) -> tuple[object, ...]:
    """What like linears of like blocks have in common."""
    spot = in_block(name)
    return (spot[0], pattern(spot[2]), kind_of(contents, spot[1], 0)) if spot else (name,)


def _like_are_quantized(contents: CheckpointContents, like: list[str]) -> Finding:
    guessed = contents.method == "awq" and not entries_of(contents)
    matters = (
        "vLLM 0.32 sees it by the tensors' types as long as the list is empty; Transformers and "
        "older vLLM build these linears for codes."
        if guessed
        else "Readers build these linears for codes and find 16-bit weights: vLLM stops with "
        "\"There is no module or parameter named '...weight'\"."
    )
    return Finding(
        "linear-16-bit",
        "warning" if guessed else "error",
        f"At 16 bits while their like in other blocks are quantized, and not named in "
        f"{KEYS[contents.method]}: {many(len(like), 'linear')}",
        matters=matters,
        do=_add(contents, like),
        evidence=seen((place(contents.plain[name]), "16 bits") for name in like),
        count=len(like),
        rank=18,
    )


def _no_entry(contents: CheckpointContents, alone: list[str]) -> Finding:
    kinds = {pattern(name) for name in alone}
    return Finding(
        "skip-entry-missing",
        "warning",
        f"At 16 bits and not named in {KEYS[contents.method]}: {len(alone)} matrices of "
        f"{many(len(kinds), 'kind')}",
        certainty="possible",
        matters="Readers that build every linear for codes stop, or leave these uninitialised. "
        "Those that know that a matrix is a router or an embedding do not.",
        do=_add(contents, alone),
        evidence=seen((place(contents.plain[name]), "16 bits") for name in alone),
        count=len(alone),
        rank=35,
    )


def _add(contents: CheckpointContents, modules: list[str]) -> tuple[str, ...]:
    old = entries_of(contents)
    return change(
        contents.where,
        KEYS[contents.method],
        contents.settings.get(KEYS[contents.method]),
        [*old, *(one for one in fitting_entries(contents, modules) if one not in old)],
    )


def check_ends(contents: CheckpointContents) -> list[Finding]:
    """Embedding and head."""
    found = []
    outer = [linear for name, linear in contents.packed.items() if in_block(name) is None]
    for linear in outer:
        leaf = linear.name.rpartition(".")[2]
        tensor = linear.codes or next(iter(linear.parts.values()))
        if leaf in HEADS:
            found.append(_head(contents, tensor))
        elif TABLES.search(leaf):
            found.append(_embedding(contents, tensor))
    head = next((t for n, t in contents.plain.items() if n.rpartition(".")[2] == "lm_head"), None)
    if head and contents.word("tie_word_embeddings") is True:
        found.append(
            Finding(
                "head-tied",
                "note",
                "The head is tied to the embedding, and has a tensor of its own",
                matters="Readers that tie leave it alone; it only takes disk.",
                evidence=seen([(place(head), "config.json: tie_word_embeddings true")]),
            )
        )
    return found


def _head(contents: CheckpointContents, tensor: StoredTensor) -> Finding:
    said_so = contents.method != "awq" or contents.settings.get("lm_head") is True
    return Finding(
        "head-quantized",
        "warning" if said_so else "error",
        "The output head is quantized",
        matters="vLLM reads it where the settings say so"
        + (
            ""
            if said_so
            else ", and they do not: \"There is no module or parameter named 'lm_head.qweight'\""
        )
        + "; Transformers always leaves the head at 16 bits.",
        do=()
        if said_so
        else change(contents.where, "lm_head", contents.settings.get("lm_head"), True),  # noqa: FBT003
        evidence=seen([(place(tensor), said(list(tensor.shape)))]),
        rank=22,
    )


def _embedding(contents: CheckpointContents, tensor: StoredTensor) -> Finding:
    awq = contents.method == "awq"
    return Finding(
        "embedding-quantized",
        "error" if awq else "warning",
        "An embedding is quantized",
        matters="vLLM has no AWQ embedding."
        if awq
        else "vLLM 0.32 reads packed embeddings; older ones and Transformers do not.",
        do=("Quantize again and leave embeddings at 16 bits.",) if awq else (),
        evidence=seen([(place(tensor), said(list(tensor.shape)))]),
        rank=22,
    )
