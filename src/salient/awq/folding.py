"""A scale as it will be written: what its absorber's 16 bits can take up exactly."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from salient.models.proof import ScaleGroup


@dataclass(frozen=True)
class Fold:
    """A scale as it will be written: the fold into a norm is exact (see `absorbed`).

    columns: float32 [in], multiplied into the readers
    rows: float32 [rows of the absorber], divided out of it; None if nothing is scaled
    norm: parameter's name -> what a norm becomes by dividing
    """

    exponents: tuple[float, float]
    columns: Tensor
    rows: Tensor | None = None
    norm: dict[str, Tensor] = field(default_factory=dict)


def absorbed(
    weight: Tensor, bias: Tensor | None, group: ScaleGroup, scale: Tensor, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    """The scale by the absorber's rows, and what a norm becomes by dividing by it.

    `weight` and `bias` are the absorber's, `scale` float32 [in] is the readers'. Returns float32
    [rows] and the norm's parameters (none for a linear). A norm's new weight is rounded to 16 bits
    first, and the scale is what that rounding made it: the fold is exact.
    """
    assert group.rows is not None
    rows = torch.ones(weight.shape[0], device=weight.device)
    rows[group.rows] = scale
    if weight.ndim > 1:
        return rows, {}
    old = weight.float() + group.offset
    stored = (old / rows - group.offset).to(dtype)
    new = stored.float() + group.offset
    exact = (new != 0) & (old / new > 0) & torch.isfinite(old / new)
    rows = torch.where(exact, old / new, 1.0)
    parts = {"weight": torch.where(exact, stored, weight.to(dtype))}
    if bias is not None:
        parts["bias"] = (bias.float() / rows).to(dtype)
    return rows, parts
