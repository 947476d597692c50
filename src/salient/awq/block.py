"""One block, from statistics to codes: scales, grids, the verdict of the held-out tokens, and the
folded 16-bit rest.

Each shared input is settled on its own: folding another group's scale into a weight only scales its
rows, which changes
neither its codes nor the comparison. AWQ must beat plain rounding on tokens that the search has not
seen, or the group falls
back to plain rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from salient.core.quant import Grid, QuantizedWeight, in_16_bits, minmax_grid, quantize
from salient.core.scheme import Scheme
from salient.models.groups import ScaleGroup

from .feedback import with_feedback
from .search import IDENTITY, Scale, best_grid, best_scale, gram_blocks
from .stats import ActStats


@dataclass(frozen=True)
class Heldout:
    """A shared input on tokens that the search does not see: [tokens, in]."""

    x: Tensor

    def error(self, difference: Tensor) -> float:
        """sum_t |D x_t|^2 for `difference` [out, in]."""
        return float((self.x.float() @ difference.t()).square().sum())


@dataclass
class LayerResult:
    """Held-out output error of one linear, relative to its output's power, by plain rounding and as
    written."""

    name: str
    plain: float
    awq: float


@dataclass
class GroupResult:
    """What became of one shared input. `kept` is False where the held-out tokens preferred plain
    rounding."""

    group: ScaleGroup
    layers: list[LayerResult]
    exponents: tuple[float, float] = IDENTITY
    rounding: str = "plain"

    @property
    def kept(self) -> bool:
        """Whether AWQ beat plain rounding on the held-out tokens."""
        return self.rounding != "plain"


@dataclass
class BlockResult:
    """A quantized block.

    weights: linear's name -> codes;  plain: the same by plain rounding
    folded: parameter's name -> 16-bit tensor that took up a scale (norms, biases, linears that stay
    at 16 bits)
    """

    weights: dict[str, QuantizedWeight]
    plain: dict[str, QuantizedWeight]
    folded: dict[str, Tensor]
    groups: list[GroupResult] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """How to write: the scheme, the 16-bit type of everything else, and which linears become
    codes."""

    scheme: Scheme
    dtype: torch.dtype
    quantized: frozenset[str]


Weights = Callable[
    [str], Tensor
]  # a linear's name within the block -> its weight, float32 [out, in]


def quantize_block(
    block: nn.Module,
    weight_of: Weights,
    groups: list[ScaleGroup],
    stats: dict[str, ActStats],
    heldout: dict[str, Heldout],
    target: Target,
) -> BlockResult:
    """Quantize the linears of `block` that `target` names. `stats` and `heldout` go by each group's
    first reader.

    The block's own parameters are read (norms, biases), not changed.
    """
    draft = _Draft(block, weight_of, target)
    results = []
    for group in groups:
        if any(name in target.quantized for name in group.readers):
            first = group.readers[0]
            results.append(draft.settle(group, stats[first], heldout[first]))
    return draft.finish(results)


@dataclass
class _Draft:
    """What is settled so far: grids by linear, scales by the module that takes them up.

    ready: linear -> its scaled weight and the grid to round it on
    rows: absorber -> float32 [its rows], divided out of it
    columns: reader -> float32 [in], multiplied into it
    """

    block: nn.Module
    weight_of: Weights
    target: Target
    ready: dict[str, tuple[Tensor, Grid]] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    plain: dict[str, QuantizedWeight] = field(default_factory=dict)
    folded: dict[str, Tensor] = field(default_factory=dict)

    def settle(self, group: ScaleGroup, stats: ActStats, heldout: Heldout) -> GroupResult:
        """Search one shared input, and keep of what was found what wins on the held-out tokens."""
        scheme, dtype = self.target.scheme, self.target.dtype
        originals = {n: self.weight_of(n) for n in group.readers if n in self.target.quantized}
        self.plain |= {n: quantize(w, scheme, name=n, dtype=dtype) for n, w in originals.items()}
        found, rows, norm = self._scale(group, list(originals.values()), stats)
        columns = rows[group.rows] if group.rows is not None else found.values
        scaled = {name: weight * columns for name, weight in originals.items()}
        grids = self._grids(scaled, stats, columns)
        versions = {"nearest": scaled, "feedback": self._compensated(scaled, grids, stats, columns)}
        power = {name: max(heldout.error(weight), 1e-30) for name, weight in originals.items()}
        errors: dict[str, dict[str, float]] = {"plain": {}, "nearest": {}, "feedback": {}}
        for name, weight in originals.items():
            plain = self.plain[name].dequantize() - weight
            errors["plain"][name] = heldout.error(plain) / power[name]
            for kind, version in versions.items():
                codes = quantize(version[name], scheme, name=name, dtype=dtype, grid=grids[name])
                error = codes.dequantize() / columns - weight
                errors[kind][name] = heldout.error(error) / power[name]
        best = min(errors, key=lambda kind: sum(errors[kind].values()))
        layers = [LayerResult(n, errors["plain"][n], errors[best][n]) for n in originals]
        if best == "plain":
            self.ready |= {n: (w, minmax_grid(w, scheme, dtype)) for n, w in originals.items()}
            return GroupResult(group, layers, rounding=best)
        self.ready |= {name: (versions[best][name], grids[name]) for name in originals}
        if group.absorber is not None and found.exponents != IDENTITY:
            self.rows[group.absorber] = rows
            self.columns |= dict.fromkeys(group.readers, columns)
            self.folded |= norm
        return GroupResult(group, layers, found.exponents, best)

    def _grids(
        self, scaled: dict[str, Tensor], stats: ActStats, columns: Tensor
    ) -> dict[str, Grid]:
        scheme, dtype = self.target.scheme, self.target.dtype
        blocks = gram_blocks(stats.gram, columns, scheme.group_size)
        return {name: best_grid(weight, blocks, scheme, dtype) for name, weight in scaled.items()}

    def _compensated(
        self,
        scaled: dict[str, Tensor],
        grids: dict[str, Grid],
        stats: ActStats,
        columns: Tensor,
    ) -> dict[str, Tensor]:
        """The readers' weights with error feedback, all at once: they share the Gram matrix."""
        grid = Grid(
            torch.cat([grids[n].scale for n in scaled]), torch.cat([grids[n].zero for n in scaled])
        )
        weight = torch.cat(list(scaled.values()))
        made = with_feedback(weight, grid, stats.gram, columns, self.target.scheme)
        parts = made.split([len(w) for w in scaled.values()])
        return dict(zip(scaled, parts, strict=True))

    def _scale(
        self, group: ScaleGroup, weights: list[Tensor], stats: ActStats
    ) -> tuple[Scale, Tensor, dict[str, Tensor]]:
        """The best scale of a group, the same by its absorber's rows, and the parameters of a norm
        that took it up."""
        ones = torch.ones_like(stats.abs_sum)
        if not group.proven or group.absorber is None:
            return Scale(ones, IDENTITY), ones, {}
        absorber = self.block.get_parameter(f"{group.absorber}.weight")
        tied = group.rows if absorber.ndim > 1 else None
        found = best_scale(
            weights, stats.gram, stats.mean_abs, self.target.scheme, self.target.dtype, tied
        )
        bias = getattr(self.block.get_submodule(group.absorber), "bias", None)
        rows, norm = absorbed(absorber, bias, group, found, self.target.dtype)
        return found, rows, {f"{group.absorber}.{kind}": value for kind, value in norm.items()}

    def finish(self, results: list[GroupResult]) -> BlockResult:
        """Fold all that was settled into the weights and round them."""
        weights = {}
        for name, linear in self.block.named_modules():
            rows, dtype = self.rows.get(name), self.target.dtype
            if not isinstance(linear, nn.Linear):
                continue
            if rows is not None and linear.bias is not None:
                self.folded[f"{name}.bias"] = (linear.bias.float() / rows).to(dtype)
            if name in self.ready:
                weight, grid = self.ready[name]
                if rows is not None:
                    weight = weight / rows[:, None]
                    grid = Grid(in_16_bits(grid.scale / rows[:, None], dtype), grid.zero)
                weights[name] = quantize(
                    weight, self.target.scheme, name=name, dtype=dtype, grid=grid
                )
            elif rows is not None or name in self.columns:
                weight = self.weight_of(name) * self.columns.get(name, 1.0)
                weight = weight if rows is None else weight / rows[:, None]
                self.folded[f"{name}.weight"] = weight.to(dtype)
        return BlockResult(weights, self.plain, self.folded, results)


