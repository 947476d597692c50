"""What a format of a linear would cost the end loss, before it is chosen.

With the statistics of fisher.py over T tokens, a rounding error E [out, in] raises the mean KL by

    1/2 sum_t (d_t^T E x_t)^2 / T  ~  tr(HO E H E^T) / (2 T W)        W = tr(HO) / out

(W is the sum of the weights w_t in H). Rows are rounded on their own, so that the errors of two
rows are independent and only the diagonal of HO counts: a few evenly spread rows give the mean.
They are rounded to the best grids, without feedback, which lowers the damage of all formats alike.
"""

import torch
from torch import Tensor

from salient.core.quant import round_trip
from salient.core.scheme import Scheme

from .search import best_grid, gram_blocks, spread_rows
from .statistics import LinearStats


def rounding_damage(
    weight: Tensor,
    stats: LinearStats,
    scale: Tensor,
    scheme: Scheme,
    *,
    tokens: int,
    dtype: torch.dtype,
) -> float:
    """The KL that rounding `weight` [out, in] to `scheme` costs, in nats a token of `tokens`.

    `scale` [in] multiplies the columns before rounding. 0 without gradients.
    """
    strength = torch.cat([gram.diagonal() for gram in stats.output_grams] or [weight.new_empty(0)])
    if not len(strength) or float(strength.sum()) <= 0 or tokens == 0:
        return 0.0
    out, width = weight.shape
    rows = spread_rows(out, width).to(weight.device)
    scaled, strength = weight[rows] * scale, strength[rows]
    grid = best_grid(scaled, gram_blocks(stats.gram, scale, scheme.group_size), scheme, dtype)
    rounded = round_trip(scaled.unflatten(1, (-1, scheme.group_size)), grid, scheme).flatten(1)
    error = (rounded - scaled) / scale
    each = ((error @ stats.gram) * error).sum(1)
    mean = float((each * strength).sum() / strength.sum().clamp(min=1e-30))
    return out * mean / (2 * tokens)
