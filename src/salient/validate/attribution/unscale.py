"""A quantized block's weights with AWQ's scales taken out, so that each linear can be exchanged.

AWQ folds a scale s into a scale group: the absorber's rows are divided by it, its readers' columns
multiplied. A linear of the checkpoint is thus

    W' = diag(rows) (W + E) diag(columns)         E: the rounding error, in the reference's basis

and W + E fits into the reference's block alone, without the rest of its scale group. An absorbing
norm gives s exactly: it is the ratio of the two norms. Where a linear absorbs (v_proj, up_proj), s
is known through rounded weights only: each channel of absorber and readers gives an estimate by
least squares, <W', W> / <W, W>, weighted by its precision. A thousand weights a channel that are
rounded to 4 bits give it to about 0.5 %, little against an E of 10 %.

Where the two sides of a group disagree, the one whose weights the reference explains far worse is
damaged, and the other is trusted. Where neither is, its linears cannot be told apart.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from salient.models.proof import ScaleGroup, weight_of

ROUNDS = 2  # a linear may read one group and absorb another: the second round knows both scales
ROUNDED = 0.1  # what rounding to 4 bits leaves unexplained of a weight, about
WORSE = 2  # times as much unexplained as on the other side: a damaged weight, not a rounded one
APART = 0.1  # disagreement (ln) between two sides of a group; clipping alone makes 0.02
CHANCE = 4  # mean of (log / its standard error)^2 that no scale at all may have
EXACT, FINEST = 1e20, 1e-10  # a norm's precision; the smallest variance of a fit in float32


@dataclass
class Scales:
    """What the checkpoint multiplied the rows [out] and columns [in] of each linear by.

    doubts: groups whose linears cannot be told apart, as text
    """

    rows: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    def taken_out(self, name: str, weight: Tensor) -> Tensor:
        """The checkpoint's `weight` [out, in] of the linear `name` in the reference's basis."""
        return self._by(name, weight, -1)

    def put_in(self, name: str, weight: Tensor) -> Tensor:
        """The reference's `weight` [out, in] as the checkpoint rounded it."""
        return self._by(name, weight, 1)

    def _by(self, name: str, weight: Tensor, power: int) -> Tensor:
        rows, columns = self.rows.get(name), self.columns.get(name)
        if rows is not None:
            weight = weight * rows[:, None] ** power
        return weight if columns is None else weight * columns**power


@dataclass(frozen=True)
class ScaleEstimate:
    """A scale as one side of a group has it, by channel of the absorber.

    log: float32 [channels]   precision: 1 / variance of log, 0 where nothing is known
    left: what it leaves unexplained of the weights, relative to them
    """

    log: Tensor
    precision: Tensor
    left: float

    def agrees(self, other: "ScaleEstimate") -> bool:
        """Whether both are the same scale within their precision."""
        weight = 1 / (1 / self.precision + 1 / other.precision)
        apart = (weight * (self.log - other.log).square()).sum() / weight.sum().clamp(min=1e-30)
        return math.sqrt(float(apart)) <= APART


def find_scales(reference: nn.Module, checkpoint: nn.Module, groups: list[ScaleGroup]) -> Scales:
    """The scales between two versions of a block whose scale groups are `groups`."""
    scales = Scales()
    for number in range(ROUNDS):
        scales.doubts = []
        for group in groups:
            if group.proven:
                _add_group(reference, checkpoint, group, scales, last=number == ROUNDS - 1)
    return scales


def _add_group(
    reference: nn.Module, checkpoint: nn.Module, group: ScaleGroup, scales: Scales, *, last: bool
) -> None:
    """Add the scale of `group` to `scales`."""
    assert group.absorber is not None
    assert group.rows is not None
    weights = {
        name: (weight_of(reference, name), weight_of(checkpoint, name))
        for name in (group.absorber, *group.readers)
    }
    norm = weights[group.absorber][0].ndim == 1
    absorbed = (_of_norm if norm else _of_rows)(group, *weights[group.absorber], scales)
    channels = len(absorbed.log)
    read = [_of_columns(name, group, channels, *weights[name], scales) for name in group.readers]
    trusted, doubt = _trusted(absorbed, read)
    if doubt and last:
        scales.doubts.append(f"{group.absorber} and what reads it disagree on their scale")
    scale = _mean(trusted, absorbed)
    for name in group.readers:
        scales.columns[name] = scale[group.rows]
    if not norm:
        scales.rows[group.absorber] = 1 / scale


