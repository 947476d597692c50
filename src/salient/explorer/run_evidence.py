"""The salient.json of the served checkpoint as data of the page."""

from dataclasses import dataclass
from statistics import fmean

from salient.awq.search import IDENTITY
from salient.core.evidence import (
    GroupEvidence,
    LayerEvidence,
    RunEvidence,
)
from salient.models.proof import ScaleGroup
from salient.models.tracing import pattern

NO_EVIDENCE = (
    "This checkpoint has no salient.json: another tool wrote it, without a record of the loss of "
    "each layer. Quantize the 16-bit model with `salient quantize` to get one."
)


@dataclass(frozen=True)
class GroupExponents:
    """The entry of a kind of scale groups, and the exponents of one of them."""

    entry: GroupEvidence
    exponents: tuple[float, float]

    @property
    def scaled(self) -> bool:
        return self.exponents != IDENTITY


def group_exponents(
    evidence: RunEvidence, block: str, groups: list[ScaleGroup], target: ScaleGroup
) -> GroupExponents | None:
    """The result of `target`, one of the scale `groups` of the block called `block`."""
    entry = next((b for b in evidence.blocks if b.block == block), None)
    readers = _kinds(target.readers)
    group = next((g for g in entry.groups if g.readers == readers), None) if entry else None
    if group is None or not group.exponents:
        return None
    alike = [group for group in groups if _kinds(group.readers) == readers]
    number = min(alike.index(target), len(group.exponents) - 1)
    return GroupExponents(group, group.exponents[number])


def blocks_data(evidence: RunEvidence) -> dict[str, object]:
    """Loss by block and by kind of layer, and the layers with the largest loss."""
    kinds: dict[str, list[tuple[str, LayerEvidence]]] = {}
    for block in evidence.blocks:
        for group in block.groups:
            for kind, layer in group.layers.items():
                kinds.setdefault(kind, []).append((block.block, layer))
    ranked = sorted(kinds.items(), key=lambda item: -fmean(layer.awq for _, layer in item[1]))
    every = [(b, kind, layer) for kind, members in kinds.items() for b, layer in members]
    worst = sorted(every, key=lambda row: -row[2].awq)[:12]
    return {
        "blocks": [
            {
                "name": block.block,
                "plain": block.error_plain,
                "awq": block.error_awq,
                "fell_back": block.fell_back,
                "plain_groups": [
                    ", ".join(g.readers) for g in block.groups if g.improved < g.count
                ],
                "left": len(block.left_at_16_bits),
            }
            for block in evidence.blocks
        ],
        "kinds": [
            {
                "kind": kind,
                "plain": fmean(layer.plain for _, layer in members),
                "awq": fmean(layer.awq for _, layer in members),
                "worst_block": max(members, key=lambda row: row[1].awq)[0],
            }
            for kind, members in ranked
        ],
        "worst": [
            {"block": block, "layer": kind, "plain": layer.plain, "awq": layer.awq}
            for block, kind, layer in worst
        ],
    }


def _kinds(readers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(pattern, readers)))
