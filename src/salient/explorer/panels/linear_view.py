"""A linear of the checkpoint with all that is known of it: input, tokens, scale, codes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from salient.awq.search import Sample, candidate, sample_weights
from salient.core.errors import RequestError
from salient.core.evidence import RunEvidence
from salient.core.quant import QuantizedWeight
from salient.explorer.background import RecentResults
from salient.explorer.calibration_pass import BlockInputs, CalibrationPass, InputStatistics
from salient.explorer.linears import BlockLinear, LinearReader
from salient.explorer.rounding import SOME_VALUES, Folded, fit_folded, spread_rows
from salient.explorer.run_evidence import GroupExponents, group_exponents

KEPT = 8  # results of each kind: what a person goes back and forth between


@dataclass(frozen=True)
class LinearView:
    """What is known of a linear, and through whom; None where it is not known.

    tokens: float32 [tokens, in], its input   tied: int64 [in], channels that must share a scale
    folded: what was folded into its weight before it was written
    readers: the linears of the same input that are stored as codes, itself among them
    why: what is missing, in words; '' if nothing is
    """

    linear: BlockLinear
    readers: tuple[str, ...]
    input: InputStatistics | None = None
    tokens: Tensor | None = None
    settled: GroupExponents | None = None
    tied: Tensor | None = None
    folded: Folded | None = None
    why: str = ""


def some_rows(weight: QuantizedWeight, picked: Tensor) -> Tensor:
    """Some rows of what codes stand for: float32 [rows, in]."""
    parts = (weight.codes[picked], weight.scale[picked], weight.zero[picked])
    return QuantizedWeight(*parts, weight.scheme).dequantize()


class LinearViewer:
    """Looks at linears one at a time.

    missing: why there is no atlas, in words
    """

    def __init__(
        self,
        layers: LinearReader,
        atlas: CalibrationPass | None,
        evidence: RunEvidence | str,
        missing: str,
    ):
        self.layers, self.atlas, self.evidence, self.missing = layers, atlas, evidence, missing
        self._views, self._samples, self.errors = (
            RecentResults(KEPT),
            RecentResults(KEPT),
            RecentResults(4 * KEPT),
        )

    def seen(self, block: int) -> BlockInputs | str:
        """What the pass saw of a block; in words why nothing yet."""
        self.layers.shapes(block)
        if self.atlas is None:
            return self.missing
        if block < len(self.atlas.seen):
            return self.atlas.seen[block]
        if self.atlas.state == "failed":
            return self.atlas.words
        done, total = len(self.atlas.seen), self.atlas.total or len(self.layers.blocks)
        return f"The pass of calibration tokens has reached block {done} of {total}."

    def view(self, block: int, name: str) -> LinearView:
        """The linear `name` of a block. Raises RequestError where there is none."""
        linear = self.layers.linear(block, name)
        seen = self.seen(block)
        if isinstance(seen, str):
            return LinearView(linear, (name,), why=seen)
        found = self._views.get((block, name), lambda: self._view(linear, seen))
        if found.input is None or not found.input.tokens:
            return found
        assert self.atlas is not None
        tokens = self.atlas.tokens(block, found.input.readers[0])
        return LinearView(**{**vars(found), "tokens": tokens})

    def sample(self, view: LinearView, group_size: int) -> Sample:
        """The weights of all readers of the view's input, as the search for a scale sees them."""
        key = (view.linear.block, view.readers, group_size)
        return self._samples.get(key, lambda: self._sample(view, group_size))

    def scale(self, view: LinearView, group_size: int, a: float, b: float) -> Tensor:
        """The scale with these exponents: float32 [in]; ones where no token came."""
        if view.input is None or view.input.mean_abs is None or (a, b) == (0.0, 0.0):
            return torch.ones(view.linear.shape[1])
        salience = self.sample(view, group_size).salience
        return candidate(view.input.mean_abs, salience, a, b, view.tied)

    def _sample(self, view: LinearView, group_size: int) -> Sample:
        read = [self.layers.linear(view.linear.block, name) for name in view.readers]
        # Of large weights some rows: their mean is settled, and reading on would be waited for.
        picked = [spread_rows(*linear.shape, SOME_VALUES) for linear in read]
        rows, width = sum(map(len, picked)), view.linear.shape[1]
        weights = ((each.rows(own), 1.0) for each, own in zip(read, picked, strict=True))
        return sample_weights(weights, rows, width, group_size)

    def _view(self, linear: BlockLinear, seen: BlockInputs) -> LinearView:
        own = next((each for each in seen.inputs if linear.name in each.readers), None)
        if own is None:
            return LinearView(linear, (linear.name,), why="No text token reaches this linear.")
        shapes = self.layers.shapes(linear.block)
        coded = [n for n in own.readers if n in shapes and self.layers.is_coded(linear.block, n)]
        why = "" if own.tokens else "None of the calibration tokens was routed here."
        rows, tied = own.group.rows, None
        if rows is not None and not torch.equal(rows, torch.arange(len(rows))):
            tied = rows
        settled = self.settled_of(linear.block, seen, own)
        folded = self._folded(linear, seen, settled) if linear.written is not None else None
        readers = tuple(coded) or (linear.name,)
        return LinearView(linear, readers, own, None, settled, tied, folded, why)

    def settled_of(
        self, block: int, seen: BlockInputs, own: InputStatistics
    ) -> GroupExponents | None:
        if isinstance(self.evidence, str):
            return None
        return group_exponents(self.evidence, self.layers.blocks[block], seen.groups, own.group)

    def _folded(
        self, linear: BlockLinear, seen: BlockInputs, settled: GroupExponents | None
    ) -> Folded:
        """By what the run noted; where it noted nothing, whatever fits."""
        assert linear.written is not None
        noted = not isinstance(self.evidence, str)
        by_rows = False
        for each in seen.inputs:
            if each.group.absorber == linear.name:
                other = self.settled_of(linear.block, seen, each)
                by_rows |= other.scaled if other else not noted
        by_columns = settled.scaled if settled else not noted
        picked = spread_rows(*linear.shape, SOME_VALUES)
        original, written = linear.rows(picked), some_rows(linear.written, picked)
        return fit_folded(original, written, columns=by_columns, rows=by_rows)


def inputs_data(viewer: LinearViewer, block: int) -> dict[str, object]:
    """The linears of a block by the input they share, as plain data."""
    shapes, seen = viewer.layers.shapes(block), viewer.seen(block)
    if isinstance(seen, str):
        grouped = [(name,) for name in shapes]
        return {"block": block, "inputs": [_plain(g, shapes) for g in grouped], "why": seen}
    inputs = []
    for each in seen.inputs:
        settled = viewer.settled_of(block, seen, each)
        group = each.group
        names = tuple(n for n in each.readers if n in shapes)
        inputs.append(
            {
                **_plain(names, shapes),
                "tokens": each.tokens,
                "absorber": group.absorber if group.proven else None,
                "refusal": group.refusal,
                "proof_error": group.proof_error,
                "exponents": settled.exponents if settled else None,
                "rounding": settled.entry.rounding if settled else {},
            }
        )
    return {"block": block, "inputs": [i for i in inputs if i["readers"]], "why": ""}


def _plain(names: tuple[str, ...], shapes: dict[str, tuple[int, int]]) -> dict[str, object]:
    return {"readers": [{"name": n, "out": shapes[n][0], "in": shapes[n][1]} for n in names]}


def check_below(value: int, most: int, what: str) -> None:
    """Raise RequestError unless 0 <= value < most."""
    if not 0 <= value < most:
        raise RequestError(f"There is no {what} {value}: there are {most}, from 0.")
