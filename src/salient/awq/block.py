"""One block, from statistics to codes: scales, grids, the held-out tokens' verdict, what is folded.

Each shared input is settled on its own: folding another group's scale into a weight only scales its
rows, which changes neither its codes nor the comparison. What was found must beat plain rounding on
tokens that the search has not seen, or the group falls back to plain rounding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from salient.core.quant import Grid, QuantizedWeight, quantize
from salient.core.scheme import Scheme
from salient.models.groups import ScaleGroup

from .feedback import with_feedback
from .search import IDENTITY, best_grid, best_scale, gram_blocks
from .stats import ActStats

JUDGE_TOKENS = 256  # held-out tokens, evenly spread, that tell which version of a group wins
Weights = Callable[[str], Tensor]  # a linear's name within the block -> float32 [out, in]


class Heldout:
    """A shared input on tokens that the search does not see: x float32 [tokens, in]."""

    def __init__(self, x: Tensor):
        self.x = x[:: -(-len(x) // JUDGE_TOKENS)].float()

    def error(self, difference: Tensor) -> float:
        """sum_t |D x_t|^2 for `difference` [out, in]."""
        return float((self.x @ difference.t()).square_().sum())


@dataclass(frozen=True)
class LayerResult:
    """One linear's held-out output error, relative to its output: by plain rounding, as written."""

    name: str
    plain: float
    awq: float


@dataclass(frozen=True)
class GroupResult:
    """What became of one shared input.

    exponents: those of the scale (search.py), (0, 0) if it scales nothing
    rounding: 'feedback', 'nearest', or 'plain' where the held-out tokens preferred plain rounding
    """

    group: ScaleGroup
    layers: list[LayerResult]
    exponents: tuple[float, float] = IDENTITY
    rounding: str = "plain"

    @property
    def kept(self) -> bool:
        """Whether AWQ beat plain rounding on the held-out tokens."""
        return self.rounding != "plain"


@dataclass(frozen=True)
class BlockResult:
    """A quantized block.

    weights, plain: linear's name -> codes, as written and by plain rounding
    folded: parameter's name -> 16-bit tensor that took up a scale (norms, biases, linears that stay
        at 16 bits)
    """

    weights: dict[str, QuantizedWeight]
    plain: dict[str, QuantizedWeight]
    folded: dict[str, Tensor]
    groups: list[GroupResult] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """How to write: the scheme, the 16-bit type of all else, and which linears become codes."""

    scheme: Scheme
    dtype: torch.dtype
    quantized: frozenset[str]


def quantize_block(
    block: nn.Module,
    weight_of: Weights,
    groups: list[ScaleGroup],
    stats: dict[str, ActStats],
    heldout: dict[str, Heldout],
    target: Target,
) -> BlockResult:
    """Quantize the linears of `block` that `target` names.

    `stats` and `heldout` go by each group's first reader. The block's own parameters are read
    (norms, biases), not changed.
    """
    draft = _Draft(block, weight_of, target)
    results = []
    for group in groups:
        if any(name in target.quantized for name in group.readers):
            first = group.readers[0]
            results.append(draft.settle(group, stats[first], heldout[first]))
    return draft.finish(results)


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


