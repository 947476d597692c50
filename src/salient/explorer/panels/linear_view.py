"""A linear of the checkpoint with its input, tokens, scale and codes.

Panel 2: the linears of a block by input, and the size of an input's channels. Panel 3: the output
error over the exponents of the scale.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from salient.awq.search import IDENTITY, Sample, candidate, sample_weights, spread_rows
from salient.core.evidence import RunEvidence
from salient.core.quant import QuantizedWeight
from salient.core.scheme import Scheme
from salient.explorer.background import RecentResults
from salient.explorer.calibration_pass import BlockInputs, CalibrationPass, InputStatistics
from salient.explorer.linears import BlockLinear, LinearReader
from salient.explorer.rounding import (
    SAMPLE_VALUES,
    FoldedScales,
    Rounding,
    fit_folded,
    output_power,
)
from salient.explorer.run_evidence import GroupExponents, group_exponents

SALIENT = 0.01  # of an input's channels
MAX_POINTS = 1024  # of the curve
TOP = 10  # channels that are listed
CACHED = 8  # results of each kind: what a person goes back and forth between


@dataclass(frozen=True)
class LinearView:
    """A linear and its statistics; None where unknown.

    tokens: float32 [tokens, in], its input   tied: int64 [in], channels that must share a scale
    readers: the linears of the same input that are stored as codes, itself among them
    chosen: the exponents of the run   folded: the scales in its written weight
    why: the reason for what is missing, '' if nothing is
    """

    linear: BlockLinear
    readers: tuple[str, ...]
    input: InputStatistics | None = None
    tokens: Tensor | None = None
    chosen: GroupExponents | None = None
    tied: Tensor | None = None
    folded: FoldedScales | None = None
    why: str = ""


def some_rows(weight: QuantizedWeight, rows: Tensor) -> Tensor:
    """Some rows of the dequantized weight: float32 [rows, in]."""
    parts = (weight.codes[rows], weight.scale[rows], weight.zero[rows])
    return QuantizedWeight(*parts, weight.scheme).dequantize()


class LinearViewer:
    """Collects the views of single linears. missing: the reason if there is no calibration"""

    def __init__(
        self,
        layers: LinearReader,
        calibration: CalibrationPass | None,
        evidence: RunEvidence | str,
        missing: str,
    ):
        self.layers, self.calibration = layers, calibration
        self.evidence, self.missing = evidence, missing
        self._views, self._samples = RecentResults(CACHED), RecentResults(CACHED)
        self.errors = RecentResults(4 * CACHED)

    def block_inputs(self, block: int) -> BlockInputs | str:
        """The statistics of a block, or the reason why there are none yet."""
        self.layers.shapes(block)
        if self.calibration is None:
            return self.missing
        if block < len(self.calibration.blocks):
            return self.calibration.blocks[block]
        if self.calibration.state == "failed":
            return self.calibration.label
        done, total = len(self.calibration.blocks), self.calibration.total
        total = total or len(self.layers.blocks)
        return f"The pass of calibration tokens has reached block {done} of {total}."

    def view(self, block: int, name: str) -> LinearView:
        """The linear `name` of a block. Raises RequestError for an unknown one."""
        linear = self.layers.linear(block, name)
        inputs = self.block_inputs(block)
        if isinstance(inputs, str):
            return LinearView(linear, (name,), why=inputs)
        view = self._views.get((block, name), lambda: self._view(linear, inputs))
        if view.input is None or not view.input.tokens:
            return view
        assert self.calibration is not None
        return replace(view, tokens=self.calibration.tokens(block, view.input.readers[0]))

    def sample(self, view: LinearView, group_size: int) -> Sample:
        """The weights of all readers of the view's input, as in the search for a scale."""

        def read() -> Sample:
            linears = [self.layers.linear(view.linear.block, name) for name in view.readers]
            # Of large weights some rows: enough for the mean, and quick.
            rows = [spread_rows(*linear.shape, SAMPLE_VALUES) for linear in linears]
            weights = ((each.rows(own), 1.0) for each, own in zip(linears, rows, strict=True))
            width = view.linear.shape[1]
            return sample_weights(weights, sum(map(len, rows)), width, group_size)

        return self._samples.get((view.linear.block, view.readers, group_size), read)

    def scale(self, view: LinearView, group_size: int, a: float, b: float) -> Tensor:
        """The scale with these exponents: float32 [in]; ones if no token reached the linear."""
        if view.input is None or view.input.mean_abs is None or (a, b) == (0.0, 0.0):
            return torch.ones(view.linear.shape[1])
        salience = self.sample(view, group_size).salience
        return candidate(view.input.mean_abs, salience, a, b, view.tied)

    def _view(self, linear: BlockLinear, inputs: BlockInputs) -> LinearView:
        own = next((each for each in inputs.inputs if linear.name in each.readers), None)
        if own is None:
            return LinearView(linear, (linear.name,), why="No text token reaches this linear.")
        shapes = self.layers.shapes(linear.block)
        coded = [n for n in own.readers if n in shapes and self.layers.is_coded(linear.block, n)]
        rows = own.group.rows
        shared = rows is not None and not torch.equal(rows, torch.arange(len(rows)))
        chosen = self.chosen_exponents(linear.block, inputs, own)
        return LinearView(
            linear,
            tuple(coded) or (linear.name,),
            own,
            chosen=chosen,
            tied=rows if shared else None,
            folded=self._folded(linear, inputs, chosen) if linear.written is not None else None,
            why="" if own.tokens else "None of the calibration tokens was routed here.",
        )

    def chosen_exponents(
        self, block: int, inputs: BlockInputs, own: InputStatistics
    ) -> GroupExponents | None:
        """The exponents that the run chose for the input `own`; None if unknown."""
        if isinstance(self.evidence, str):
            return None
        return group_exponents(self.evidence, self.layers.blocks[block], inputs.groups, own.group)

    def _folded(
        self, linear: BlockLinear, inputs: BlockInputs, chosen: GroupExponents | None
    ) -> FoldedScales:
        """The scales that the run recorded; without a record, whatever fits."""
        assert linear.written is not None
        unknown = isinstance(self.evidence, str)
        absorbed = [each for each in inputs.inputs if each.group.absorber == linear.name]
        others = [self.chosen_exponents(linear.block, inputs, each) for each in absorbed]
        rows = spread_rows(*linear.shape, SAMPLE_VALUES)
        return fit_folded(
            linear.rows(rows),
            some_rows(linear.written, rows),
            columns=chosen.scaled if chosen else unknown,
            rows=any(other.scaled if other else unknown for other in others),
        )


