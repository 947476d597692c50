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
    error = rounded - weight
    for rows, output_gram in loss.bands(len(weight)):
        band = _Band(codes[rows], error[rows], steps[rows], loss.inputs, output_gram)
        for _ in range(sweeps):
            if not band.sweep(scheme.max_code):
                break
    return values_of(in_groups(codes, scheme), grid).flatten(1)


class _Band:
    """The descent of some rows: `codes` and `error` [rows, in] are changed in place.

    steps: float32 [rows, in], the size of a code
    inputs, outputs: H, and HO of these rows (None for 1)
    """

    def __init__(
        self, codes: Tensor, error: Tensor, steps: Tensor, inputs: Tensor, outputs: Tensor | None
    ):
        self.codes, self.error, self.steps = codes, error, steps
        self.inputs, self.outputs = inputs, outputs
        ones = torch.ones(len(codes), device=codes.device)
        self.strength = ones if outputs is None else outputs.diagonal()

    def sweep(self, max_code: int) -> int:
        """Sweep all columns once; return the number of codes that changed."""
        changed, width = 0, self.error.shape[1]
        for start in range(0, width, PANEL):
            columns = slice(start, min(start + PANEL, width))
            gradient = self.error @ self.inputs[:, columns]
            if self.outputs is not None:
                gradient = self.outputs @ gradient
            # A row each column: contiguous.
            gradient, codes = gradient.t().contiguous(), self.codes[:, columns].t()
            bend = self.inputs.diagonal()[columns, None] * self.strength
            ideal = -1 / (bend * self.steps[:, columns].t())
            room = (-codes).contiguous(), (max_code - codes).contiguous()
            for k in range(len(gradient)):
                moves = (gradient[k] * ideal[k]).round_()
                moves = torch.clamp(moves, room[0][k], room[1][k])
                rows = moves.nonzero().squeeze(1)
                if len(rows):
                    changed += self._change(start + k, rows, moves[rows], gradient[k:])
        return changed

    def _change(self, j: int, rows: Tensor, moves: Tensor, gradient: Tensor) -> int:
        """Take those of `moves` (codes of column `j`, by `rows`) that lower the loss together.

        `gradient` [columns from j on, all rows] follows. Returns their number.
        """
        change, strength = moves * self.steps[rows, j], self.inputs[j, j]
        gain = change * (2 * gradient[0, rows] + strength * self.strength[rows] * change)
        if self.outputs is None:
            taken = gain < 0
        else:
            order = gain.argsort()
            coupling = self.outputs[rows[order, None], rows[order]].tril_(-1) @ change[order]
            together = (gain[order] + 2 * strength * coupling * change[order]).cumsum(0)
            least, count = together.min(0)
            taken = order[: int(count) + 1] if least < 0 else order[:0]
        rows, change = rows[taken], change[taken]
        self.codes[rows, j] += moves[taken]
        self.error[rows, j] += change
        later = self.inputs[j, j : j + len(gradient)]
        if self.outputs is None:
            gradient[:, rows] += later[:, None] * change
        elif len(rows):
            gradient.addr_(later, change @ self.outputs[rows])
        return len(rows)