@dataclass
class _Draft:
    """What is settled so far.

    codes: linear -> its codes, before its own rows are divided by what it absorbs
    rows, columns: absorber -> its Fold's rows, reader -> its Fold's columns
    """

    block: nn.Module
    weight_of: Weights
    target: Target
    codes: dict[str, QuantizedWeight] = field(default_factory=dict)
    plain: dict[str, QuantizedWeight] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    folded: dict[str, Tensor] = field(default_factory=dict)

    def settle(self, group: ScaleGroup, stats: ActStats, heldout: Heldout) -> GroupResult:
        """Search one shared input; keep what was found if it wins on the held-out tokens."""
        originals = {n: self.weight_of(n) for n in group.readers if n in self.target.quantized}
        power = {n: max(heldout.error(w), 1e-30) for n, w in originals.items()}

        def errors(codes: dict[str, QuantizedWeight], columns: Tensor | float) -> dict[str, float]:
            lost = ((n, codes[n].dequantize().div_(columns).sub_(w)) for n, w in originals.items())
            return {n: heldout.error(difference) / power[n] for n, difference in lost}

        plain = {n: self._rounded(n, weight) for n, weight in originals.items()}
        self.plain |= plain
        before = errors(plain, 1.0)
        fold = self._fold(group, originals, stats)
        for rounding, codes in self._versions(originals, fold, stats):
            after = errors(codes, fold.columns)
            if sum(after.values()) < sum(before.values()):
                self._keep(group, codes, fold)
                layers = [LayerResult(n, before[n], after[n]) for n in originals]
                return GroupResult(group, layers, fold.exponents, rounding)
        self.codes |= plain
        return GroupResult(group, [LayerResult(n, e, e) for n, e in before.items()])

    def _versions(
        self, originals: dict[str, Tensor], fold: Fold, stats: ActStats
    ) -> Iterator[tuple[str, dict[str, QuantizedWeight]]]:
        """Ways to round the scaled weights, the best first, each made when it is asked for.

        The readers are worked on as one weight, rows on rows: they share the input.
        """
        scheme, gram = self.target.scheme, stats.gram
        scaled = torch.cat([weight * fold.columns for weight in originals.values()])
        blocks = gram_blocks(gram, fold.columns, scheme.group_size)
        grid = best_grid(scaled, blocks, scheme, self.target.dtype)

        def rounded(whole: Tensor) -> dict[str, QuantizedWeight]:
            sizes = [len(weight) for weight in originals.values()]
            parts = zip(*(t.split(sizes) for t in (whole, grid.scale, grid.zero)), strict=True)
            each = zip(originals, parts, strict=True)
            return {n: self._rounded(n, part, Grid(*on)) for n, (part, *on) in each}

        yield "feedback", rounded(with_feedback(scaled, grid, gram, fold.columns, scheme))
        yield "nearest", rounded(scaled)

    def _rounded(self, name: str, weight: Tensor, grid: Grid | None = None) -> QuantizedWeight:
        scheme, dtype = self.target.scheme, self.target.dtype
        return quantize(weight, scheme, name=name, dtype=dtype, grid=grid)

    def _fold(self, group: ScaleGroup, originals: dict[str, Tensor], stats: ActStats) -> Fold:
        """The best scale of a group, as its absorber can take it up."""
        nothing = Fold(IDENTITY, torch.ones_like(stats.mean_abs))
        if not group.proven:
            return nothing
        assert group.absorber is not None
        assert group.rows is not None
        absorber = self.block.get_parameter(f"{group.absorber}.weight")
        tied = group.rows if absorber.ndim > 1 else None
        scheme, dtype = self.target.scheme, self.target.dtype
        weights = list(originals.values())
        found = best_scale(weights, stats.gram, stats.mean_abs, scheme, dtype, tied)
        if found.exponents == IDENTITY:
            return nothing
        bias = getattr(self.block.get_submodule(group.absorber), "bias", None)
        rows, norm = absorbed(absorber, bias, group, found.values, dtype)
        codes = self.codes.get(group.absorber)  # settled already: absorbers run before readers
        if codes is not None and not codes.can_be_divided(rows):
            return nothing
        named = {f"{group.absorber}.{kind}": value for kind, value in norm.items()}
        return Fold(found.exponents, rows[group.rows], rows, named)

    def _keep(self, group: ScaleGroup, codes: dict[str, QuantizedWeight], fold: Fold) -> None:
        self.codes |= codes
        if group.absorber is not None and fold.rows is not None:
            self.rows[group.absorber] = fold.rows
            self.columns |= dict.fromkeys(group.readers, fold.columns)
            self.folded |= fold.norm

    def finish(self, results: list[GroupResult]) -> BlockResult:
        """Fold what was kept into the rows of absorbing linears and into 16-bit readers."""
        weights = {}
        for name, linear in self.block.named_modules():
            if not isinstance(linear, nn.Linear):
                continue
            rows, dtype = self.rows.get(name), self.target.dtype
            if rows is not None and linear.bias is not None:
                self.folded[f"{name}.bias"] = (linear.bias.float() / rows).to(dtype)
            if name in self.codes:
                codes = self.codes[name]
                divided = rows is not None
                weights[name] = codes.divided(rows, name=name, dtype=dtype) if divided else codes
            elif rows is not None or name in self.columns:
                weight = self.weight_of(name) * self.columns.get(name, 1.0)
                weight = weight if rows is None else weight / rows[:, None]
                self.folded[f"{name}.weight"] = weight.to(dtype)
        return BlockResult(weights, self.plain, self.folded, results)


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


def plain_result(result: BlockResult) -> BlockResult:
    """The same block by plain rounding throughout: nothing scaled, nothing folded."""
    groups = []
    for r in result.groups:
        layers = [LayerResult(layer.name, layer.plain, layer.plain) for layer in r.layers]
        groups.append(GroupResult(r.group, layers))
    return BlockResult(result.plain, result.plain, {}, groups)


def effective_state(result: BlockResult) -> dict[str, Tensor]:
    """What the written block computes with, by parameter name: dequantized codes, folded parts."""
    return {f"{n}.weight": q.dequantize() for n, q in result.weights.items()} | result.folded
