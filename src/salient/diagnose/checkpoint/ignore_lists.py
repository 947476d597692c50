"""The lists of what stays at 16 bits: entries that name quantized linears, or nothing.

vLLM 0.32 takes an AWQ entry as a piece of a name (auto_awq.py: match_mode="substring"),
Transformers 5 from a boundary or as an ending (quantizers_utils.py: should_convert_module);
compressed-tensors' entries are whole names or `re:` patterns.
"""

import re
from collections import defaultdict
from dataclasses import dataclass

from salient.diagnose.finding import Finding

from .contents import (
    FLOATS,
    TABLES,
    CheckpointContents,
    change,
    engine_names,
    fitting_entries,
    many,
    names,
    place,
    said,
    seen,
)
from .ct_config import matches
from .quant_config import wrong_type

KEYS = {"awq": "modules_to_not_convert", "compressed-tensors": "ignore"}
# How readers take an entry of AWQ's list.
READS = {
    "vLLM": "looks for entries as pieces of names",
    "Transformers": "takes entries as patterns from a name's start, or as its end",
}


def entries_of(contents: CheckpointContents) -> list[str]:
    return names(contents.settings.get(KEYS[contents.method]))


def check_skips(contents: CheckpointContents) -> list[Finding]:
    """The list's type, each entry, and what vLLM makes of an empty one."""
    key = KEYS[contents.method]
    value = contents.settings.get(key)
    if value is not None and (not isinstance(value, list) or len(names(value)) != len(value)):
        return [wrong_type(f"{contents.where}.{key}", said(value), "a list of names")]
    entries = names(value)
    if contents.method == "awq" and not entries and contents.settings:
        return _derived(contents)
    return [finding for entry in dict.fromkeys(entries) for finding in _entry(contents, entry)]


def by_vllm(module: str, entry: str, method: str) -> bool:
    """Whether vLLM would leave `module` at 16 bits for `entry`."""
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


@dataclass(frozen=True)
class IgnoreMatch:
    """An entry, the quantized linears that it names, who takes it so, and whom it was meant for."""

    entry: str
    linears: list[str]
    reader: str
    meant: list[str]


def _entry(contents: CheckpointContents, entry: str) -> list[Finding]:
    """Does the entry hit linears that have codes, or nothing at all?"""
    method = contents.method
    meant = [name for name in contents.plain if named(name, entry, method)]
    word = re.fullmatch(r"[\w.-]+", entry) is not None
    for reader, takes in (("vLLM", by_vllm), ("Transformers", by_transformers)):
        if word and entry not in contents.coded_names:
            break  # no need to ask each of many thousand experts
        hit = [name for name in contents.packed if takes(name, entry, method)]
        if hit:
            return [_hits(contents, IgnoreMatch(entry, hit, reader, meant))]
    if method == "awq" and entry in contents.coded_names:
        raw = [name for name in contents.packed if entry in name]
        return [_raw_hits(contents, entry, raw)]
    known = meant or any(entry in name for name in (*contents.tensors, *contents.lost))
    if known or TABLES.search(entry) or entry.startswith("re:"):
        return []
    key = KEYS[method]
    return [
        Finding(
            "skip-entry-unused",
            "note",
            f"{key} names {entry!r}, and no module is called so",
            evidence=seen([(f"{contents.where}.{key}", said(entry))]),
        )
    ]


def _hits(contents: CheckpointContents, hit: IgnoreMatch) -> Finding:
    key, old = KEYS[contents.method], entries_of(contents)
    kept = [one for one in old if one != hit.entry]
    kept += [one for one in fitting_entries(contents, hit.meant) if one not in kept]
    fused = [name for name in engine_names(hit.linears[0]) if name != hit.linears[0]]
    also = f" and, joined, {fused[0]}" if fused else ""
    how = READS[hit.reader] if contents.method == "awq" else "believes the list"
    return Finding(
        "skip-entry-hits",
        "error",
        f"{key}: {said(hit.entry)} also names {many(len(hit.linears), 'linear')} with codes",
        matters=f"{hit.reader} {how}: it builds these for 16-bit weights and finds none. "
        "vLLM's words: "
        "\"'MergedColumnParallelLinear' object has no attribute 'data'\", or \"Detected some but "
        'not all shards of ... are quantized".',
        do=change(contents.where, key, old, kept or None),
        evidence=seen(
            (f"{contents.where}.{key}", f"{said(hit.entry)} names {name}{also if not i else ''}")
            for i, name in enumerate(hit.linears)
        ),
        count=len(hit.linears),
        rank=18,
    )


def _raw_hits(contents: CheckpointContents, entry: str, raw: list[str]) -> Finding:
    key = KEYS[contents.method]
    return Finding(
        "skip-entry-hits-experts",
        "warning",
        f"{key}: {said(entry)} is a piece of the names of {len(raw)} quantized experts",
        certainty="possible",
        matters="vLLM asks for all experts by one name and is not misled; AutoAWQ and Transformers "
        "4 look for the entry in each name and leave these at 16 bits.",
        do=("Write the full names of the 16-bit linears instead.",),
        evidence=seen([(f"{contents.where}.{key}", f"{said(entry)} is in {raw[0]}")]),
        count=len(raw),
    )


def _derived(contents: CheckpointContents) -> list[Finding]:
    """An empty list: vLLM makes one from the tensors' types (auto_awq.py: maybe_update_config).

    It takes every module that owns floats only; so a bare parameter makes its whole module one.
    """
    owners = {name.rpartition(".")[0] for name in contents.tensors}
    coded = {
        name.rpartition(".")[0]
        for name, tensor in contents.tensors.items()
        if tensor.dtype not in FLOATS
    }
    hits: dict[str, list[str]] = defaultdict(list)
    for module in contents.packed:
        above = {name[:i] for name in engine_names(module) for i, c in enumerate(name) if c == "."}
        for owner in above & (owners - coded):
            hits[owner].append(module)
    if not hits:
        return []
    bare = {name.rpartition(".")[0]: tensor for name, tensor in contents.tensors.items()}
    return [
        Finding(
            "skip-list-derived",
            "error",
            "modules_to_not_convert is empty, and what vLLM puts there has quantized linears in it",
            matters="vLLM 0.32 lists every module that owns 16-bit tensors only, and compares "
            "pieces of names: a bare parameter leaves all linears beside it without their codes.",
            do=change(
                contents.where,
                KEYS["awq"],
                None,
                fitting_entries(contents, list(contents.linears)) or ["lm_head"],
            ),
            evidence=seen(
                (place(bare[owner]), f"makes vLLM skip {linears[0]}")
                for owner, linears in hits.items()
            ),
            count=len(hits),
            rank=19,
        )
    ]
