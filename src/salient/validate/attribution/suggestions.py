"""Suggested changes to a checkpoint, each with the KL that it would leave.

Unquantized parts are measured, on the windows that the damage was measured on; smaller groups are
estimated from plain rounding. A block that stands out was probably written wrongly, not rounded
badly: that comes first.
"""

import math
import shlex
from collections import Counter
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from salient.core.progress import Progress
from salient.core.scheme import Scheme
from salient.models.tracing import pattern
from salient.validate.likelihood.streaming import WindowStream
from salient.validate.model_pair import ModelPair

from .block_damage import divergences
from .mixing import Mixed, Mixer, quantized_linears
from .result import DamageResult, Suggestion

MOST = 0.1  # of the blocks that may stay in 16-bit
COVERED = 0.5  # of the KL that they are to account for
STANDS_OUT = 8  # times the median of the other blocks: no block is that much harder to round
NOTICED = 1e-3  # nats; less needs no fix


@dataclass(frozen=True)
class Option:
    """Unquantized parts of the checkpoint: whole blocks, or kinds of linears in all blocks.

    label: the parts as text   skip: values of --skip   weights: how many codes it replaces
    """

    label: str
    skip: tuple[str, ...]
    weights: int
    blocks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """The suggestion as text."""
        arguments = " ".join(f"--skip {shlex.quote(pattern)}" for pattern in self.skip)
        return f"keep {self.label} in 16-bit ({arguments})"

    def quantized_left(self, mixed: Mixed, name: str, doubts: set[str]) -> list[str] | None:
        """The linears of block `name` that stay quantized; None if the block does not change."""
        if name in self.blocks:
            return []
        if name in doubts or not set(self.kinds) & mixed.kinds.keys():
            return None
        return [linear for linear in mixed.codes if pattern(linear) not in self.kinds]


def options(pair: ModelPair, damage: DamageResult) -> list[Option]:
    """The options worth measuring, by the damage of each part."""
    sizes, kl = _quantized_weights(pair), damage.blocks
    order = sorted(kl, key=kl.__getitem__, reverse=True)
    counts = {1, min(math.ceil(MOST * len(order)), _covering([kl[name] for name in order]))}
    candidates = []
    for count in sorted(counts):
        worst = tuple(order[:count])
        label = worst[0] if count == 1 else f"the {count} worst blocks"
        weights = sum(number for (block, _), number in sizes.items() if block in worst)
        candidates.append(
            Option(label, tuple(f"{name}.*" for name in worst), weights, blocks=worst)
        )
    if damage.kinds:
        skip, kinds = worst_kinds(damage.kinds, damage.together)
        weights = sum(number for (_, kind), number in sizes.items() if kind in kinds)
        candidates.append(Option(", ".join(skip), skip, weights, kinds=kinds))
    return [option for option in candidates if option.weights]


def _covering(kl: list[float]) -> int:
    """How many of the blocks, the worst first, sum up to COVERED of the total."""
    left = COVERED * sum(kl)
    for count, value in enumerate(kl, 1):
        left -= value
        if left <= 0:
            return count
    return len(kl)


