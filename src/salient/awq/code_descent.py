"""Code descent: change single codes while the end loss falls.

With E = W' - W and g = HO E H, changing column j by d [out] changes the loss tr(HO E H E^T) by

    2 <d, g_j> + H_jj d^T HO d

The best step of one weight is round(-g_ij / (s H_jj HO_ii)) codes of size s (coordinate descent as
in QuantEase, Behdin et al. 2023, section 3, with HO added). Columns are swept in turn. Rows couple
through HO: of the rows that would each lower the loss, strongest first, the number that lowers it
most together is changed. The loss never rises.
"""

import torch
from torch import Tensor

from salient.core.quant import Grid, codes_of, in_groups, values_of
from salient.core.scheme import Scheme

from .end_loss import EndLoss

SWEEPS = 2
PANEL = 64  # columns whose gradient is one matrix product


def descend(
    weight: Tensor,
    rounded: Tensor,
    grid: Grid,
    loss: EndLoss,
    scheme: Scheme,
    sweeps: int = SWEEPS,
) -> Tensor:
    """`rounded` float32 [out, in], on `grid`, with the codes that lower the loss of its error.

    `weight` float32 [out, in] is the target. Returns values on the same grid; does not modify the
    input.
    """
    codes = codes_of(in_groups(rounded, scheme), grid, scheme).flatten(1)
    steps = grid.scale.repeat_interleave(scheme.group_size, 1)
    zeros = grid.zero.repeat_interleave(scheme.group_size, 1)
    for rows, output_gram in loss.bands(len(weight)):
        band = _Band(codes[rows], zeros[rows], steps[rows], weight[rows], loss.inputs, output_gram)
        for _ in range(sweeps):
            if not band.sweep(scheme.max_code):
                break
    return values_of(in_groups(codes, scheme), grid).flatten(1)


class _Band:
    """The descent of some rows: `codes` [rows, in] is changed in place.

    zeros, steps: float32 [rows, in], of each weight's group
    """

    def __init__(
        self,
        codes: Tensor,
        zeros: Tensor,
        steps: Tensor,
        weight: Tensor,
        inputs: Tensor,
        outputs: Tensor | None,
    ):
        self.codes, self.steps, self.inputs, self.outputs = codes, steps, inputs, outputs
        self.error = (codes - zeros).mul_(steps).sub_(weight)
        ones = torch.ones(len(codes), device=codes.device)
        self.strength = ones if outputs is None else outputs.diagonal()

    def sweep(self, max_code: int) -> int:
        """Sweep all columns once; return the number of codes that changed."""
        changed = 0
        for start in range(0, self.error.shape[1], PANEL):
            panel = slice(start, start + PANEL)
            gradient = self.error @ self.inputs[:, panel]
            gradient = (gradient if self.outputs is None else self.outputs @ gradient).t()
            gradient = gradient.contiguous()
            for k in range(len(gradient)):
                changed += self._column(start + k, gradient, k, max_code)
        return changed

    def _column(self, j: int, gradient: Tensor, k: int, max_code: int) -> int:
        """Change column `j`; `gradient` [panel, rows], whose row `k` is its own, follows."""
        codes, step = self.codes[:, j], self.steps[:, j]
        slope, bend = gradient[k], self.inputs[j, j] * self.strength
        moves = (slope / (bend * step)).neg_().round_()
        moves = torch.minimum(torch.maximum(moves, -codes), max_code - codes)
        change = moves * step
        gain = change * (2 * slope + bend * change)
        picked = (gain < 0).nonzero().squeeze(1)
        if not len(picked):
            return 0
        if self.outputs is not None:
            picked = picked[gain[picked].argsort()]
            picked = self._best_prefix(picked, change[picked], gain[picked], self.inputs[j, j])
        some = change[picked]
        codes[picked] += moves[picked]
        self.error[picked, j] += some
        later = self.inputs[j, j - k : j - k + len(gradient)]
        if self.outputs is None:
            gradient[:, picked] += later[:, None] * some
        else:
            gradient.addr_(later, some @ self.outputs[picked])
        return len(picked)

    def _best_prefix(
        self, picked: Tensor, change: Tensor, gain: Tensor, strength: Tensor
    ) -> Tensor:
        """The first of `picked` rows that lower the loss most if all of them change."""
        assert self.outputs is not None
        coupling = self.outputs[picked[:, None], picked].tril(-1) @ change * change
        together = (gain + 2 * strength * coupling).cumsum(0)
        return picked[: int(together.argmin()) + 1]