def _trusted(
    absorbed: ScaleEstimate, read: list[ScaleEstimate]
) -> tuple[list[ScaleEstimate], bool]:
    """The estimates to take, of the absorber's and its readers'; whether that is a guess."""
    like = [each for each in read if each.agrees(absorbed)]
    if like or not read:
        return [absorbed, *like], False
    best = min(read, key=lambda each: each.left)
    if absorbed.left > WORSE * best.left:
        return [best], False
    return [absorbed], best.left <= WORSE * absorbed.left


def _of_norm(group: ScaleGroup, before: Tensor, after: Tensor, _: Scales) -> ScaleEstimate:
    ratio = (before + group.offset) / (after + group.offset)
    known = torch.isfinite(ratio) & (ratio > 0)
    log = torch.where(known, ratio, 1.0).log()
    return ScaleEstimate(log, known * EXACT, ROUNDED)


def _of_rows(group: ScaleGroup, before: Tensor, after: Tensor, scales: Scales) -> ScaleEstimate:
    """The estimate by the rows of an absorbing linear: it was divided by the scale."""
    assert group.absorber is not None
    columns = scales.columns.get(group.absorber)
    expected = before if columns is None else before * columns
    sums = [(a * b).sum(1) for a, b in _pairs(expected, after)]
    fed = torch.zeros(len(before), device=before.device)
    fed[group.rows] = 1  # a fused linear may hold rows that feed others
    fit = _fit([fed * s for s in sums], before.shape[1])
    return ScaleEstimate(-fit.log, fit.precision, fit.left)


def _of_columns(
    name: str, group: ScaleGroup, channels: int, before: Tensor, after: Tensor, scales: Scales
) -> ScaleEstimate:
    """The estimate by the columns of a reader: it was multiplied by the scale.

    Several columns may be fed by one row (grouped-query attention): they give it together.
    """
    assert group.rows is not None
    rows = scales.rows.get(name)
    expected = before if rows is None else before * rows[:, None]
    zeros = torch.zeros(channels, device=before.device)
    sums = [zeros.index_add(0, group.rows, (a * b).sum(0)) for a, b in _pairs(expected, after)]
    return _fit(sums, before.shape[0])


def _pairs(expected: Tensor, actual: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(actual, expected), (expected, expected), (actual, actual)]


def _fit(sums: list[Tensor], count: int) -> ScaleEstimate:
    """Least squares of actual ~ factor x expected, channel by channel.

    sums: over a channel's `count` weights, of actual x expected, expected^2 and actual^2
    """
    product, size, power = sums
    factor = product / size
    known = torch.isfinite(factor) & (factor > 0)
    factor = torch.where(known, factor, 1.0)
    rest = (power - factor.square() * size).clamp(min=0)
    variance = rest / (factor.square() * size * count).clamp(min=1e-30) + FINEST
    left = float((rest.sum() / power.sum().clamp(min=1e-30)).sqrt())
    return ScaleEstimate(factor.log(), known / variance, left)


def _mean(estimates: list[ScaleEstimate], shape: ScaleEstimate) -> Tensor:
    """The scale by all `estimates`, weighted by their precision; 1 for channels that none knows.

    1 for all channels where they agree with it within their errors: most tools scale no v_proj.
    """
    weight, log = torch.zeros_like(shape.log), torch.zeros_like(shape.log)
    for each in estimates:
        weight += each.precision
        log += each.precision * each.log
    log /= weight.clamp(min=1e-30)
    if float((weight * log.square()).sum()) <= CHANCE * float((weight > 0).sum()):
        return torch.ones_like(log)
    return log.exp()
