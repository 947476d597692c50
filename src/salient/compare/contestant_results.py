"""What a comparison measured."""

from dataclasses import dataclass

from salient.validate.likelihood.stratum_figures import StratumFigures


@dataclass(frozen=True)
class ContestantResult:
    """A contestant: bits a quantized weight, bytes of its linears or files, seconds to make.

    figures: None where it could not be made, for `reason`   front: no other has less of both
    """

    name: str
    label: str
    bits_per_weight: float | None = None
    bytes: int | None = None
    seconds: float | None = None
    figures: StratumFigures | None = None
    reason: str = ""
    front: bool = False


@dataclass(frozen=True)
class Comparison:
    """All contestants over one panel, in the order of the options."""

    model: str
    panel: str
    positions: int
    contestants: tuple[ContestantResult, ...]
