"""How the linears and norms of a block differ from the reference's, once the fold is undone.

AWQ divides an absorber's rows by a scale s and multiplies its readers' columns by it. A norm that
absorbs gives s exactly. Where a linear absorbs, its rows and its reader's columns are matched up to
a factor each, by least squares; the two factors must be each other's inverse.

Every figure of a quantized linear is in steps of its own grid, so that linears of all sizes, blocks
and models are alike: rounding to the nearest has a mean square error of 1/12 step^2, feedback
moves it to some 0.1 to 0.4, and no more. A factor that all weights have in common shows in `size`:
with a squared relative error D, rounding gives |size| <= D / 2, whether the scales were refitted
(-D / 2) or not (D / 2).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from salient.models.proof import ScaleGroup, weight_of

SMALLEST_STEP = 1e-3  # of a linear's median step: groups of zeros have no step


@dataclass(frozen=True)
class LinearFigures:
    """A quantized linear against the reference's, in steps of its grid.

    square, row, column: mean square error, of all weights and of the worst row and column
    offset: mean error   size: ln(|checkpoint| / |expected|)   relative: squared relative error D
    """

    name: str
    kind: str
    square: float
    row: float
    column: float
    offset: float
    size: float
    relative: float


@dataclass(frozen=True)
class FoldFigures:
    """A scale that an absorber gives to its readers; logarithms.

    middle: of the largest and smallest scale by the absorber, which AWQ makes 0
    reader_middle: the same by the reader's columns   product: mean of scale x inverse scale
    doubt: what rounding may move `product` by; a norm has neither reader_middle nor product
    """

    absorber: str
    kind: str
    readers: tuple[str, ...]
    middle: float
    reader_middle: float | None = None
    product: float | None = None
    doubt: float = 0.0


@dataclass
class BlockFold:
    """The fold of a block: factor of each linear's rows [out] and columns [in].

    norms: group by absorbing norm   linears: by absorbing linear
    """

    rows: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, ScaleGroup] = field(default_factory=dict)
    linears: dict[str, ScaleGroup] = field(default_factory=dict)

    def expected(self, name: str, weight: Tensor) -> Tensor:
        """The reference's `weight` [out, in] with the scales of the checkpoint."""
        rows, columns = self.rows.get(name), self.columns.get(name)
        weight = weight if columns is None else weight * columns
        return weight if rows is None else weight * rows[:, None]


def match_fold(reference: nn.Module, checkpoint: nn.Module, groups: list[ScaleGroup]) -> BlockFold:
    """The scales between two versions of a block whose scale groups are `groups`."""
    fold = BlockFold()
    proven = [group for group in groups if group.proven and group.rows is not None]
    for group in proven:
        assert group.absorber is not None
        assert group.rows is not None
        before, after = (weight_of(b, group.absorber).float() for b in (reference, checkpoint))
        if before.ndim == 1:
            fold.norms[group.absorber] = group
            scale = _positive((before + group.offset) / (after + group.offset))
            fold.columns |= dict.fromkeys(group.readers, scale[group.rows])
        else:
            fold.linears[group.absorber] = group
    for absorber, group in fold.linears.items():  # norms are known: rows, then columns
        assert group.rows is not None
        before, after = (weight_of(b, absorber).float() for b in (reference, checkpoint))
        expected = fold.expected(absorber, before)
        rows = _positive(_ratio((after * expected).sum(1), expected.square().sum(1)))
        fed = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        fed[group.rows] = True
        fold.rows[absorber] = torch.where(fed, rows, torch.ones_like(rows))
    for absorber, group in fold.linears.items():
        assert group.rows is not None
        for name in group.readers:
            before, after = (weight_of(b, name).float() for b in (reference, checkpoint))
            expected = fold.expected(name, before)
            zeros = torch.zeros(len(fold.rows[absorber]), device=before.device)
            product, size = (
                zeros.index_add(0, group.rows, (other * expected).sum(0))
                for other in (after, expected)
            )
            fold.columns[name] = _positive(_ratio(product, size))[group.rows]
    return fold


def linear_figures(
    name: str, kind: str, actual: Tensor, expected: Tensor, scale: Tensor
) -> LinearFigures:
    """The figures of a quantized linear. actual, expected: [out, in]; scale: [out, groups]."""
    step = scale.float().abs()
    step = step.clamp(min=float(step.median()) * SMALLEST_STEP + 1e-30)
    error = actual - expected
    power = float(expected.square().sum()) + 1e-30
    relative = float(error.square().sum()) / power
    size = 0.5 * float(torch.log((actual.square().sum() + 1e-30) / power))
    error = (error.reshape(*step.shape, -1) / step[..., None]).reshape_as(actual)
    squares = error.square()
    return LinearFigures(
        name,
        kind,
        float(squares.mean()),
        float(squares.mean(1).max()),
        float(squares.mean(0).max()),
        float(error.mean()),
        size,
        relative,
    )


def norm_figures(name: str, kind: str, readers: tuple[str, ...], columns: Tensor) -> FoldFigures:
    """The figures of the scale `columns` that a norm absorbed."""
    return FoldFigures(name, kind, readers, _middle(columns.log()))


def pair_figures(
    names: tuple[str, str, str],
    rows: Tensor,
    columns: Tensor,
    group_rows: Tensor,
    relative: tuple[float, float],
) -> FoldFigures:
    """The figures of a scale that a linear absorbed.

    names: absorber, kind, reader   rows [out], columns [in]: the matched factors
    relative: D of both, by which least squares finds too small a factor
    """
    absorbed, read = rows[group_rows].log(), columns.log()
    mean = float((absorbed + read).mean()) + sum(relative) / 2
    middle, reader_middle = _middle(-absorbed) - relative[0] / 2, _middle(read) + relative[1] / 2
    absorber, kind, reader = names
    return FoldFigures(absorber, kind, (reader,), middle, reader_middle, mean, sum(relative) / 2)


def _middle(log: Tensor) -> float:
    return float(log.max() + log.min()) / 2


def _ratio(product: Tensor, size: Tensor) -> Tensor:
    return product / size.clamp(min=1e-30)


def _positive(factor: Tensor) -> Tensor:
    return torch.where(torch.isfinite(factor) & (factor > 0), factor, torch.ones_like(factor))
