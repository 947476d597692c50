"""The KL that each block and each kind of linear of the checkpoint causes, in one pass.

The KL of a block is that of the reference with this one block of the checkpoint; the KL of a kind
that of the reference with all linears of the kind from the checkpoint. Every such variant has its
own hidden states, which start from the reference's where it first differs; each block's weights are
read once for each side.
"""

import math
from typing import Any

import torch
from torch import Tensor

from salient.core.metrics import compare_logits
from salient.core.progress import Progress
from salient.core.quant import quantize
from salient.core.scheme import GROUP_SIZES, Scheme
from salient.models.block_call import InputRecorder
from salient.models.skeleton import Skeleton
from salient.validate.likelihood.streaming import WindowStream
from salient.validate.model_pair import ModelPair

from .mixing import Mixed, Mixer
from .result import DamageResult

ROWS = 32  # tokens compared at once: their logits stay in the processor's cache


def measure_damage(pair: ModelPair, ids: Tensor, progress: Progress) -> DamageResult:
    """KL of each part on the windows `ids` [windows, tokens]."""
    variants = _Pass(pair, ids)
    for index, name in enumerate(pair.reference.skeleton.blocks):
        progress(index, len(pair.reference.skeleton.blocks), f"{name}: damage of each part")
        variants.run_block(index, name)
    return variants.result()


class _Pass:
    """The variants' hidden states at the current block: float32 [windows, tokens, width]."""

    def __init__(self, pair: ModelPair, ids: Tensor):
        self.ids, self.skeletons = ids, pair.skeletons
        schemes = pair.checkpoint.source.schemes
        self.scheme = schemes.main if schemes and not schemes.own else None
        self.mixer = Mixer(pair, ids)
        self.mine, self.theirs = (WindowStream(skeleton, ids) for skeleton in pair.skeletons)
        self.clean, self.whole = self.mine.start, self.theirs.start
        same = torch.equal(self.clean, self.whole)
        self.outside = None if same else self.whole
        self.blocks: dict[str, Tensor] = {}
        self.kinds: dict[str, Tensor] = {}
        self.doubts: dict[str, str] = {}
        self.together: dict[tuple[str, ...], None] = {}
        self.halved: dict[tuple[str, str], float] = {}

    def run_block(self, index: int, name: str) -> None:
        """Run all variants through block `index`, and start its own."""
        mixed = self.mixer.block(index, self.clean)
        with InputRecorder(mixed.reference, list(mixed.codes)) as recorder:
            after = self.mine.run(index, mixed.reference, self.clean)
        if self.scheme is not None:
            ratios = halved_errors(mixed, recorder.inputs, self.scheme)
            self.halved |= {(name, kind): ratio for kind, ratio in ratios.items()}
        recorder.inputs.clear()
        damaged = self.theirs.run(index, mixed.checkpoint, self.clean)
        with mixed.exchanged(list(mixed.codes)) as block:
            mixed = mixed.checked(self.mine.run(index, block, self.clean), damaged, after)
        if mixed.doubt:
            self.doubts[name] = mixed.doubt
        self.together |= dict.fromkeys(mixed.together)
        self.whole = self.theirs.run(index, mixed.checkpoint, self.whole)
        for other, hidden in self.blocks.items():
            self.blocks[other] = self.mine.run(index, mixed.reference, hidden)
        self.blocks[name] = damaged
        if self.outside is not None:
            self.outside = self.mine.run(index, mixed.reference, self.outside)
        self._exchange_kinds(index, mixed)
        self.clean = after

    def _exchange_kinds(self, index: int, mixed: Mixed) -> None:
        kinds = {} if mixed.doubt else mixed.kinds
        for kind in {**self.kinds, **kinds}:
            with mixed.exchanged(kinds.get(kind, [])) as block:
                self.kinds[kind] = self.mine.run(index, block, self.kinds.get(kind, self.clean))

    def result(self) -> DamageResult:
        """All KLs, after the last block."""
        judge, model = self.skeletons
        outside = self.clean if self.outside is None else self.outside
        variants = {("whole", ""): (model, self.whole), ("outside", ""): (model, outside)}
        variants |= {("blocks", name): (judge, hidden) for name, hidden in self.blocks.items()}
        variants |= {("kinds", name): (judge, hidden) for name, hidden in self.kinds.items()}
        kl = divergences(self.ids, judge, self.clean, variants)
        blocks, kinds = (
            {name: value for (what, name), value in kl.items() if what == wanted}
            for wanted in ("blocks", "kinds")
        )
        together = [list(names) for names in self.together]
        halved = _halved(self.halved, blocks, kinds)
        whole, outside = kl["whole", ""], kl["outside", ""]
        return DamageResult(whole, outside, blocks, kinds, together, self.doubts, halved)


