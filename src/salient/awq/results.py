"""What becomes of a block: codes, folded parts, and how well each did on the held-out tokens."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from salient.core.quant import QuantizedWeight
from salient.core.scheme import Scheme
from salient.models.proof import ScaleGroup

from .search import IDENTITY

JUDGE_TOKENS = 256  # held-out tokens, evenly spread, that tell which version of a group wins


class HeldoutInput:
    """A shared input on tokens that the search does not see.

    x: float32 [tokens, in], a part of them, evenly spread
    tokens: how many there were
    """

    def __init__(self, x: Tensor):
        self.tokens = len(x)
        self.x = x[:: max(1, -(-len(x) // JUDGE_TOKENS))].float().clone()

    def error(self, difference: Tensor) -> float:
        """sum_t |D x_t|^2 for `difference` [out, in]."""
        return float((self.x @ difference.t()).square_().sum())


@dataclass(frozen=True)
class LayerResult:
    """One linear's held-out output error, relative to its output: by plain rounding, as written."""

    name: str
    plain: float
    awq: float


@dataclass(frozen=True)
class GroupResult:
    """What became of one shared input.

    exponents: those of the scale (search.py), (0, 0) if it scales nothing
    rounding: 'feedback', 'nearest', or 'plain' where the held-out tokens preferred plain rounding
    """

    group: ScaleGroup
    layers: list[LayerResult]
    exponents: tuple[float, float] = IDENTITY
    rounding: str = "plain"

    @property
    def kept(self) -> bool:
        """Whether AWQ beat plain rounding on the held-out tokens."""
        return self.rounding != "plain"


@dataclass(frozen=True)
class BlockResult:
    """A quantized block.

    weights, plain: linear's name -> codes, as written and by plain rounding
    folded: parameter's name -> 16-bit tensor that took up a scale (norms, biases, linears that stay
        at 16 bits)
    left: linears that are not called on text and stay at 16 bits, and why
    """

    weights: dict[str, QuantizedWeight]
    plain: dict[str, QuantizedWeight]
    folded: dict[str, Tensor]
    groups: list[GroupResult] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputTarget:
    """How to write: the scheme, the 16-bit type of all else, and which linears become codes."""

    scheme: Scheme
    dtype: torch.dtype
    quantized: frozenset[str]


def plain_group(result: GroupResult) -> GroupResult:
    """The same group by plain rounding."""
    layers = [LayerResult(layer.name, layer.plain, layer.plain) for layer in result.layers]
    return GroupResult(result.group, layers)


def plain_result(result: BlockResult) -> BlockResult:
    """The same block by plain rounding throughout: nothing scaled, nothing folded."""
    groups = [plain_group(group) for group in result.groups]
    return BlockResult(result.plain, result.plain, {}, groups, result.left)


def effective_state(result: BlockResult) -> dict[str, Tensor]:
    """What the written block computes with, by parameter name: dequantized codes, folded parts."""
    return {f"{n}.weight": q.dequantize() for n, q in result.weights.items()} | result.folded
