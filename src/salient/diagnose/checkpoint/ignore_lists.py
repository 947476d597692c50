"""Unquantized layers and the settings' lists of them, against the tensors.

Entries that name quantized linears or nothing; unquantized linears that readers expect as codes;
quantized heads and embeddings.

vLLM 0.32 takes an AWQ entry as a piece of a name (auto_awq.py: match_mode="substring"),
Transformers 5 from a boundary or as an ending (quantizers_utils.py: should_convert_module);
compressed-tensors' entries are whole names or `re:` patterns.
"""

import re
from collections import defaultdict

from salient.diagnose.finding import Finding
from salient.diagnose.rule import Count

from .contents import (
    EXPERT,
    FINDINGS,
    FLOATS,
    HEADS,
    MERGED_OF,
    TABLES,
    CheckpointContents,
    as_json,
    change,
    engine_names,
    fitting_entries,
    in_block,
    pattern,
    place,
    strings,
)
from .ct_config import WeightArgs, args_of, matches
from .missing_tensors import block_kinds
from .quant_config import wrong_type

# How readers take an entry of AWQ's list.
READS = {
    "vLLM": "looks for entries as pieces of names",
    "Transformers": "takes entries as patterns from a name's start, or as its end",
}


def by_vllm(module: str, entry: str, method: str) -> bool:
    """Whether vLLM would leave `module` unquantized for `entry`."""
    if method == "awq":
        return any(entry in name for name in engine_names(module))
    return any(matches(name, entry) for name in (module, *engine_names(module)))


def by_transformers(module: str, entry: str, method: str) -> bool:
    """Whether Transformers 5 would."""
    if method != "awq":
        return matches(module, entry)
    try:
        start = re.match(rf"(?:{entry})(?:(?<=\.)|(?=\.|$))", module)
    except (re.error, RecursionError, OverflowError):
        start = None
    return start is not None or module.endswith(entry)


def named(module: str, entry: str, method: str) -> bool:
    """Whether any reader takes `entry` for a name of `module`."""
    return by_vllm(module, entry, method) or by_transformers(module, entry, method)


def check_ignore_list(contents: CheckpointContents) -> list[Finding]:
    """The list's type, each entry, and the list that vLLM derives from an empty one."""
    value = contents.settings.get(contents.skip_key)
    if value is not None and value != strings(value):
        where = f"{contents.where}.{contents.skip_key}"
        return wrong_type(where, as_json(value), "a list of names")
    entries = contents.skip_entries
    if contents.method == "awq" and not entries and contents.settings:
        return _derived(contents)
    return [finding for entry in dict.fromkeys(entries) for finding in _entry(contents, entry)]


def _entry(contents: CheckpointContents, entry: str) -> list[Finding]:
    """Whether the entry names linears with codes, or nothing at all."""
    method, key = contents.method, contents.skip_key
    where = f"{contents.where}.{key}"
    meant = [name for name in contents.plain if named(name, entry, method)]
    literal = re.fullmatch(r"[\w.-]+", entry) is not None
    if not literal or entry in contents.coded_names:  # skips the scan of many thousand experts
        for reader, takes in (("vLLM", by_vllm), ("Transformers", by_transformers)):
            linears = [name for name in contents.packed if takes(name, entry, method)]
            if linears:
                return _entry_hits(contents, entry, linears, reader, meant)
    if method == "awq" and entry in contents.coded_names:
        pieces = [name for name in contents.packed if entry in name]
        places = [(where, f"{as_json(entry)} is in {name}") for name in pieces[:1]]
        return FINDINGS["skip-entry-hits-experts"].at(
            places, count=len(pieces), key=key, entry=as_json(entry)
        )
    known = meant or any(entry in name for name in (*contents.tensors, *contents.lost))
    unused = not known and not TABLES.search(entry) and not entry.startswith("re:")
    return FINDINGS["skip-entry-unused"].at(
        [(where, as_json(entry))] if unused else [], key=key, entry=entry
    )


def _entry_hits(
    contents: CheckpointContents, entry: str, linears: list[str], reader: str, meant: list[str]
) -> list[Finding]:
    """An entry that `reader` takes for quantized linears; `meant`: the unquantized ones."""
    key, old = contents.skip_key, contents.skip_entries
    new = [other for other in old if other != entry]
    new += [other for other in fitting_entries(contents, meant) if other not in new]
    merged = [name for name in engine_names(linears[0]) if name != linears[0]]
    texts = [f"{as_json(entry)} names {name}" for name in linears]
    texts[0] += f" and, merged, {merged[0]}" if merged else ""
    return FINDINGS["skip-entry-hits"].at(
        ((f"{contents.where}.{key}", text) for text in texts),
        steps=change(contents.where, key, old, new or None),
        key=key,
        entry=as_json(entry),
        reader=reader,
        how=READS[reader] if contents.method == "awq" else "believes the list",
    )