def worst_kinds(
    kl: dict[str, float], together: list[list[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The values of --skip for the worst kinds, and the kinds.

    Engines store linears that read one input as one matrix, and all experts as one stack: such
    kinds are skipped together.
    """
    groups: dict[tuple[str, ...], tuple[str, ...]] = {}
    for kind in kl:
        stem, star, _ = kind.partition("*")
        if star:
            groups[f"{stem}*",] = tuple(k for k in kl if k.startswith(stem))
        else:
            names = next((those for those in together if kind in those), [kind])
            alike = tuple(k for k in kl if k in names)
            groups[alike] = alike
    return max(groups.items(), key=lambda item: sum(kl[kind] for kind in item[1]))


def _quantized_weights(pair: ModelPair) -> Counter[tuple[str, str]]:
    """(block, kind) -> number of quantized weights."""
    counts: Counter[tuple[str, str]] = Counter()
    skeleton = pair.checkpoint.skeleton
    for index, block in enumerate(skeleton.blocks):
        linears = skeleton.linears(index)
        for name in quantized_linears(pair.checkpoint, index):
            counts[block, pattern(name)] += linears[name].weight.numel()
    return counts


def measure_options(
    pair: ModelPair, ids: Tensor, wanted: list[Option], doubts: set[str], progress: Progress
) -> list[float]:
    """KL (nats a token) of the checkpoint with each of the options, on `ids` [windows, tokens].

    In the blocks of `doubts` linears cannot be told apart: an option of kinds does not apply there.
    """
    if not wanted:
        return []
    mixer = Mixer(pair, ids)
    mine, theirs = (WindowStream(skeleton, ids) for skeleton in pair.skeletons)
    clean, whole = mine.start, theirs.start
    changed: dict[int, Tensor] = {}
    names = pair.reference.skeleton.blocks
    for index, name in enumerate(names):
        progress(index, len(names), f"{name}: effect of 16-bit parts")
        mixed = mixer.block(index, clean)
        for number, option in enumerate(wanted):
            codes = option.quantized_left(mixed, name, doubts)
            if codes is not None:
                with mixed.exchanged(codes) as block:
                    changed[number] = mine.run(index, block, changed.get(number, whole))
            elif number in changed:
                changed[number] = theirs.run(index, mixed.checkpoint, changed[number])
        clean = mine.run(index, mixed.reference, clean)
        whole = theirs.run(index, mixed.checkpoint, whole)
    model = pair.checkpoint.skeleton
    variants = {number: (model, hidden) for number, hidden in changed.items()}
    kl = divergences(ids, pair.reference.skeleton, clean, variants)
    return [kl[number] for number in range(len(wanted))]


def suggestions(
    pair: ModelPair, damage: DamageResult, wanted: list[Option], kl: list[float], *, unlike: bool
) -> list[Suggestion]:
    """All suggestions; a `kl` of None: what it would leave is not known.

    kl: of the options `wanted`, measured   unlike: whether a text is far from the calibration's
    """
    scheme = pair.checkpoint.source.scheme
    bits = pair.checkpoint.source.bits_per_weight or 16.0
    suggested = [Suggestion(what) for what in _damaged(pair, damage)]
    suggested += [
        Suggestion(option.what, value, measured=True, bytes=round(option.weights * (16 - bits) / 8))
        for option, value in zip(wanted, kl, strict=True)
        if value < damage.whole
    ]
    if scheme is not None and damage.halved is not None:
        half = Scheme(scheme.group_size // 2, scheme.symmetric, scheme.bits)
        what = f"groups of {half.group_size} (--scheme {half}), by an estimate from plain rounding"
        more = sum(_quantized_weights(pair).values()) * (half.bits_per_weight - bits) / 8
        suggested.append(Suggestion(what, damage.whole * damage.halved, bytes=round(more)))
    if unlike:
        command = f"salient quantize {shlex.quote(pair.reference.name)} --calibration FILE"
        suggested.append(Suggestion(f"calibrate with text like yours ({command})"))
    return suggested


def _damaged(pair: ModelPair, damage: DamageResult) -> list[str]:
    """Parts that look written wrongly, not rounded."""
    quantized_blocks = {block for block, _ in _quantized_weights(pair)}
    kl = {name: value for name, value in damage.blocks.items() if name in quantized_blocks}
    fix = f"write the checkpoint again, or run `salient doctor {shlex.quote(pair.checkpoint.name)}`"
    damaged = []
    worst = max(kl, key=kl.__getitem__, default="")
    others = median([value for name, value in kl.items() if name != worst] or [math.inf])
    if kl and kl[worst] > max(STANDS_OUT * others, COVERED * sum(kl.values()), NOTICED):
        damaged.append(
            f"{worst} looks damaged, not just rounded: alone it has a KL of {kl[worst]:.3g}, the "
            f"other blocks {others:.2g} (median); {fix}"
        )
    if damage.outside > max(COVERED * damage.whole, NOTICED):
        damaged.append(
            "the embedding, last norm or head is not the reference's: alone it has a KL of "
            f"{damage.outside:.3g}; {fix}"
        )
    return damaged
