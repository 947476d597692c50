"""salient.json as it is shown: only what is well-formed, for the file may be anybody's."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from salient.awq.search import IDENTITY
from salient.core.errors import SalientError
from salient.core.model_files import read_json
from salient.models.proof import ScaleGroup
from salient.models.tracing import pattern

FILE = "salient.json"
NO_FILE = (
    "This checkpoint has no salient.json: another tool wrote it, and what its rounding cost layer "
    "by layer was not kept. Quantize the 16-bit model with `salient quantize` to have it."
)

Name = Annotated[str, Field(max_length=300)]
Loss = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Exponent = Annotated[float, Field(ge=-8, le=8)]


class LayerEntry(BaseModel):
    """Linears of a kind: relative output error by plain rounding and as written."""

    count: Count
    plain: Loss
    awq: Loss


class GroupEntry(BaseModel):
    """Inputs of a kind, as the run settled them; `exponents` one by one."""

    readers: list[Name]
    absorber: Name | None = None
    refusal: Annotated[str, Field(max_length=2000)] = ""
    count: Count
    kept: Count
    exponents: list[tuple[Exponent, Exponent]]
    rounding: dict[Name, Count] = {}
    layers: dict[Name, LayerEntry]


class BlockEntry(BaseModel):
    """A block: relative error of its output by plain rounding and as written."""

    block: Name
    error_plain: Loss
    error_awq: Loss
    fell_back: bool
    left_at_16_bits: dict[Name, str] = {}
    groups: list[GroupEntry]


class RunHeader(BaseModel):
    """How the run was made; `model`, `calibration` are digests."""

    salient: Name
    model: Name
    adapter: Name | None = None
    scheme: Name
    dtype: Name
    calibration_texts: Annotated[str, Field(max_length=4096)]
    samples: Annotated[int, Field(ge=1, le=2**24)]
    sequence_length: Annotated[int, Field(ge=1, le=2**24)]
    calibration: Name


class RunEvidence(BaseModel):
    """What a run of `salient quantize` left beside its checkpoint."""

    run: RunHeader
    model: Name
    bits_per_weight: float
    heldout: dict[Name, dict[Name, float]] = {}
    bytes: dict[Name, int] = {}
    blocks: list[BlockEntry]

    def group(
        self, block: str, groups: list[ScaleGroup], wanted: ScaleGroup
    ) -> "GroupExponents | None":
        """What became of `wanted`, one of the scale `groups` of the block called `block`."""
        entry = next((b for b in self.blocks if b.block == block), None)
        readers = _kinds(wanted.readers)
        found = next((g for g in entry.groups if g.readers == readers), None) if entry else None
        if found is None or not found.exponents:
            return None
        alike = [group for group in groups if _kinds(group.readers) == readers]
        number = min(alike.index(wanted), len(found.exponents) - 1)
        return GroupExponents(found, found.exponents[number])


@dataclass(frozen=True)
class GroupExponents:
    """The entry of a scale group, and its own exponents."""

    entry: GroupEntry
    exponents: tuple[float, float]

    @property
    def scaled(self) -> bool:
        return self.exponents != IDENTITY


def read_evidence(folder: Path) -> RunEvidence | str:
    """The salient.json in `folder`; in words why there is none to show."""
    if not (folder / FILE).is_file():
        return NO_FILE
    try:
        return RunEvidence.model_validate(read_json(folder / FILE))
    except SalientError:
        return "The checkpoint's salient.json is no readable JSON. Fetch it again."
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        return (
            f"The checkpoint's salient.json is not as Salient writes it: {where} is missing or "
            "wrong. Fetch it again, or quantize the model anew."
        )


def finite(values: Iterable[float]) -> list[float | None]:
    """Numbers as JSON has them: None for what is no number."""
    return [value if math.isfinite(value) else None for value in values]


def blocks_data(evidence: RunEvidence) -> dict[str, Any]:
    """Loss by block, by kind of layer, and the layers that lost most."""
    kinds: dict[str, list[tuple[str, LayerEntry]]] = {}
    for block in evidence.blocks:
        for group in block.groups:
            for kind, layer in group.layers.items():
                kinds.setdefault(kind, []).append((block.block, layer))
    ranked = sorted(kinds.items(), key=lambda item: -_mean(layer.awq for _, layer in item[1]))
    every = [(b, kind, layer) for kind, those in kinds.items() for b, layer in those]
    worst = sorted(every, key=lambda row: -row[2].awq)[:12]
    return {
        "blocks": [_block(block) for block in evidence.blocks],
        "kinds": [
            {
                "kind": kind,
                "plain": _mean(layer.plain for _, layer in those),
                "awq": _mean(layer.awq for _, layer in those),
                "worst_block": max(those, key=lambda row: row[1].awq)[0],
            }
            for kind, those in ranked
        ],
        "worst": [
            {"block": block, "layer": kind, "plain": layer.plain, "awq": layer.awq}
            for block, kind, layer in worst
        ],
    }


def _block(block: BlockEntry) -> dict[str, Any]:
    plain = [", ".join(g.readers) for g in block.groups if g.kept < g.count]
    return {
        "name": block.block,
        "plain": block.error_plain,
        "awq": block.error_awq,
        "fell_back": block.fell_back,
        "plain_groups": plain,
        "left": len(block.left_at_16_bits),
    }


def _kinds(readers: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(map(pattern, readers)))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / max(len(found), 1)
