"""One block of both models, and mixtures of the two.

Scales are folded within a block, so a whole block of the checkpoint fits into the reference as it
is, and the reverse. A single linear fits once its scales are taken out (unscale.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from salient.core.metrics import relative_error
from salient.models.scale_groups import GroupProver
from salient.models.tracing import pattern
from salient.validate.model_pair import ModelPair, PairMember

from .unscale import Scales, find_scales

UNLIKE = 0.05  # of the checkpoint's own error, that unscaled linears may differ from it by
FLOOR = 1e-8  # squared relative error that two ways to compute a block in float32 may have


@dataclass(frozen=True)
class Mixed:
    """A block of the reference and of the checkpoint.

    codes: the checkpoint's quantized linears, dequantized, in the reference's basis
    together: kinds of linears that read the same input: engines store them as one matrix
    doubt: why they cannot be exchanged one by one, '' if they can
    """

    reference: nn.Module
    checkpoint: nn.Module
    codes: dict[str, Tensor]
    scales: Scales
    together: list[tuple[str, ...]]
    doubt: str = ""

    @property
    def kinds(self) -> dict[str, list[str]]:
        """The quantized linears by kind: the experts' of a kind together."""
        kinds: dict[str, list[str]] = {}
        for name in self.codes:
            kinds.setdefault(pattern(name), []).append(name)
        return kinds

    @contextmanager
    def exchanged(self, names: list[str]) -> Iterator[nn.Module]:
        """The reference's block with the checkpoint's linears `names`, inside the context."""
        weights = {name: self.reference.get_parameter(f"{name}.weight") for name in names}
        before = {name: weight.data for name, weight in weights.items()}
        try:
            for name, weight in weights.items():
                weight.data = self.codes[name]
            yield self.reference
        finally:
            for name, weight in weights.items():
                weight.data = before[name]

    def checked(self, unscaled: Tensor, checkpoint: Tensor, reference: Tensor) -> "Mixed":
        """Self, in doubt where all unscaled linears together differ from the checkpoint's block.

        The arguments: outputs [windows, tokens, width] of the three for the same input.
        """
        apart = relative_error(unscaled, checkpoint)
        allowed = UNLIKE * relative_error(checkpoint, reference) + FLOOR
        if self.doubt or apart <= allowed:
            return self
        return replace(self, doubt="its linears without their scales do not make the same block")


@dataclass
class Mixer:
    """Reads blocks of both models; `ids` [windows, tokens] are real tokens to prove groups with."""

    pair: ModelPair
    ids: Tensor
    _prober: GroupProver = field(init=False)

    def __post_init__(self) -> None:
        self._prober = GroupProver(self.pair.reference.skeleton, self.ids)

    def block(self, index: int, hidden: Tensor) -> Mixed:
        """Block `index` of both; `hidden` [windows, tokens, width] is its input for the tokens."""
        reference, checkpoint = (side.skeleton.block(index) for side in self.pair.sides)
        groups = self._prober.groups(index, reference, hidden)
        scales = find_scales(reference, checkpoint, groups)
        codes = {
            name: scales.taken_out(name, checkpoint.get_parameter(f"{name}.weight").data)
            for name in quantized_linears(self.pair.checkpoint, index)
        }
        together = [tuple(map(pattern, names)) for group in groups for names in group.inputs]
        return Mixed(reference, checkpoint, codes, scales, together, "; ".join(scales.doubts))


def quantized_linears(side: PairMember, index: int) -> list[str]:
    """The quantized linears of block `index`, by their name within it."""
    skeleton, block = side.skeleton, side.skeleton.blocks[index]
    return [
        name
        for name in skeleton.linears(index)
        if side.source.is_quantized(skeleton.files.module(f"{block}.{name}"))
    ]
