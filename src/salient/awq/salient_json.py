"""What a run notes of each block: its journal line, which is also its evidence in salient.json.

Experts are many and alike: their groups are noted together, under names with a star for the number.
"""

from typing import Any

from salient.models.proof import kind_of
from salient.models.tracing import pattern

from .results import BlockResult, GroupResult, LayerResult


def block_entry(
    name: str,
    result: BlockResult,
    errors: dict[str, float],
    borrowed: dict[str, int],
    *,
    fell_back: bool,
) -> dict[str, Any]:
    """The journal line of block `name`.

    `errors`: its relative output error, by plain rounding and as written; `borrowed`: experts that
    saw too few tokens, and how many.
    """
    alike: dict[Any, list[GroupResult]] = {}
    for found in result.groups:
        alike.setdefault(kind_of(found.group), []).append(found)
    return {
        "block": name,
        "error_plain": errors["plain"],
        "error_awq": errors["awq"],
        "fell_back": fell_back,
        "left_at_16_bits": result.left,
        "borrowed_statistics": borrowed,
        "groups": [_groups_entry(found) for found in alike.values()],
    }


def _groups_entry(found: list[GroupResult]) -> dict[str, Any]:
    group = found[0].group
    readers, absorber, refusal = kind_of(group)
    roundings = [r.rounding for r in found]
    layers: dict[str, list[LayerResult]] = {}
    for layer in (layer for r in found for layer in r.layers):
        layers.setdefault(pattern(layer.name), []).append(layer)
    return {
        "readers": list(readers),
        "absorber": absorber if group.proven else None,
        "proof_error": group.proof_error,
        "refusal": refusal,
        "count": len(found),
        "kept": sum(r.kept for r in found),
        "exponents": [list(r.exponents) for r in found],
        "rounding": {kind: roundings.count(kind) for kind in dict.fromkeys(roundings)},
        "layers": {
            kind: {
                "count": len(those),
                "plain": sum(layer.plain for layer in those) / len(those),
                "awq": sum(layer.awq for layer in those) / len(those),
            }
            for kind, those in layers.items()
        },
    }


def totals(blocks: list[dict[str, Any]]) -> dict[str, int]:
    """Over all blocks: shared inputs, those with a proven scale group, those that kept AWQ."""
    groups = [group for block in blocks for group in block["groups"]]
    return {
        "inputs": sum(g["count"] for g in groups),
        "proven": sum(g["count"] for g in groups if g["absorber"] is not None),
        "kept": sum(g["kept"] for g in groups),
    }