def divergences(
    ids: Tensor, judge: Skeleton, clean: Tensor, variants: dict[Any, tuple[Skeleton, Tensor]]
) -> dict[Any, float]:
    """KL(reference || variant), nats a token, on `ids` [windows, tokens].

    clean: the reference's last hidden states [windows, tokens, width]
    variants: name -> the skeleton that makes logits, and its last hidden states

    Two windows' logits are in memory at a time.
    """
    sums = dict.fromkeys(variants, 0.0)
    for row, window in enumerate(ids):
        reference = judge.logits(window[None], clean[row : row + 1])[0].float()
        log = reference.log_softmax(-1)
        likely = log.exp()
        for name, (skeleton, hidden) in variants.items():
            logits = skeleton.logits(window[None], hidden[row : row + 1])[0].float()
            kl = _divergence(log, likely, logits)
            if not math.isfinite(kl):  # a masked token: 0 log 0
                kl = compare_logits(reference, logits, window).kl_sum
            sums[name] += kl
    return {name: max(kl, 0.0) / ids.numel() for name, kl in sums.items()}


def _divergence(log: Tensor, likely: Tensor, logits: Tensor) -> float:
    """The sum over tokens of KL, `log` and `likely` [tokens, vocab] being the reference's."""
    total = 0.0
    parts = (part.split(ROWS) for part in (log, likely, logits))
    for reference, weight, logits_part in zip(*parts, strict=True):
        lost = logits_part.log_softmax(-1).sub_(reference).mul_(weight)
        total -= float(lost.sum(dtype=torch.float64))
    return total


def halved_errors(mixed: Mixed, inputs: dict[str, Tensor], scheme: Scheme) -> dict[str, float]:
    """Kind -> squared output error by plain rounding at half the group size, over that at this one.

    inputs: by linear, [tokens, in]. The error of a channel's weights counts by the channel's mean
    square. Kinds without tokens, in doubt, or whose width the half does not divide are left out.
    """
    half = Scheme(scheme.group_size // 2, scheme.symmetric, scheme.bits)
    if half.group_size not in GROUP_SIZES or mixed.doubt:
        return {}
    ratios = {}
    for kind, names in mixed.kinds.items():
        sums = [0.0, 0.0]
        for name in names:
            weight = mixed.reference.get_parameter(f"{name}.weight").data
            if name not in inputs or not len(inputs[name]):
                continue
            rounded, squares = mixed.scales.put_in(name, weight), inputs[name].square().mean(0)
            for at, each in enumerate((scheme, half)):
                error = quantize(rounded, each, name=name).dequantize().sub_(rounded)
                error = mixed.scales.taken_out(name, error)
                sums[at] += float((error.square_().sum(0) * squares).sum())
        if sums[0] > 0:
            ratios[kind] = sums[1] / sums[0]
    return ratios


def _halved(
    ratios: dict[tuple[str, str], float], blocks: dict[str, float], kinds: dict[str, float]
) -> float | None:
    """The mean of `ratios` (block, kind), each by the KL of its block and its kind."""
    weights = {at: max(blocks[at[0]], 0.0) * max(kinds[at[1]], 0.0) for at in ratios}
    total = sum(weights.values())
    if total <= 0:
        return None
    return sum(weight * ratios[at] for at, weight in weights.items()) / total
