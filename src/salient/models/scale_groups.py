"""Scale groups: linears of a block that may share a scale, and the module that takes the inverse.

AWQ multiplies the input columns of some linears (the readers) by a scale and divides the module
that feeds them (the absorber) by the same scale. That is exact only if the absorber feeds no other
module. No architecture is hard-coded:

1. *Trace* a block run (tracing.py): a tensor with the values of a norm's output, or of some of
   its tokens, is read from that norm, whichever module reads it: linears, routers, experts.
2. *Propose* an absorber. A module with a one-dimensional weight whose output is that input is a
   norm. Otherwise each earlier linear is tested for rows that feed input channels
   (row_matching.py). The proposal for one expert is made for all.
3. *Prove* each proposal: fold a random positive scale into absorber and readers; the block's output
   must not change.

A group that is not proven is not scaled; its refusal names the reason and the module.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .proof import TOLERANCE, FoldProof, ScaleGroup, weight_of
from .row_matching import BlockProbe, feeding_rows
from .skeleton import Skeleton
from .tracing import (
    BlockTrace,
    idle_inputs,
    multiples_of,
    numbers,
    pattern,
    same,
    same_values,
    shared_inputs,
    some_of,
    watch,
)

UNSEEN = "it is not called on text"
TRIES = 3  # experts for which an absorber is sought; the others are taken to be like them


def find_groups(
    block: nn.Module, probe: BlockProbe, proposals: list[ScaleGroup] | None = None
) -> list[ScaleGroup]:
    """The scale groups of `block` (float32 weights), each proven or refused.

    Every linear is in one. `proposals` are the groups of an earlier block of this shape: they are
    proven again here, which saves the search for absorbers.
    """
    watched = watch(block, probe)
    finder = _Finder(block, probe, watched)
    return finder.confirmed(proposals) or finder.all_groups()


class _Finder:
    """Finds the groups of one block that was watched."""

    def __init__(self, block: nn.Module, probe: BlockProbe, watched: BlockTrace):
        self.block, self.probe, self.watched = block, probe, watched
        self.proof = FoldProof(block, probe)
        self.idle = idle_inputs(watched)
        self.position = {name: at for at, (name, _) in enumerate(block.named_modules())}

    def confirmed(self, proposals: list[ScaleGroup] | None) -> list[ScaleGroup] | None:
        """The groups of `proposals` if they hold here too; refused ones stay refused."""
        if proposals is None:
            return None
        inputs = self.watched.inputs
        for names in (names for group in proposals for names in group.inputs):
            there = [inputs[name] for name in names if name in inputs]
            if not all(same(x, there[0]) for x in there):
                return None
        groups = self._all_at_once(proposals)
        return groups and [g if g.proven else replace(g, proof_error=None) for g in groups]

    def _all_at_once(self, groups: list[ScaleGroup]) -> list[ScaleGroup] | None:
        """`groups` with the error of folding all that are proven together; None if that fails."""
        error = self.proof.error([group for group in groups if group.proven])
        if error > TOLERANCE:
            return None
        return [replace(g, proof_error=error) if g.proven else g for g in groups]

    def all_groups(self) -> list[ScaleGroup]:
        """Every group of the block: absorbers are read before their readers."""
        clusters = [self._in_order(names) for names in shared_inputs(self.watched.inputs)]
        groups: list[ScaleGroup] = []
        alike: dict[Any, list[ScaleGroup]] = {}  # those of experts, by what they have in common
        taken: set[str] = set()
        for names in [*clusters, *self.idle]:
            if names[0] in taken:
                continue
            kind = pattern(names[0]), weight_of(self.block, names[0]).shape
            free = [cluster for cluster in clusters if cluster[0] not in taken]
            tried = alike.get(kind, [])
            known = next((group for group in tried if group.proven), None)
            if tried and (len(tried) >= TRIES or names in self.idle):
                known = known or tried[0]
            group = self._find(names, free) if known is None else _like(known, names)
            taken.update(group.readers)
            single = "*" in kind[0] and len(group.inputs) == 1
            alike.setdefault(kind, []).append(group) if single else groups.append(group)
        for similar in alike.values():
            groups += self._prove_alike(similar)
        groups += [
            ScaleGroup(((name,),), refusal=f"it runs {times} times in the block")
            for name, times in self.watched.repeated.items()
        ]
        return self._all_at_once(groups) or self._one_after_another(groups)

    def _one_after_another(self, groups: list[ScaleGroup]) -> list[ScaleGroup]:
        """`groups` without those that fail in combination with the others."""
        accepted: list[ScaleGroup] = []
        for number, group in enumerate(groups):
            if group.proven and self.proof.error([*accepted, group]) <= TOLERANCE:
                accepted.append(group)
            elif group.proven:
                groups[number] = replace(
                    group, refusal="it fails in combination with the block's other groups"
                )
        return groups

    def _in_order(self, names: Iterable[str]) -> tuple[str, ...]:
        """`names` as the block has them, whoever ran first."""
        return tuple(sorted(names, key=self.position.__getitem__))

    def _prove_alike(self, groups: list[ScaleGroup]) -> list[ScaleGroup]:
        """The group of one expert holds for all, also for those whose own search failed.

        A single token reaches few experts: their rows are matched on the others.
        """
        model = next((group for group in groups if group.proven), None)
        if model is not None:
            likened = [_like(model, group.inputs[0]) for group in groups]
            if self.proof.error(likened) <= TOLERANCE:
                groups = likened
            else:
                groups = [
                    g if g is model else self._find(g.inputs[0], [g.inputs[0]]) for g in groups
                ]
        return sorted(groups, key=lambda group: self.position[group.readers[0]])

    def _find(self, names: tuple[str, ...], clusters: list[tuple[str, ...]]) -> ScaleGroup:
        """The group of `names` with the first absorber that is proven, or the last refusal."""
        inputs, outputs = self.watched.inputs, self.watched.outputs
        if names[0] not in inputs:
            return ScaleGroup((names,), refusal=UNSEEN, called=False)
        ran = list(outputs)
        before = ran[: ran.index(names[0])] if names[0] in outputs else ran
        refused = None
        for name in before:
            if weight_of(self.block, name).ndim == 1:
                refused = self._absorbed_by_norm(name, names, clusters) or refused
                if refused is not None and refused.proven:
                    return refused
        return refused or self._absorbed_by_linear(names, before)

    def _absorbed_by_norm(
        self, norm: str, names: tuple[str, ...], clusters: list[tuple[str, ...]]
    ) -> ScaleGroup | None:
        """All that reads the output of `norm`, if `names` do; None if they do not."""
        inputs, out = self.watched.inputs, self.watched.outputs[norm]
        x = inputs[names[0]]
        if x.shape[-1] != out.shape[-1]:  # heads may share a norm
            return self._prove_norm(norm, [names]) if same_values(x, out) else None
        best = None
        for reads in (some_of, multiples_of):
            if reads(x, out):
                group = self._prove_norm(norm, [c for c in clusters if reads(inputs[c[0]], out)])
                if group.proven or reads is some_of:  # multiples may be so by chance
                    best = group
            if best is not None and best.proven:
                break
        return best

    def _prove_norm(self, norm: str, readers: list[tuple[str, ...]]) -> ScaleGroup:
        """The group of `readers`, and of idle ones like them, proven or refused."""
        kinds = {pattern(name) for names in readers for name in names}
        readers = [*readers, *(idle for idle in self.idle if pattern(idle[0]) in kinds)]
        width = self.watched.inputs[readers[0][0]].shape[-1]
        weight = weight_of(self.block, norm)
        rows = torch.arange(width, device=weight.device) % len(weight)
        readers.sort(key=lambda names: self.position[names[0]])
        group = ScaleGroup(tuple(readers), norm, rows)
        unseen = self._unseen(kinds, width)
        if unseen:
            return replace(group, refusal=f"{unseen!r} is not called on text and may read it, too")
        plain = self.proof.of(group)
        return plain if plain.proven else self.proof.of(replace(group, offset=1.0))

    def _unseen(self, kinds: set[str], width: int) -> str | None:
        """A linear that did not run, is not like those of `kinds`, and would fit `width`."""
        ran = kinds | {pattern(name) for name in self.watched.inputs}
        unseen = [n for idle in self.idle for n in idle if pattern(n) not in ran]
        return next((n for n in unseen if weight_of(self.block, n).shape[1] == width), None)

    def _absorbed_by_linear(self, names: tuple[str, ...], before: list[str]) -> ScaleGroup:
        refused = ScaleGroup(
            (names,),
            refusal="no norm's output is this input, and no linear before feeds it channel by "
            "channel",
        )
        for name in reversed(before):
            own = not numbers(name) or numbers(name) == numbers(names[0])  # experts do not mix
            if not own or not isinstance(self.block.get_submodule(name), nn.Linear):
                continue
            rows = feeding_rows(self.block, name, names[0], self.probe)
            if rows is not None:
                refused = self.proof.of(ScaleGroup((names,), name, rows))
                if refused.proven:
                    break
        return refused


def _like(group: ScaleGroup, names: tuple[str, ...]) -> ScaleGroup:
    """`group` of one expert, for the readers `names` of another."""
    absorber, own = group.absorber, numbers(group.readers[0])
    if absorber is not None and numbers(absorber) == own:
        others = iter(numbers(names[0]))
        parts = absorber.split(".")
        absorber = ".".join(next(others) if part.isdigit() else part for part in parts)
    return replace(group, inputs=(names,), absorber=absorber)


PROBE = (2, 16)  # samples, tokens to watch and prove with


class GroupProver:
    """Proves the scale groups of each block on a few of the tokens `ids` [samples, tokens]."""

    def __init__(self, skeleton: Skeleton, ids: Tensor):
        samples, tokens = PROBE
        self._skeleton = skeleton
        self._sequences = skeleton.calls(ids[:samples, :tokens])[1]
        self._tokens = skeleton.calls(ids[0, :tokens, None])[1]
        self._proposals: dict[str, list[ScaleGroup]] = {}

    def groups(self, index: int, block: nn.Module, hidden: Tensor) -> list[ScaleGroup]:
        """The groups of block `index` in float32; the first block of a shape proposes them.

        `hidden` [samples, tokens, width] is the block's input for the tokens.
        """
        samples, tokens = PROBE
        sequences, single = hidden[:samples, :tokens], hidden[0, :tokens, None]
        probe = BlockProbe(sequences, self._sequences[index], single, self._tokens[index])
        groups = find_groups(block, probe, self._proposals.get(shape_of(block)))
        self._proposals.setdefault(shape_of(block), groups)
        return groups

    def ensure_proposals(self, index: int, hidden: Tensor) -> list[ScaleGroup]:
        """The proposals for blocks of the shape of block `index`, computed here if need be."""
        shape = shape_of(self._skeleton.bare(index))
        if shape not in self._proposals:
            self.groups(index, self._skeleton.block(index, torch.float32), hidden)
        return self._proposals[shape]


def shape_of(block: nn.Module) -> str:
    """The names and shapes of a block's parameters; blocks of one kind share them."""
    return repr([(name, tuple(p.shape)) for name, p in block.named_parameters()])
