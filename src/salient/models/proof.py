"""The proof of a scale group: folding a random scale must not change the output.

The readers' columns are multiplied by the scale, the absorber's rows divided by it. If the absorber
feeds anything else, or what lies between bends the scale, the block's output changes: the group is
refused, with the module that prevents it.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .block_call import run_block
from .dataflow import other_readers
from .row_matching import BlockProbe
from .tracing import pattern

# In float32 true folds differ by about 1e-7 of a token's hidden state, behind a linear attention by
# up to 1e-5; a forgotten reader, a wrong norm or a forgotten `1 + w` by 1e-3 and more.
TOLERANCE = 3e-5


@dataclass(frozen=True)
class ScaleGroup:
    """Linears that share a scale, and the module that can absorb it.

    inputs: names within the block, in running order; those in one tuple read the very same values,
        the others some tokens of them (experts)
    absorber: name within the block, None if nothing can absorb
    rows: int64 [in], the absorber's output row (or norm channel) that feeds each input channel
    offset: 1.0 for norms that multiply by `1 + weight`, else 0.0
    proof_error: the largest relative change of a token's hidden state when all proven groups of the
        block are folded at random; of a refused one, when it was tried alone; None if never tried
    refusal: why the group is not scaled, '' if it is
    called: whether its readers, or experts like them, ran
    """

    inputs: tuple[tuple[str, ...], ...]
    absorber: str | None = None
    rows: Tensor | None = None
    offset: float = 0.0
    proof_error: float | None = None
    refusal: str = ""
    called: bool = True

    @property
    def readers(self) -> tuple[str, ...]:
        return tuple(name for names in self.inputs for name in names)

    @property
    def tied_rows(self) -> Tensor | None:
        """`rows` where several channels may share one; None where each channel has its own."""
        if self.rows is None or torch.equal(
            self.rows, torch.arange(len(self.rows), device=self.rows.device)
        ):
            return None
        return self.rows

    @property
    def proven(self) -> bool:
        return self.absorber is not None and not self.refusal


def kind_of(group: ScaleGroup) -> tuple[tuple[str, ...], str, str]:
    """The readers, absorber and refusal that groups of like experts share, with stars."""
    readers = tuple(dict.fromkeys(map(pattern, group.readers)))
    return readers, pattern(group.absorber or ""), group.refusal


class FoldProof:
    """Proves groups of `block` (float32 weights) on `probe`; the block ends unchanged."""

    def __init__(self, block: nn.Module, probe: BlockProbe):
        self.block, self.probe = block, probe
        self.expected = run_block(block, probe.sequences, probe.sequences_call)

    def of(self, group: ScaleGroup) -> ScaleGroup:
        """`group` with its proof, or with why it is refused."""
        error = self.error([group])
        if error <= TOLERANCE:
            return replace(group, proof_error=error)
        assert group.absorber is not None
        refusal = (
            f"folding a scale into {group.absorber!r} changes the block's output by {error:.0e}: "
        )
        others = []
        if weight_of(self.block, group.absorber).ndim == 1:
            others = other_readers(self.block, group.absorber, group.readers, self.probe)
        refusal += (
            f"it is also read by {', '.join(others[:3])}, which takes no scale"
            if others
            else "something else reads it, or an activation between bends it"
        )
        return replace(group, proof_error=error, refusal=refusal)

    def error(self, groups: list[ScaleGroup]) -> float:
        """The largest relative change of a token's hidden state when all `groups` are folded.

        Each takes random powers of two, by which float32 divides and multiplies exactly: folding
        their inverse puts every bit back, and no copy of the block is needed.
        """
        random = torch.Generator().manual_seed(0)
        folded: list[tuple[ScaleGroup, Tensor]] = []
        norms = {n: p.clone() for n, p in self.block.named_parameters() if p.ndim == 1}
        try:
            for group in groups:
                scale = self._random_scale(group, random)
                fold(self.block, group, scale)
                folded.append((group, 1 / scale))
            output = run_block(self.block, self.probe.sequences, self.probe.sequences_call)
        finally:
            for group, inverse in reversed(folded):
                fold(self.block, group, inverse)
            for name, value in norms.items():  # 1 + weight is not divided exactly
                self.block.get_parameter(name).data.copy_(value)
        size = self.expected.norm(dim=-1).clamp(min=1e-30)
        change = (output - self.expected).norm(dim=-1) / size
        return float(change.nan_to_num(nan=float("inf")).max())

    def _random_scale(self, group: ScaleGroup, random: torch.Generator) -> Tensor:
        assert group.absorber is not None
        assert group.rows is not None
        weight = weight_of(self.block, group.absorber)
        exponents = torch.tensor([-2.0, -1.0, 1.0, 2.0])
        picked = exponents[torch.randint(4, (len(weight),), generator=random)]
        scale = torch.ones(len(weight), device=weight.device)
        scale[group.rows] = (2.0**picked).to(scale.device)[group.rows]
        return scale


def fold(block: nn.Module, group: ScaleGroup, scale: Tensor) -> None:
    """Divide the absorber's rows by `scale` and multiply the readers' columns by the same.

    `scale` is float32 [rows of the absorber]. Changes the block.
    """
    assert group.absorber is not None
    assert group.rows is not None
    absorber = block.get_submodule(group.absorber)
    weight = weight_of(block, group.absorber).data
    if weight.ndim == 1:
        weight.copy_((weight.float() + group.offset) / scale - group.offset)
    else:
        weight.div_(scale[:, None])
    bias = getattr(absorber, "bias", None)
    if isinstance(bias, Tensor):
        bias.data.div_(scale)
    for name in group.readers:
        weight_of(block, name).data.mul_(scale[group.rows])


def weight_of(block: nn.Module, name: str) -> Tensor:
    """The weight of the module `name`."""
    return block.get_parameter(f"{name}.weight")
