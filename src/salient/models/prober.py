"""The scale groups of a model, block by block; blocks of one shape share proposals."""

import torch
from torch import Tensor, nn

from .proof import ScaleGroup
from .row_matching import BlockProbe
from .scale_groups import find_groups
from .skeleton import Skeleton

PROBE = (2, 16)  # samples, tokens to watch and prove with


class GroupProver:
    """Proves the scale groups of each block on a few of the tokens `ids` [samples, tokens]."""

    def __init__(self, skeleton: Skeleton, ids: Tensor):
        samples, tokens = PROBE
        self._skeleton = skeleton
        self._sequences = skeleton.calls(ids[:samples, :tokens])[1]
        self._tokens = skeleton.calls(ids[0, :tokens, None])[1]
        self._seen: dict[str, list[ScaleGroup]] = {}

    def groups(self, index: int, block: nn.Module, hidden: Tensor) -> list[ScaleGroup]:
        """The groups of block `index` in float32; the first block of a shape proposes them.

        `hidden` [samples, tokens, width] is the block's input for the tokens.
        """
        samples, tokens = PROBE
        sequences, single = hidden[:samples, :tokens], hidden[0, :tokens, None]
        probe = BlockProbe(sequences, self._sequences[index], single, self._tokens[index])
        found = find_groups(block, probe, self._seen.get(shape_of(block)))
        self._seen.setdefault(shape_of(block), found)
        return found

    def meet(self, index: int, hidden: Tensor) -> None:
        """Have the proposals that block `index`, a finished one, made for others of its shape."""
        if shape_of(self._skeleton.bare(index)) not in self._seen:
            self.groups(index, self._skeleton.block(index, torch.float32), hidden)


def shape_of(block: nn.Module) -> str:
    """What blocks of one kind have in common: the names and shapes of their parameters."""
    return repr([(name, tuple(p.shape)) for name, p in block.named_parameters()])