def inputs_data(viewer: LinearViewer, block: int) -> dict[str, object]:
    """The linears of a block, grouped by the input they share."""
    shapes, inputs = viewer.layers.shapes(block), viewer.block_inputs(block)
    if isinstance(inputs, str):
        return {"block": block, "inputs": [_readers((n,), shapes) for n in shapes], "why": inputs}
    entries = []
    for each in inputs.inputs:
        chosen = viewer.chosen_exponents(block, inputs, each)
        group = each.group
        entries.append(
            {
                **_readers(tuple(n for n in each.readers if n in shapes), shapes),
                "tokens": each.tokens,
                "absorber": group.absorber if group.proven else None,
                "refusal": group.refusal,
                "proof_error": group.proof_error,
                "exponents": chosen.exponents if chosen else None,
                "rounding": chosen.entry.rounding if chosen else {},
            }
        )
    return {"block": block, "inputs": [e for e in entries if e["readers"]], "why": ""}


def _readers(names: tuple[str, ...], shapes: dict[str, tuple[int, int]]) -> dict[str, object]:
    return {"readers": [{"name": n, "out": shapes[n][0], "in": shapes[n][1]} for n in names]}


def salience_data(view: LinearView) -> dict[str, object]:
    """Mean |x| of the channels of the view's input, largest first."""
    if view.input is None or view.input.mean_abs is None:
        return {"why": view.why}
    mean = view.input.mean_abs
    values, order = mean.sort(descending=True)
    width, count = len(values), max(1, round(SALIENT * len(values)))
    ranks = sorted({i * (width - 1) // (MAX_POINTS - 1) for i in range(MAX_POINTS)})
    total = max(float(values.sum()), 1e-30)
    columns = view.folded.columns if view.folded is not None else None
    middle = float(columns.median()) if columns is not None else 1.0
    top = [
        {
            "channel": int(channel),
            "mean_abs": float(value),
            "scale": float(columns[channel]) / middle if columns is not None else None,
        }
        for value, channel in zip(values[:TOP], order[:TOP], strict=True)
    ]
    return {
        "why": "",
        "readers": list(view.input.readers),
        "tokens": view.input.tokens,
        "channels": width,
        "ranks": ranks,
        "values": [float(values[rank]) for rank in ranks],
        "salient": count,
        "share": float(values[:count].sum()) / total,
        "median": float(values.median()),
        "largest": float(values[0]),
        "top": top,
    }


STEPS = tuple(step / 8 for step in range(-1, 10))  # the possible results of the search
LINE = tuple(step / 8 for step in range(9))  # of the line b = 1 - a


def curve_data(
    viewer: LinearViewer, view: LinearView, scheme: Scheme, dtype: torch.dtype
) -> dict[str, object]:
    """Relative output error over `a`, for the chosen `b` and for b = 1 - a.

    Measured as in the search, with min-max grids on evenly spread rows of all readers.
    """
    if view.tokens is None:
        return {"why": view.why}
    key = ("curve", view.linear.block, view.readers, scheme)
    errors = viewer.errors.get(key, lambda: _errors(viewer, view, scheme, dtype))
    exponents = view.chosen.exponents if view.chosen else None
    b = exponents[1] if exponents else None
    return {
        "why": "",
        "readers": list(view.readers),
        "scheme": str(scheme),
        "tokens": len(view.tokens),
        "b": b,
        "chosen": exponents and {"a": exponents[0], "b": b, "error": errors[exponents]},
        "plain": errors[IDENTITY],
        "activations": [{"a": a, "error": errors[a, b or 0.0]} for a in STEPS],
        "line": [{"a": a, "error": errors[a, 1 - a]} for a in LINE],
        "tied": view.tied is not None,
        "absorber": view.input.group.absorber if view.input and view.input.group.proven else None,
        "refusal": view.input.group.refusal if view.input else "",
    }


def _errors(
    viewer: LinearViewer, view: LinearView, scheme: Scheme, dtype: torch.dtype
) -> dict[tuple[float, float], float]:
    assert view.tokens is not None
    weight, tokens = viewer.sample(view, scheme.group_size).more, view.tokens
    chosen = view.chosen.exponents if view.chosen else IDENTITY
    points = [IDENTITY, *((a, chosen[1]) for a in STEPS), *((a, 1 - a) for a in LINE), chosen]
    rounding, power = Rounding(scheme, 1.0, dtype), max(output_power(weight, tokens), 1e-30)

    def error(scale: Tensor) -> float:
        return output_power(rounding.of(weight, scale) - weight, tokens) / power

    return {
        (a, b): error(viewer.scale(view, scheme.group_size, a, b)) for a, b in dict.fromkeys(points)
    }
