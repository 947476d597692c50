"""The integrity stage: are the checkpoint's tensors roundings of the reference's at all?

It runs before statistics: KL averages a broken layer away. Digests in salient.json name what
changed after it was written. Without them, or where the damage is older, each linear is compared
with the reference's, weights only: a few tokens prove the scale groups, nothing else is run.
"""

import torch
from torch import Tensor

from salient.core.errors import SalientError
from salient.core.evidence import find_changed, read_evidence
from salient.core.progress import Progress
from salient.models.proof import ScaleGroup, weight_of
from salient.models.scale_groups import PROBE, GroupProver
from salient.models.tracing import pattern
from salient.validate.attribution.mixing import quantized_linears
from salient.validate.model_pair import ModelPair

from .outliers import damaged_folds, damaged_linears
from .result import DamagedTensor, IntegrityResult
from .rounding_figures import (
    BlockFold,
    FoldFigures,
    LinearFigures,
    linear_figures,
    match_fold,
    norm_figures,
    pair_figures,
)

ALIKE = 2**-8  # relative difference that storing in another 16-bit dtype makes, at most
ELEMENT = 2**-7  # of one value, and of the root mean square of all
MATCHED = 0.03  # of a bias of a linear whose rows are matched by least squares
MOST = 0.5  # of all linears: where more differ, the reference is another model


def measure_integrity(pair: ModelPair, progress: Progress) -> IntegrityResult:
    """Compare all tensors; what cannot be compared is not judged."""
    digests, named = _by_digests(pair)
    try:
        comparison = WeightComparison(pair)
        for index, name in enumerate(pair.reference.skeleton.blocks):
            progress(index, len(pair.reference.skeleton.blocks), f"{name}: integrity of weights")
            comparison.add_block(index)
        comparison.add_outer()
        damaged, unjudged = comparison.damaged(), comparison.refusal
    except SalientError as error:
        return IntegrityResult(digests, 0, tuple(named), str(error) if not named else "")
    modules = {each.name.rpartition(".")[0] for each in named}
    named += [each for each in damaged if not modules & {each.name, each.name.rpartition(".")[0]}]
    return IntegrityResult(digests, len(comparison.linears), tuple(named), unjudged * (not named))


def _by_digests(pair: ModelPair) -> tuple[str, list[DamagedTensor]]:
    """What the digests of salient.json show, and the tensors that changed since."""
    folder = pair.checkpoint.source.folder
    changed = find_changed(folder)
    if changed.reason:
        return changed.reason, []
    evidence = read_evidence(folder)
    if evidence is None or not evidence.files:
        return "no digests", []
    reason = "its digest is not the one in salient.json: it changed after it was written"
    tensors = [DamagedTensor(name, reason) for name in changed.tensors]
    if changed.files and not tensors:
        return "; ".join(f"{name} {what}" for name, what in changed.files.items()), []
    return "changed" if tensors else "match", tensors


