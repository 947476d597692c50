"""Quantize one block: search scales and grids, keep what wins on held-out tokens, fold the scales.

Scale groups are independent: folding another group's scale into a weight only scales its rows,
which changes neither its codes nor the comparison. A group keeps AWQ only if it beats plain
rounding on tokens that the search has not used; otherwise it falls back to plain rounding.

The readers of one input are handled as one weight, stacked by rows: they have one scheme, as the
linears that vLLM fuses have. A group may have many inputs
(experts, each with its own tokens); they share only the scale.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from salient.core.quant import Grid, QuantizedWeight, quantize
from salient.models.proof import ScaleGroup

from .error_feedback import with_feedback
from .gradient_rounding import round_with_gradients
from .results import BlockResult, GroupResult, HeldoutInput, LayerResult, OutputTarget, plain_group
from .search import IDENTITY, best_grid, best_scale, gram_blocks, sample_weights
from .statistics import InputStats, LinearStats

Parameters = Callable[[str], Tensor]  # a parameter's name within the block -> the source's values
Codes = dict[str, QuantizedWeight]
Errors = dict[str, float]  # linear -> its output error on the held-out tokens
ROUNDINGS = ("feedback", "nearest")  # in order of preference


def quantize_block(
    block: nn.Module,
    parameter: Parameters,
    groups: list[ScaleGroup],
    stats_of: Callable[[str], InputStats],
    heldout: dict[str, HeldoutInput],
    target: OutputTarget,
) -> BlockResult:
    """Quantize the linears of `block` that `target` names.

    The keys of `stats_of` and `heldout` are the first reader of each input. `block` gives the
    modules, `parameter` their values in float32. Linears that are not called on text stay
    unquantized.
    """
    quantizer = _BlockQuantizer(block, parameter, target, stats_of, heldout)
    results, left = [], {}
    for group in groups:
        selected = target.quantized.intersection(group.readers)
        if selected and group.called:
            results.append(quantizer.quantize_group(group))
        else:
            left |= dict.fromkeys(selected, group.refusal)
    return quantizer.result(results, left)


@dataclass(frozen=True)
class Fold:
    """A scale as it is written: the fold into a norm is exact (see `absorb`).

    columns: float32 [in], multiplied into the readers
    rows: float32 [rows of the absorber], divided out of it; None if nothing is scaled
    norm: parameter's name -> the norm's divided parameter
    """

    exponents: tuple[float, float]
    columns: Tensor
    rows: Tensor | None = None
    norm: dict[str, Tensor] = field(default_factory=dict)


def absorb(
    weight: Tensor, bias: Tensor | None, group: ScaleGroup, scale: Tensor, target: OutputTarget
) -> tuple[Tensor, dict[str, Tensor]]:
    """The scale by the absorber's rows, and the parameters of a norm divided by it.

    `weight` and `bias` are the absorber's, `scale` float32 [in] is the readers'. Returns float32
    [rows] and the norm's parameters (none for a linear). A norm's new weight is rounded to its
    written dtype first, and the scale becomes the ratio that this rounding gives: the fold is
    exact.
    """
    assert group.rows is not None
    rows = torch.ones(weight.shape[0], device=weight.device)
    rows[group.rows] = scale
    if weight.ndim > 1:
        return rows, {}
    dtype = target.dtype_of(f"{group.absorber}.weight")
    old = weight.float() + group.offset
    stored = (old / rows - group.offset).to(dtype)
    new = stored.float() + group.offset
    exact = (new != 0) & (old / new > 0) & torch.isfinite(old / new)
    rows = torch.where(exact, old / new, 1.0)
    parts = {"weight": torch.where(exact, stored, weight.to(dtype))}
    if bias is not None:
        parts["bias"] = (bias.float() / rows).to(target.dtype_of(f"{group.absorber}.bias"))
    return rows, parts


@dataclass
class _BlockQuantizer:
    """The state between the groups of a block.

    codes: linear -> its codes, before its own rows are divided by what it absorbs
    rows, columns: absorber -> its Fold's rows, reader -> its Fold's columns
    """

    block: nn.Module
    parameter: Parameters
    target: OutputTarget
    stats_of: Callable[[str], InputStats]
    heldout: dict[str, HeldoutInput]
    codes: Codes = field(default_factory=dict)
    plain: Codes = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    folded: dict[str, Tensor] = field(default_factory=dict)

    def quantize_group(self, group: ScaleGroup) -> GroupResult:
        """Search one group; accept the result if it wins on the held-out tokens."""
        fold = self._best_fold(group)
        before = HeldoutErrors()
        power: Errors = {}  # of each linear's output
        for rounding in ROUNDINGS:
            after = HeldoutErrors()
            codes: Codes = {}
            for first, originals in self._inputs(group):
                heldout = self.heldout[first]
                if rounding == ROUNDINGS[0]:
                    power |= {n: max(heldout.error(w), 1e-30) for n, w in originals.items()}
                    plain = {n: self._round(n, weight) for n, weight in originals.items()}
                    self.plain |= plain
                    before.add(heldout, originals, plain, 1.0)
                rounded = self._search(rounding, first, originals, fold)
                after.add(heldout, originals, rounded, fold.columns)
                codes |= rounded
            layers = [
                LayerResult(n, before.output[n] / power[n], after.output[n] / power[n])
                for n in power
            ]
            if after.total(power) < before.total(power):
                self._accept(group, codes, fold)
                return GroupResult(group, layers, fold.exponents, rounding)
        self.codes |= {n: self.plain[n] for n in power}
        return plain_group(GroupResult(group, layers))

    def _inputs(self, group: ScaleGroup) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """The first reader of each input, and the weights to quantize."""
        for names in group.inputs:
            selected = [n for n in names if n in self.target.quantized]
            if selected:
                yield names[0], {n: self.parameter(f"{n}.weight") for n in selected}

    def _search(self, rounding: str, first: str, originals: dict[str, Tensor], fold: Fold) -> Codes:
        """The codes of the readers of one input, scaled, on the best grids."""
        stats, heldout, codes = self.stats_of(first), self.heldout[first], Codes()
        for names in stats.alike(tuple(originals)):
            alike = {n: originals[n] for n in names}
            codes |= self._round_together(rounding, alike, stats.of(names[0]), heldout, fold)
        return codes

    def _round_together(
        self,
        rounding: str,
        originals: dict[str, Tensor],
        stats: LinearStats,
        heldout: HeldoutInput,
        fold: Fold,
    ) -> Codes:
        """The codes of linears with the same statistics, stacked by rows."""
        (scheme,) = {self.target.scheme_of(name) for name in originals}
        scaled = torch.cat([weight * fold.columns for weight in originals.values()])
        if stats.output_grams and rounding == "feedback":
            (name,) = originals
            judge, dtype = heldout if name in heldout.gradients else None, self.target.dtype
            values = round_with_gradients(name, scaled, stats, fold.columns, scheme, dtype, judge)
            return {name: self._round(name, *values)}
        blocks = gram_blocks(stats.gram, fold.columns, scheme.group_size)
        grid = best_grid(scaled, blocks, scheme, self.target.dtype)
        if rounding == "feedback":
            scaled = with_feedback(scaled, grid, stats.gram, fold.columns, scheme)
        sizes = [len(weight) for weight in originals.values()]
        parts = zip(*(t.split(sizes) for t in (scaled, grid.scale, grid.zero)), strict=True)
        each = zip(originals, parts, strict=True)
        return {n: self._round(n, part, Grid(*on)) for n, (part, *on) in each}

    def _round(self, name: str, weight: Tensor, grid: Grid | None = None) -> QuantizedWeight:
        scheme, dtype = self.target.scheme_of(name), self.target.dtype
        return quantize(weight, scheme, name=name, dtype=dtype, grid=grid)

    def _best_fold(self, group: ScaleGroup) -> Fold:
        """The best scale of a group, as its absorber can store it.

        The search uses the input that most tokens reach; each weight counts by the share of them
        that reaches it.
        """
        tokens = {names[0]: self.heldout[names[0]].tokens for names in group.inputs}
        base = max(tokens, key=lambda first: tokens[first])
        stats = self.stats_of(base)
        nothing = Fold(IDENTITY, torch.ones_like(stats.mean_abs))
        if not group.proven:
            return nothing
        assert group.absorber is not None
        assert group.rows is not None
        names = [n for n in group.readers if n in self.target.quantized]
        scheme, dtype = self.target.scheme_of(names[0]), self.target.dtype
        sample = sample_weights(
            (
                (weight, tokens[first] / max(tokens[base], 1))
                for first, originals in self._inputs(group)
                for weight in originals.values()
            ),
            sum(len(self.block.get_parameter(f"{n}.weight")) for n in names),
            len(stats.mean_abs),
            scheme.group_size,
        )
        scale = best_scale(sample, stats, scheme, dtype, group.tied_rows)
        if scale.exponents == IDENTITY:
            return nothing
        absorber = self.parameter(f"{group.absorber}.weight")
        bias = self._bias(group.absorber)
        rows, norm = absorb(absorber, bias, group, scale.values, self.target)
        codes = self.codes.get(group.absorber)  # present already: absorbers run before readers
        if codes is not None and not codes.can_be_divided(rows * self.rows.get(group.absorber, 1)):
            return nothing
        named = {f"{group.absorber}.{kind}": value for kind, value in norm.items()}
        return Fold(scale.exponents, rows[group.rows], rows, named)

    def _bias(self, name: str) -> Tensor | None:
        bias = getattr(self.block.get_submodule(name), "bias", None)
        return self.parameter(f"{name}.bias") if isinstance(bias, Tensor) else None

    def _accept(self, group: ScaleGroup, codes: Codes, fold: Fold) -> None:
        self.codes |= codes
        if group.absorber is not None and fold.rows is not None:
            # Two groups may share an absorber by different rows (values and gate in one linear).
            self.rows[group.absorber] = fold.rows * self.rows.get(group.absorber, 1)
            self.columns |= dict.fromkeys(group.readers, fold.columns)
            self.folded |= fold.norm

    def result(self, results: list[GroupResult], left: dict[str, str]) -> BlockResult:
        """Fold the accepted scales into absorbing linears and unquantized readers."""
        weights = {}
        for name in dict.fromkeys([*self.codes, *self.rows, *self.columns]):
            rows, dtype = self.rows.get(name), self.target.dtype
            if f"{name}.weight" in self.folded:  # a norm, folded already
                continue
            bias = self._bias(name)
            if rows is not None and bias is not None:
                self.folded[f"{name}.bias"] = (bias / rows).to(self.target.dtype_of(f"{name}.bias"))
            if name in self.codes:
                codes = self.codes[name]
                divided = rows is not None
                weights[name] = codes.divided(rows, name=name, dtype=dtype) if divided else codes
            else:
                weight = self.parameter(f"{name}.weight") * self.columns.get(name, 1.0)
                weight = weight if rows is None else weight / rows[:, None]
                self.folded[f"{name}.weight"] = weight.to(self.target.dtype_of(f"{name}.weight"))
        columns, rows = (
            {n: v for n, v in own.items() if n in weights} for own in (self.columns, self.rows)
        )
        return BlockResult(weights, self.plain, self.folded, results, left, columns, rows)


@dataclass
class HeldoutErrors:
    """What some codes cost on the held-out tokens, by linear.

    output: the output error
    loss: the change of the end loss, where all have gradients
    """

    output: Errors = field(default_factory=Errors)
    loss: Errors = field(default_factory=Errors)

    def add(
        self,
        heldout: HeldoutInput,
        originals: dict[str, Tensor],
        codes: Codes,
        columns: Tensor | float,
    ) -> None:
        """Add those of `codes`, whose columns were multiplied by `columns`."""
        for name, weight in originals.items():
            difference = codes[name].dequantize().div_(columns).sub_(weight)
            self.output[name] = heldout.error(difference)
            if name in heldout.gradients:
                self.loss[name] = heldout.loss(name, difference)

    def total(self, power: Errors) -> float:
        """The sum of losses, or of output errors relative to the outputs' `power`."""
        if self.loss.keys() == power.keys():
            return sum(self.loss.values())
        return sum(self.output[n] / power[n] for n in power)
