"""What to do about the damage: changes to a checkpoint, each with the KL that it would leave.

What is kept at 16 bits is measured, on the windows that the damage was measured on; smaller groups
are estimated from plain rounding. A block that stands out was rather written wrongly than rounded
badly: that is said first.
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
from salient.validate.model_pair import ModelPair

from .block_damage import divergences
from .mixing import Mixed, Mixer, Windows, coded
from .result import DamageResult, Suggestion

MOST = 0.1  # of the blocks that may be kept at 16 bits
COVERED = 0.5  # of the KL that they are to account for
STANDS_OUT = 8  # times the median of the other blocks: no block is that much harder to round
NOTICED = 1e-3  # nats; less is nothing to mend


@dataclass(frozen=True)
class Option:
    """Parts of the checkpoint kept at 16 bits: whole blocks, or kinds of linears in all blocks.

    named: what is kept, in words   skip: what to give --skip   weights: how many codes it replaces
    """

    named: str
    skip: tuple[str, ...]
    weights: int
    blocks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """The suggestion in words."""
        asked = " ".join(f"--skip {shlex.quote(pattern)}" for pattern in self.skip)
        return f"keep {self.named} at 16 bits ({asked})"

    def left_as_codes(self, mixed: Mixed, name: str, doubts: set[str]) -> list[str] | None:
        """The linears of block `name` that stay codes; None if the block stays as it is."""
        if name in self.blocks:
            return []
        if name in doubts or not set(self.kinds) & mixed.kinds.keys():
            return None
        return [linear for linear in mixed.codes if pattern(linear) not in self.kinds]


def options(pair: ModelPair, damage: DamageResult) -> list[Option]:
    """What is worth measuring, by what `measure_damage` found."""
    sizes, kl = _codes(pair), damage.blocks
    order = sorted(kl, key=kl.__getitem__, reverse=True)
    counts = {1, min(math.ceil(MOST * len(order)), _covering([kl[name] for name in order]))}
    found = []
    for count in sorted(counts):
        worst = tuple(order[:count])
        named = worst[0] if count == 1 else f"the {count} worst blocks"
        weights = sum(number for (block, _), number in sizes.items() if block in worst)
        found.append(Option(named, tuple(f"{name}.*" for name in worst), weights, blocks=worst))
    if damage.kinds:
        skip, kinds = worst_kinds(damage.kinds, damage.together)
        weights = sum(number for (_, kind), number in sizes.items() if kind in kinds)
        found.append(Option(", ".join(skip), skip, weights, kinds=kinds))
    return [option for option in found if option.weights]


def _covering(kl: list[float]) -> int:
    """How many of the blocks, the worst first, make up COVERED of the sum."""
    left = COVERED * sum(kl)
    for count, value in enumerate(kl, 1):
        left -= value
        if left <= 0:
            return count
    return len(kl)


def worst_kinds(
    kl: dict[str, float], together: list[list[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What to give --skip to keep the worst kinds, and which they are.

    Engines hold linears that read one input as one matrix, and all experts as one stack: what is
    together is kept together.
    """
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for kind in kl:
        stem, star, _ = kind.partition("*")
        if star:
            found[f"{stem}*",] = tuple(k for k in kl if k.startswith(stem))
        else:
            names = next((those for those in together if kind in those), [kind])
            alike = tuple(k for k in kl if k in names)
            found[alike] = alike
    return max(found.items(), key=lambda item: sum(kl[kind] for kind in item[1]))


def _codes(pair: ModelPair) -> Counter[tuple[str, str]]:
    """(block, kind) -> how many of its weights are codes."""
    found: Counter[tuple[str, str]] = Counter()
    skeleton = pair.checkpoint.skeleton
    for index, block in enumerate(skeleton.blocks):
        linears = skeleton.linears(index)
        for name in coded(pair.checkpoint, index):
            found[block, pattern(name)] += linears[name].weight.numel()
    return found