class WeightComparison:
    """The figures of all blocks, and the tensors that must be equal and are not."""

    def __init__(self, pair: ModelPair):
        self.pair = pair
        self.reference, self.checkpoint = pair.skeletons
        samples, tokens = PROBE
        ids = torch.arange(samples * tokens).reshape(samples, tokens) * 7 + 100
        ids %= self.reference.vocabulary
        self.hidden = self.reference.calls(ids)[0].float()
        self.prover = GroupProver(self.reference, ids)
        self.linears: list[LinearFigures] = []
        self.folds: list[FoldFigures] = []
        self.unequal: list[DamagedTensor] = []
        self.refusal = ""

    def add_block(self, index: int) -> None:
        """Compare block `index` of both models."""
        groups = self.prover.ensure_proposals(index, self.hidden)
        blocks = self.reference.block(index), self.checkpoint.block(index)
        fold = match_fold(*blocks, groups)
        prefix, source = self.reference.blocks[index], self.pair.checkpoint.source
        relative: dict[str, float] = {}
        quantized = quantized_linears(self.pair.checkpoint, index)
        for name in quantized:
            before, after = (weight_of(block, name).data.float() for block in blocks)
            scale = source.quantized(self.checkpoint.files.module(f"{prefix}.{name}")).scale
            figures = linear_figures(
                f"{prefix}.{name}", pattern(name), after, fold.expected(name, before), scale
            )
            relative[name] = figures.relative
            self.linears.append(figures)
        self._add_folds(prefix, fold, relative)
        actual = dict(blocks[1].named_parameters())
        for name, before in blocks[0].named_parameters():
            module, _, leaf = name.rpartition(".")
            if leaf != "weight" or module not in (*quantized, *fold.norms):
                self._add_equal(
                    f"{prefix}.{name}", *_expected(name, before.data, fold), actual[name]
                )

    def _add_folds(self, prefix: str, fold: BlockFold, relative: dict[str, float]) -> None:
        for absorber, group in fold.norms.items():
            readers = tuple(f"{prefix}.{name}" for name in group.readers)
            columns = fold.columns[group.readers[0]]
            self.folds.append(
                norm_figures(f"{prefix}.{absorber}", pattern(absorber), readers, columns)
            )
        for absorber, group in fold.linears.items():
            if absorber in relative and group.readers[0] in relative:
                self._add_pair(prefix, absorber, group, fold, relative)

    def _add_pair(
        self,
        prefix: str,
        absorber: str,
        group: ScaleGroup,
        fold: BlockFold,
        relative: dict[str, float],
    ) -> None:
        reader = group.readers[0]
        assert group.rows is not None
        self.folds.append(
            pair_figures(
                (f"{prefix}.{absorber}", pattern(absorber), f"{prefix}.{reader}"),
                fold.rows[absorber],
                fold.columns[reader],
                group.rows,
                (relative[absorber], relative[reader]),
            )
        )

    def add_outer(self) -> None:
        """Compare all text parameters outside the blocks; both store them in 16-bit."""
        files = self.checkpoint.files
        names = set(files.names())
        for name in self.reference.outer_names():
            module = name.removesuffix(".weight")
            if name not in names or self.pair.checkpoint.source.is_quantized(files.module(module)):
                continue
            self._add_equal(name, self.reference.files.read(name), ALIKE, files.read(name))

    def _add_equal(self, name: str, expected: Tensor, bound: float, actual: Tensor) -> None:
        """Note a tensor whose relative difference exceeds `bound`."""
        if not expected.is_floating_point() or expected.shape != actual.shape:
            return
        expected = expected.float()
        apart = (actual.float() - expected).abs_()
        size = float(expected.square().mean().sqrt()) + 1e-30
        error = float(apart.square().mean().sqrt()) / size
        one = bound <= ALIKE and bool((apart > ELEMENT * (expected.abs() + size)).any())
        if error > bound or one:
            reason = f"it is stored in 16-bit and {error:.2%} from the reference's"
            self.unequal.append(DamagedTensor(name, reason))

    def damaged(self) -> list[DamagedTensor]:
        """The damaged tensors; a norm stands for its readers."""
        linears = damaged_linears(self.linears) if self.linears else []
        if len(linears) > MOST * len(self.linears) and len(self.linears) > 2:
            self.refusal = (
                f"{len(linears)} of {len(self.linears)} linears are not the reference's up to a "
                "scale of rows and columns: it is another model, or the weights were rotated. "
                "Give the reference that the checkpoint was made from."
            )
            return []
        broken = {each.name for each in linears}
        folds = damaged_folds(self.folds, broken)
        norms = {each.name for each in folds}
        behind = {
            reader
            for each in self.folds
            if f"{each.absorber}.weight" in norms
            for reader in each.readers
        }
        return [*folds, *(each for each in linears if each.name not in behind), *self.unequal]


def _expected(name: str, before: Tensor, fold: BlockFold) -> tuple[Tensor, float]:
    """An unquantized parameter with the checkpoint's scales, and how far it may be from it."""
    module, _, leaf = name.rpartition(".")
    matched = module in fold.rows
    if leaf == "weight" and before.ndim == 2:
        return fold.expected(module, before.float()), ALIKE
    if leaf == "bias" and matched:
        return before.float() * fold.rows[module], MATCHED
    if leaf == "bias" and module in fold.norms:
        group = fold.norms[module]
        assert group.rows is not None
        columns = fold.columns[group.readers[0]]
        scale = torch.ones(len(before), device=before.device).index_copy(0, group.rows, columns)
        return before.float() / scale, ALIKE
    return before, ALIKE
