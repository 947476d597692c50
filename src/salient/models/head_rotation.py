"""Rotate the values of each attention head, folded into the linears before and after attention.

Attention mixes tokens, head by head, and never channels: with v_t the values of a head,

    o_s = W_O sum_t a_st v_t = (W_O R^T) sum_t a_st (R v_t)      for any orthogonal R

so a Hadamard rotation of every head's rows of the value projection (bias included) and of its
columns of the output projection changes nothing but the spread of outliers (Liu et al. 2024,
"SpinQuant", section 3.1: R2; Ashkboos et al. 2024, "QuaRot", section 4). Heads are not read from a
config: of the channels that a linear feeds row by row (row_matching.py), blocks of 2, 4, 8 ... are
rotated while the block's output stays as it is. Wider blocks than a head mix what attention weighs
unlike, and a gate or an activation between bends every rotation: the proof fails.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .block_call import run_block
from .proof import TOLERANCE, ScaleGroup, weight_of
from .row_matching import BlockProbe

LARGEST = 512  # channels rotated together
NO_SLICES = "its channels are not fed by slices of an earlier linear's rows"


@dataclass(frozen=True)
class HeadRotation:
    """The rotation of the rows of `absorber` and of the channels of `readers`, proven or refused.

    starts: int64 [slices], the first row of each slice of `size` rows that is rotated
    width: channels of the readers' input
    size: 0 if refused
    proof_error: the largest relative change of a token's hidden state in the block's output
    """

    absorber: str
    readers: tuple[str, ...]
    starts: Tensor
    width: int
    size: int = 0
    proof_error: float | None = None
    refusal: str = ""

    @property
    def proven(self) -> bool:
        return self.size > 0 and not self.refusal

    def applied(self, name: str, value: Tensor) -> Tensor:
        """The parameter `name` of the block with `value`, rotated: a copy where it changes."""
        module, _, kind = name.rpartition(".")
        if not self.proven or kind not in ("weight", "bias"):
            return value
        turn = hadamard(self.size, value)
        if module == self.absorber:
            rows = self.starts[:, None] + torch.arange(self.size, device=self.starts.device)
            result = value.clone()
            result[rows] = torch.einsum("ab,sb...->sa...", turn, value[rows])
            return result
        if module in self.readers and kind == "weight":
            return (value.unflatten(1, (-1, self.size)) @ turn.t()).flatten(1)
        return value


def hadamard(size: int, like: Tensor) -> Tensor:
    """The orthonormal Hadamard matrix (Sylvester's) [size, size] for a power of 2."""
    matrix = torch.ones(1, 1, device=like.device, dtype=like.dtype)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5


def find_rotation(block: nn.Module, probe: BlockProbe, group: ScaleGroup) -> HeadRotation | None:
    """The widest rotation between the absorber of `group` and its readers, proven or refused.

    None where the absorber of the (proven) group is no linear. `block` is in float32 and ends
    unchanged.
    """
    if not group.proven or group.rows is None or group.absorber is None:
        return None
    if weight_of(block, group.absorber).ndim == 1:
        return None
    expected = run_block(block, probe.sequences, probe.sequences_call)
    nothing = HeadRotation(group.absorber, group.readers, group.rows[:0], len(group.rows))
    best = replace(nothing, refusal=NO_SLICES)
    size = 2
    while size <= LARGEST:
        starts = _slices(group.rows, size)
        if starts is None:
            break
        tried = replace(nothing, starts=starts, size=size)
        tried = replace(tried, proof_error=_error(block, probe, expected, tried))
        if tried.proof_error is None or tried.proof_error > TOLERANCE:
            return best if best.proven else _refused(tried)
        best, size = tried, 2 * size
    return best


def rotate(block: nn.Module, rotation: HeadRotation) -> None:
    """Fold `rotation` into the parameters of `block`."""
    for name in _parameters(block, rotation):
        parameter = block.get_parameter(name).data
        parameter.copy_(rotation.applied(name, parameter.float()))


def _refused(tried: HeadRotation) -> HeadRotation:
    refusal = (
        f"rotating pairs of the rows of {tried.absorber!r} changes the block's output by "
        f"{tried.proof_error:.0e}: something else reads them, or a gate or an activation between "
        "bends them"
    )
    return replace(tried, starts=tried.starts[:0], size=0, refusal=refusal)


def _slices(rows: Tensor, size: int) -> Tensor | None:
    """The first rows of the slices of `size` rows that feed the channels; None if none fit.

    `rows` int64 [in] feeds each channel. Several blocks of channels may read one slice (grouped
    queries); slices must not overlap.
    """
    if len(rows) % size:
        return None
    blocks = rows.view(-1, size)
    starts = blocks[:, 0].unique()
    whole = bool((blocks - blocks[:, :1] == torch.arange(size, device=rows.device)).all())
    return starts if whole and bool((starts.diff() >= size).all()) else None


def _parameters(block: nn.Module, rotation: HeadRotation) -> list[str]:
    names = [f"{name}.weight" for name in (rotation.absorber, *rotation.readers)]
    if isinstance(getattr(block.get_submodule(rotation.absorber), "bias", None), Tensor):
        names.append(f"{rotation.absorber}.bias")
    return names


def _error(block: nn.Module, probe: BlockProbe, expected: Tensor, rotation: HeadRotation) -> float:
    """The largest relative change of a token's hidden state; the block ends unchanged."""
    before = {n: block.get_parameter(n).data.clone() for n in _parameters(block, rotation)}
    try:
        rotate(block, rotation)
        output = run_block(block, probe.sequences, probe.sequences_call)
    finally:
        for name, value in before.items():
            block.get_parameter(name).data.copy_(value)
    size = expected.norm(dim=-1).clamp(min=1e-30)
    change = (output - expected).norm(dim=-1) / size
    return float(change.nan_to_num(nan=float("inf")).max())