def _derived(contents: CheckpointContents) -> list[Finding]:
    """An empty list: vLLM makes one from the tensors' types (auto_awq.py: maybe_update_config).

    It takes every module that owns floats only; so a bare parameter makes its whole module one.
    """
    tensors = {name.rpartition(".")[0]: tensor for name, tensor in contents.tensors.items()}
    integers = (name for name, tensor in contents.tensors.items() if tensor.dtype not in FLOATS)
    coded = {name.rpartition(".")[0] for name in integers}
    hits: dict[str, list[str]] = defaultdict(list)
    for module in contents.packed:
        above = {name[:i] for name in engine_names(module) for i, c in enumerate(name) if c == "."}
        for owner in above & (tensors.keys() - coded):
            hits[owner].append(module)
    new = fitting_entries(contents, contents.linears) if hits else []
    steps = change(contents.where, contents.skip_key, None, new or ["lm_head"])
    places = [(place(tensors[owner]), f"makes vLLM skip {p[0]}") for owner, p in hits.items()]
    return FINDINGS["skip-list-derived"].at(places, steps=steps)


def check_unquantized(contents: CheckpointContents, groups: list[WeightArgs]) -> list[Finding]:
    """Unquantized linears that readers expect as codes."""
    plain, packed = contents.plain, contents.packed
    split = _partly_merged(contents)
    twice = [(place(t), f"{t.dtype} next to codes") for name, t in plain.items() if name in packed]
    mixed = [(place(plain[name]), text) for name, text in split.items()]
    findings = FINDINGS["joined-mixed"].at(mixed) + FINDINGS["linear-twice"].at(twice)
    if not contents.settings:
        return findings
    missed = [name for name in _unnamed(contents, groups) if name not in split]
    kind_of = _kinds(contents, [*packed, *missed])
    kinds = {kind_of[name] for name in packed}
    like = [name for name in missed if kind_of[name] in kinds]
    alone = [name for name in missed if name not in set(like)]
    inferred = contents.method == "awq" and not contents.skip_entries
    return [
        *findings,
        *FINDINGS["linear-16-bit-inferred" if inferred else "linear-16-bit"].at(
            ((place(plain[name]), "16 bits") for name in like),
            steps=_add_entries(contents, like),
            key=contents.skip_key,
        ),
        *FINDINGS["skip-entry-missing"].at(
            ((place(plain[name]), "16 bits") for name in alone),
            steps=_add_entries(contents, alone),
            key=contents.skip_key,
            kinds=Count(len({pattern(name) for name in alone})),
        ),
    ]


def _partly_merged(contents: CheckpointContents) -> dict[str, str]:
    """Unquantized linears with quantized partners -> a text about the merged linear."""
    together: dict[str, list[str]] = defaultdict(list)
    for module in (*contents.packed, *contents.plain):
        parent, _, leaf = module.rpartition(".")
        if leaf in MERGED_OF:
            together[f"{parent}.{MERGED_OF[leaf]}"].append(module)
        expert = EXPERT.match(module)
        if expert:
            together[expert[1]].append(module)
    split: dict[str, str] = {}
    for name, modules in together.items():
        coded = [module for module in modules if module in contents.packed]
        for module in modules if coded else ():
            if module in contents.plain and module not in contents.packed:
                split[module] = f"16 bits; {coded[0]} is quantized, both are of {name}"
    return split


def _unnamed(contents: CheckpointContents, groups: list[WeightArgs]) -> list[str]:
    """Unquantized linears that readers take for quantized ones, by the settings."""
    method, entries = contents.method, contents.skip_entries
    return [
        name
        for name in contents.linears
        if not any(named(name, entry, method) for entry in entries)
        if method == "awq" or args_of(name, groups) is not None
    ]


def _kinds(contents: CheckpointContents, names: list[str]) -> dict[str, tuple[object, ...]]:
    """What the same linears of similar blocks have in common, for each of `names`."""
    spots = {name: in_block(name) for name in names}
    kinds = block_kinds(contents, {spot[1] for spot in spots.values() if spot}, 0)
    return {
        name: (spot[0], pattern(spot[2]), kinds[spot[1]]) if spot else (name,)
        for name, spot in spots.items()
    }


def _add_entries(contents: CheckpointContents, modules: list[str]) -> tuple[str, ...]:
    key, old = contents.skip_key, contents.skip_entries
    new = [entry for entry in fitting_entries(contents, modules) if entry not in old]
    return change(contents.where, key, contents.settings.get(key), [*old, *new])


def check_ends(contents: CheckpointContents) -> list[Finding]:
    findings: list[Finding] = []
    for linear in contents.packed.values():
        leaf = linear.name.rpartition(".")[2]
        places = [(linear.place, as_json(list(linear.first.shape)))]
        if in_block(linear.name) is not None:
            continue
        awq, old = contents.method == "awq", contents.settings.get("lm_head")
        if leaf in HEADS and awq and old is not True:
            steps = change(contents.where, "lm_head", old, new=True)
            findings += FINDINGS["head-quantized"].at(places, steps=steps)
        elif leaf in HEADS:
            findings += FINDINGS["head-quantized-declared"].at(places)
        elif TABLES.search(leaf):
            row = "embedding-quantized-awq" if awq else "embedding-quantized"
            findings += FINDINGS[row].at(places)
    heads = [t for n, t in contents.plain.items() if n.rpartition(".")[2] == "lm_head"]
    tied = contents.config_value("tie_word_embeddings") is True
    text = "config.json: tie_word_embeddings true"
    return findings + FINDINGS["head-tied"].at([(place(head), text) for head in heads[:1] if tied])