def absorbed(
    weight: Tensor, bias: Tensor | None, group: ScaleGroup, found: Scale, dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    """The scale by the absorber's rows, float32 [rows], and what a norm becomes by dividing by it.

    `weight` and `bias` are the absorber's. A norm's new weight is rounded to 16 bits first, and the
    scale is what that rounding made it: the fold is exact.
    """
    assert group.rows is not None
    scale = torch.ones(weight.shape[0], device=weight.device)
    scale[group.rows] = found.values
    if weight.ndim > 1:
        return scale, {}
    old = weight.float() + group.offset
    stored = (old / scale - group.offset).to(dtype)
    new = stored.float() + group.offset
    exact = (new != 0) & (old / new > 0) & torch.isfinite(old / new)
    scale = torch.where(exact, old / new, 1.0)
    parts = {"weight": torch.where(exact, stored, weight.to(dtype))}
    if bias is not None:
        parts["bias"] = (bias.float() / scale).to(dtype)
    return scale, parts


def plain_result(result: BlockResult) -> BlockResult:
    """The same block by plain rounding throughout: nothing scaled, nothing folded."""
    groups = []
    for r in result.groups:
        layers = [LayerResult(layer.name, layer.plain, layer.plain) for layer in r.layers]
        groups.append(GroupResult(r.group, layers))
    return BlockResult(result.plain, result.plain, {}, groups)


def effective_state(result: BlockResult) -> dict[str, Tensor]:
    """What the written block computes with, by parameter name: dequantized codes (float32) and
    folded tensors."""
    return {f"{n}.weight": q.dequantize() for n, q in result.weights.items()} | result.folded
