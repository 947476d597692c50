"""The pass of `--bits-per-weight`: what each format costs the end loss, and which are best.

A few calibration samples pass the 16-bit blocks forward, their gradients back (as in
backward_pass.py, but nothing is quantized). Linears that read one input, and all experts of a
block, are one set with one format: engines fuse them. The result is a file of the partial folder
and a line of the journal, so that a resumed run has the same formats.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from salient.core.evidence import AllocationEvidence
from salient.core.records import from_json, to_json
from salient.core.scheme import Scheme
from salient.formats.writer import write_json
from salient.models.block_call import BlockCall
from salient.models.proof import ScaleGroup
from salient.models.scale_groups import GroupProver

from .activation_store import ActivationStore
from .backward_pass import SEED
from .bit_allocation import Allocation, Choice, allocate
from .block import Parameters
from .block_statistics import BlockStatistics, groups_to_gather
from .block_step import parameters_of
from .fisher import GradientGatherer, gradient_fault
from .format_damage import rounding_damage
from .heldout import JUDGED
from .mixed_scheme import UNQUANTIZED, MixedScheme, bits_of
from .results import OutputTarget
from .run_state import HIDDEN_DTYPE, QuantizeRun
from .search import best_scale, sample_weights
from .statistics import InputStats
from .token_streams import GradientStream, batches_of

NAME = "allocation.json"
SAMPLES, TOKENS = 16, 256  # that the damages are measured on: the first tokens of each
CURVE_POINTS = 48  # of the curve, that evidence has


@dataclass(frozen=True)
class LinearSet:
    """Linears with one format, by their keys (`set_key`).

    weights: of all   choices: the formats that fit, by name
    schemes: the same formats, None for 16-bit
    """

    keys: tuple[str, ...]
    weights: int
    choices: tuple[Choice, ...]
    schemes: dict[str, Scheme | None]


def set_key(linear: str) -> str:
    """The linear's name; of an expert, the stack of experts that it is in."""
    home, stack, _ = linear.partition(".experts.")
    return f"{home}.experts" if stack else linear


def allocated(run: QuantizeRun, mixed: MixedScheme) -> tuple[QuantizeRun, AllocationEvidence]:
    """`run` with the formats that `mixed` gives: measured, or as the unfinished run has them."""
    path = run.pieces.folder / NAME
    if NAME in run.journal.files:
        evidence = from_json(AllocationEvidence, json.loads(path.read_text()))
    else:
        run.watch.begin(())
        sets = measured_sets(run, mixed)
        evidence = _evidence(sets, mixed)
        write_json(path, to_json(evidence))
        run.finish([path], None)
    target = target_of(run.target, evidence, mixed)
    return replace(run, target=target, pieces=replace(run.pieces, target=target)), evidence


def measured_sets(run: QuantizeRun, mixed: MixedScheme) -> list[LinearSet]:
    """Every set of linears with the damage of each format, from the last block to the first."""
    skeleton, blocks = run.skeleton, run.skeleton.blocks
    picked = torch.linspace(0, len(run.samples) - 1, min(SAMPLES, len(run.samples)))
    ids = run.samples[picked.round().long(), :TOKENS]
    shapes = [(*batch.shape, skeleton.width) for batch in batches_of(ids)]
    sets: list[LinearSet] = []
    with closing(ActivationStore(run.pieces.folder, len(blocks), shapes, HIDDEN_DTYPE)) as store:
        stream, prober = GradientStream(skeleton, ids, store), GroupProver(skeleton, ids)
        calls = skeleton.calls(ids[:1, :JUDGED])[1]
        skeleton.forget_outer()
        for index, name in enumerate(blocks):
            run.show(0, f"{name}: passing tokens through")
            stream.record(index)
            stream.forward(index, skeleton.block(index))
        stream.turn(SEED)
        skeleton.forget_outer()
        for index in reversed(range(len(blocks))):
            run.show(0, f"{blocks[index]}: measuring formats")
            run.watch.check()
            hidden = store.read(index, 0).float()
            groups = prober.ensure_proposals(index, hidden)
            first = hidden[:1, :JUDGED], calls[index]
            sets += _block_sets(run, index, mixed, groups, stream, first)
    return sets


def _block_sets(
    run: QuantizeRun,
    index: int,
    mixed: MixedScheme,
    groups: Sequence[ScaleGroup],
    stream: GradientStream,
    first: tuple[Tensor, BlockCall],
) -> list[LinearSet]:
    """The sets of a block; moves the gradients over it. `first`: a few tokens to try it with."""
    name, target = run.skeleton.blocks[index], run.local_target(index)
    block = run.skeleton.block(index)
    wanted = groups_to_gather(groups, target.quantized)
    if gradient_fault(block, *first):
        damages = dict[str, dict[str, float]]()
    elif not wanted:
        stream.back(index, block)
        return []
    else:
        gatherer = GradientGatherer(block, target.quantized)
        stats = BlockStatistics(name, block, wanted, stream.passes(index), gatherer)
        parameter = parameters_of(run, index, block)
        with run.skeleton.source.reading():
            meter = _DamageMeter(block, parameter, stats, mixed, target)
            damages = {n: d for group in wanted for n, d in meter.damages(group)}
        stream.leave()
    joined: dict[str, list[str]] = {}
    for names in (names for group in wanted for names in group.inputs):
        for linear in target.quantized.intersection(names):
            home = set_key(names[0]) if set_key(linear) == linear else set_key(linear)
            joined.setdefault(home, []).append(linear)
    return [_set(block, name, linears, damages, mixed) for linears in joined.values()]


