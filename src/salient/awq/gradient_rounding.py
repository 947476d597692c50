"""Rounding of one linear with gradients of the end loss: grid, two-sided feedback, polish."""

import torch
from torch import Tensor

from salient.core.quant import Grid
from salient.core.scheme import Scheme

from .end_loss import end_loss
from .error_feedback import BAND
from .polish import polish
from .results import HeldoutInput
from .statistics import LinearStats
from .two_sided import INPUT_DAMPING, OUTPUT_DAMPING, best_dampings, round_two_sided
from .zero_search import conditional_strength, feedback_grid


def round_with_gradients(
    name: str,
    weight: Tensor,
    stats: LinearStats,
    scale: Tensor,
    scheme: Scheme,
    dtype: torch.dtype,
    heldout: HeldoutInput | None,
) -> tuple[Tensor, Grid]:
    """The values of the linear `name` on the grid that is returned with them.

    weight: float32 [out, in], its columns multiplied by `scale` [in]
    heldout: its input and gradients on held-out tokens; None if no token reaches it
    """
    damping = INPUT_DAMPING, OUTPUT_DAMPING
    if heldout is not None:
        inputs = heldout.x * heldout.weights[name].sqrt()
        damping = best_dampings(stats, scale, inputs, heldout.gradients[name])
    loss = end_loss(stats, scale, damping)
    bands = [slice(start, start + BAND) for start in range(0, weight.shape[1], BAND)]
    strength = torch.cat([conditional_strength(loss.inputs[band, band]) for band in bands])
    grid = feedback_grid(weight, strength, scheme, dtype)
    adjusted = round_two_sided(weight, grid, stats, scale, scheme, damping)
    if heldout is None:
        return adjusted, grid
    judge = heldout
    polished = polish(
        weight, adjusted, grid, loss, scheme, dtype, lambda e: judge.loss(name, e / scale)
    )
    return polished.values, polished.grid
