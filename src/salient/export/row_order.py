"""Which row of a template's tensor is which row of ours, and the proof that it is.

Ours differs from the template's in four ways: rounding to 4 bits, a factor for each column and each
row (AWQ's scales, folded), and an unknown order of the rows (llama.cpp interleaves the rotary
halves of queries and keys). Balancing rows and columns removes the factors: Sinkhorn and Knopp
(1967) have it that W∘W has one balanced form D (W∘W) E, whatever positive diagonals it was
multiplied with before. What is left is an order of the rows and noise, and the correlation of each
row with its partner is near 1; with any other it is near 0.

An order is a proposal (the rows as they are, rotary pairs, the nearest row) until every row agrees.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLED = 1024  # columns that are compared, spread evenly over a row
ROUNDS = 4  # of balancing
CHUNK = 2048  # rows that are compared with all others at once
TYPICAL = 0.8  # least median correlation of the rows with their partners
LEAST, SHARE = 0.5, 0.98  # so many rows correlate so much
MARGIN = 0.05  # by which an order must be better than each other one


@dataclass(frozen=True)
class RowOrder:
    """Row i of the template is row `rows[i]` of ours; None where all are in place.

    agreement: median correlation of the rows with their partners
    kind: "as they are", "rotary pairs of 9 heads", "matched"; '' if no order is proven
    """

    rows: Tensor | None
    agreement: float
    kind: str


def sampled_columns(width: int) -> slice:
    """The columns that are compared."""
    return slice(None, None, max(1, -(-width // SAMPLED)))


def balanced(weight: Tensor) -> Tensor:
    """`weight` [rows, columns] with rows and columns of one mean square; rows of length 1."""
    result = weight.float().clone()
    tiny = torch.finfo(torch.float32).tiny
    for _ in range(ROUNDS):
        result /= result.square().mean(0, keepdim=True).sqrt_().clamp_(min=tiny)
        result /= result.square().mean(1, keepdim=True).sqrt_().clamp_(min=tiny)
    return torch.nn.functional.normalize(result, dim=1)


def rotary_pairs(count: int, heads: int) -> Tensor | None:
    """The order of llama.cpp's rotary embedding: each head's halves interleaved. None if unfit."""
    if heads < 1 or count % (2 * heads):
        return None
    return torch.arange(count).unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten()


def find_order(
    ours: Tensor, template: Tensor, heads: Iterable[int], previous: Tensor | None = None
) -> RowOrder:
    """The order of rows of `ours` that gives `template`, both [rows, columns] of one shape.

    heads: counts of heads whose rotary pairs are tried   previous: an order that is tried first
    """
    one, other = balanced(ours), balanced(template)
    alive = (one.square().sum(1) > 0) & (other.square().sum(1) > 0)
    if not bool(alive.any()):
        return RowOrder(None, 1.0, "as they are")  # all rows are zero
    proposals: dict[str, Tensor | None] = {"as they are": None}
    for count in dict.fromkeys(heads):
        rows = rotary_pairs(len(ours), count)
        if rows is not None and not torch.equal(rows, torch.arange(len(rows))):
            proposals[f"rotary pairs of {count} heads"] = rows
    if previous is not None and len(previous) == len(ours):
        proposals.setdefault("matched", previous)
    best = _best(one, other, alive, proposals)
    if not best.kind and len(ours) > 1:
        nearest = _nearest(one, other)
        if len(nearest.unique()) == len(nearest):
            best = _best(one, other, alive, proposals | {"matched": nearest})
    return best


def _best(
    one: Tensor, other: Tensor, alive: Tensor, proposals: dict[str, Tensor | None]
) -> RowOrder:
    """The proposal that every row agrees with; with kind '' if it is none, or not the only one."""
    scores = {name: _correlations(one, other, rows)[alive] for name, rows in proposals.items()}
    means = {name: float(values.mean()) for name, values in scores.items()}
    name = max(means, key=lambda key: means[key])
    values = scores[name]
    agreement = float(values.median())
    rivals = [
        mean
        for key, mean in means.items()
        if key != name and not _same_rows(proposals[key], proposals[name])
    ]
    proven = agreement >= TYPICAL and float((values >= LEAST).float().mean()) >= SHARE
    proven = proven and all(means[name] - mean >= MARGIN for mean in rivals)
    return RowOrder(proposals[name], agreement, name if proven else "")


def _same_rows(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def _correlations(one: Tensor, other: Tensor, rows: Tensor | None) -> Tensor:
    return ((one if rows is None else one[rows]) * other).sum(1)


def _nearest(one: Tensor, other: Tensor) -> Tensor:
    """For each row of `other` the row of `one` that correlates most."""
    return torch.cat([(part @ one.t()).argmax(1) for part in other.split(CHUNK)])


def column_factors(ours: Tensor, template: Tensor) -> Tensor:
    """AWQ's scale of each column: s in ours ~ diag(r) template diag(s), with median(r) = 1.

    By least squares, rows and columns in turn; both are float32 [rows, columns], in one order.
    """
    product, square = ours * template, template.square()
    tiny = torch.finfo(torch.float32).tiny
    rows = torch.ones(len(ours))
    columns = torch.ones(ours.shape[1])
    for _ in range(ROUNDS):
        columns = (rows @ product) / (rows.square() @ square).clamp(min=tiny)
        rows = (product @ columns) / (square @ columns.square()).clamp(min=tiny)
        middle = rows.median().clamp(min=tiny)
        rows, columns = rows / middle, columns * middle
    return columns