def _set(
    block: nn.Module,
    prefix: str,
    linears: list[str],
    damages: dict[str, dict[str, float]],
    mixed: MixedScheme,
) -> LinearSet:
    """One set of a block; without gradients, the finest format of the budget is its only one."""
    shapes = {name: block.get_parameter(f"{name}.weight").shape for name in linears}
    weights = sum(shape.numel() for shape in shapes.values())
    schemes = mixed.formats({name: shape[1] for name, shape in shapes.items()})
    if not damages:
        fitting = [n for n, s in schemes.items() if bits_of(s) <= mixed.bits_per_weight]
        only = max(fitting or schemes, key=lambda n: bits_of(schemes[n]) * (1 if fitting else -1))
        schemes = {only: schemes[only]}
    choices = tuple(
        Choice(
            format,
            weights * bits_of(scheme),
            sum(damages[name].get(format, 0.0) for name in linears if name in damages),
        )
        for format, scheme in schemes.items()
    )
    keys = tuple(dict.fromkeys(set_key(f"{prefix}.{name}") for name in sorted(linears)))
    return LinearSet(keys, weights, choices, schemes)


@dataclass(frozen=True)
class _DamageMeter:
    """The damage of every allowed format of the linears of a block."""

    block: nn.Module
    parameter: Parameters
    stats: BlockStatistics
    mixed: MixedScheme
    target: OutputTarget

    def damages(self, group: ScaleGroup) -> Iterator[tuple[str, dict[str, float]]]:
        """Linear -> format -> damage, with the scale that a search finds for the group."""
        base = next((names[0] for names in group.inputs if "experts" not in names[0]), "")
        base = base or group.inputs[0][0]
        stats = self.stats.of(base)
        scale = self._scale(group, base, stats)
        for names in group.inputs:
            stats = self.stats.of(names[0])
            for name in names:
                if name in self.target.quantized:
                    yield name, self._of(name, stats, scale)

    def _of(self, name: str, stats: InputStats, scale: Tensor) -> dict[str, float]:
        weight = self.parameter(f"{name}.weight")
        own, dtype, tokens = stats.of(name), self.target.dtype, stats.tokens
        return {
            format: rounding_damage(weight, own, scale, scheme, tokens=tokens, dtype=dtype)
            for format, scheme in self.mixed.formats({name: weight.shape[1]}).items()
            if scheme is not None
        }

    def _scale(self, group: ScaleGroup, base: str, stats: InputStats) -> Tensor:
        """The best scale of the readers of the input `base`, by one of the formats."""
        names = next(names for names in group.inputs if names[0] == base)
        names = [name for name in names if name in self.target.quantized]
        one = torch.ones_like(stats.mean_abs)
        width = len(one)
        schemes = [s for s in self.mixed.formats({base: width}).values() if s is not None]
        if not group.proven or group.rows is None or not names or not schemes:
            return one
        weights = [self.parameter(f"{name}.weight") for name in names]
        rows, scheme = sum(map(len, weights)), schemes[0]
        sample = sample_weights(((w, 1.0) for w in weights), rows, width, scheme.group_size)
        return best_scale(sample, stats, scheme, self.target.dtype, group.tied_rows).values


def _evidence(sets: Sequence[LinearSet], mixed: MixedScheme) -> AllocationEvidence:
    weights = sum(one.weights for one in sets)
    allocation = allocate([one.choices for one in sets], mixed.bits_per_weight * weights)
    formats = {
        key: str(one.schemes[choice.format] or UNQUANTIZED)
        for one, choice in zip(sets, allocation.choices, strict=True)
        for key in one.keys
    }
    return AllocationEvidence(
        budget=mixed.bits_per_weight,
        allowed=mixed.allowed,
        symmetric=mixed.symmetric,
        bits_per_weight=allocation.bits / weights,
        predicted_kl=allocation.damage,
        formats=dict(sorted(formats.items())),
        uniform={name: _uniform(sets, name) for name in mixed.allowed},
        curve=_thinned(allocation, weights),
    )


def _uniform(sets: Sequence[LinearSet], format: str) -> tuple[float, float]:
    """Bits a weight and damage if all have `format`, or the next finer one that fits."""
    picked = [
        next((c for c in one.choices if c.format == format), None)
        or min(one.choices, key=lambda c: c.bits)
        for one in sets
    ]
    weights = sum(one.weights for one in sets)
    return sum(c.bits for c in picked) / weights, sum(c.damage for c in picked)


def _thinned(allocation: Allocation, weights: int) -> tuple[tuple[float, float], ...]:
    """At most CURVE_POINTS of the curve, in bits a weight."""
    curve = allocation.curve
    picks = torch.linspace(0, len(curve) - 1, min(CURVE_POINTS, len(curve))).round().long()
    return tuple((curve[i][0] / weights, max(curve[i][1], 0.0)) for i in picks.tolist())


def target_of(
    target: OutputTarget, evidence: AllocationEvidence, mixed: MixedScheme
) -> OutputTarget:
    """`target` with the formats of `evidence`; the most frequent scheme is the main one."""
    known = {str(scheme): scheme for scheme in mixed.schemes}
    formats = {name: evidence.formats.get(set_key(name)) for name in target.quantized}
    schemes = {name: known[label] for name, label in formats.items() if label in known}
    main = Counter(schemes.values()).most_common(1)[0][0] if schemes else target.scheme
    return replace(
        target,
        scheme=main,
        quantized=frozenset(n for n, label in formats.items() if label != UNQUANTIZED),
        own={name: schemes[name] for name in sorted(schemes) if schemes[name] != main},
    )