def measure_options(
    pair: ModelPair, ids: Tensor, wanted: list[Option], doubts: set[str], progress: Progress
) -> list[float]:
    """KL (nats a token) of the checkpoint with each of the options, on `ids` [windows, tokens].

    In the blocks of `doubts` linears cannot be told apart: there an option of kinds keeps none.
    """
    if not wanted:
        return []
    mixer = Mixer(pair, ids)
    mine, theirs = (Windows(skeleton, ids) for skeleton in pair.skeletons)
    clean, whole = mine.start, theirs.start
    kept: dict[int, Tensor] = {}
    names = pair.reference.skeleton.blocks
    for index, name in enumerate(names):
        progress(index, len(names), f"{name}: what 16 bits would mend", "")
        mixed = mixer.block(index, clean)
        for number, option in enumerate(wanted):
            codes = option.left_as_codes(mixed, name, doubts)
            if codes is not None:
                with mixed.holding(codes) as block:
                    kept[number] = mine.run(index, block, kept.get(number, whole))
            elif number in kept:
                kept[number] = theirs.run(index, mixed.checkpoint, kept[number])
        clean = mine.run(index, mixed.reference, clean)
        whole = theirs.run(index, mixed.checkpoint, whole)
    model = pair.checkpoint.skeleton
    variants = {number: (model, hidden) for number, hidden in kept.items()}
    kl = divergences(ids, pair.reference.skeleton, clean, variants)
    return [kl[number] for number in range(len(wanted))]


def suggestions(
    pair: ModelPair, damage: DamageResult, wanted: list[Option], kl: list[float], *, unlike: bool
) -> list[Suggestion]:
    """All suggestions; a `kl` of None: what it would leave is not known.

    kl: of the options `wanted`, measured   unlike: whether a text is far from the calibration's
    """
    scheme = pair.checkpoint.source.scheme
    each = 0.0 if scheme is None else (16 - scheme.bits_per_weight) / 8
    found = [Suggestion(what) for what in _damaged(pair, damage)]
    for option, value in zip(wanted, kl, strict=True):
        if value < damage.whole:
            found.append(
                Suggestion(option.what, value, measured=True, bytes=round(option.weights * each))
            )
    if scheme is not None and damage.halved is not None:
        half = Scheme(scheme.group_size // 2, scheme.symmetric, scheme.bits)
        what = f"groups of {half.group_size} (--scheme {half}), by an estimate from plain rounding"
        more = sum(_codes(pair).values()) * (half.bits_per_weight - scheme.bits_per_weight) / 8
        found.append(Suggestion(what, damage.whole * damage.halved, bytes=round(more)))
    if unlike:
        model = shlex.quote(pair.reference.name)
        found.append(
            Suggestion(
                f"calibrate with text like yours (salient quantize {model} --calibration FILE)"
            )
        )
    return found


def _damaged(pair: ModelPair, damage: DamageResult) -> list[str]:
    """What looks written wrongly, not rounded."""
    coded_blocks = {block for block, _ in _codes(pair)}
    kl = {name: value for name, value in damage.blocks.items() if name in coded_blocks}
    mend = (
        f"write the checkpoint again, or run `salient doctor {shlex.quote(pair.checkpoint.name)}`"
    )
    found = []
    worst = max(kl, key=kl.__getitem__, default="")
    others = median([value for name, value in kl.items() if name != worst] or [math.inf])
    if kl and kl[worst] > max(STANDS_OUT * others, COVERED * sum(kl.values()), NOTICED):
        found.append(
            f"{worst} looks damaged, not just rounded: alone it has a KL of {kl[worst]:.3g}, the "
            f"other blocks {others:.2g} (median); {mend}"
        )
    if damage.outside > max(COVERED * damage.whole, NOTICED):
        found.append(
            "the embedding, last norm or head is not the reference's: alone it has a KL of "
            f"{damage.outside:.3g}; {mend}"
        )
    return found
