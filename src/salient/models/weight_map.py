"""Map parameters to the files: their names inside Transformers may differ from those in the files.

The files have the names that the model was published under, and engines expect those; Transformers'
own loading rules (renamings, a base prefix that is missing or there once more, experts stacked into
one tensor) lead from one to the other. Some parameters are only a part of a stored tensor: an
expert of a fused one, or a linear that is stored transposed.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from salient.core.errors import ModelError
from salient.formats.checkpoint import Checkpoint

Rows = tuple[int | None, int | None, int | None]
ALL: Rows = (None, None, None)


@dataclass(frozen=True)
class TensorPart:
    """The part of a stored tensor that is one parameter.

    expert: which entry of the first axis, None for a tensor without experts
    rows: (start, stop, step) within the entry, after it was transposed
    """

    expert: int | None = None
    rows: Rows = ALL
    transposed: bool = False

    def of(self, whole: Tensor) -> Tensor:
        """The part, as a view of `whole`."""
        entry = whole if self.expert is None else whole[self.expert]
        return (entry.t() if self.transposed else entry)[slice(*self.rows)]


@dataclass(frozen=True)
class StoredParameter:
    """Where the files have a parameter.

    name: the tensor with it
    written: the name to write it under, on its own
    part: which part of the tensor it is; None if it is all of it
    """

    name: str
    written: str
    part: TensorPart | None = None

    @staticmethod
    def whole(name: str) -> "StoredParameter":
        """A parameter that is a tensor of its own."""
        return StoredParameter(name, name)


@dataclass(frozen=True)
class StoredSlice:
    """Transformers' location of a parameter that Salient stores separately: `part` of `name`.

    order: of several that Transformers stacks into `name` for one expert, which one
    """

    name: str
    part: TensorPart
    order: int = 0


class ParameterFiles:
    """The parameters of a model in the files of `source`."""

    def __init__(self, architecture: "LoadingRules", source: Checkpoint):
        self.architecture, self.source = architecture, source
        self._targets = TargetNames(architecture)
        self._stored = stored_names(architecture, source, self._targets)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def stored(self, name: str) -> StoredParameter:
        """Where the files have the parameter `name`."""
        return self._stored.get(name) or StoredParameter.whole(name)

    def read(self, name: str) -> Tensor:
        """The parameter `name` as the files have it; float32 where they have codes."""
        stored = self.stored(name)
        if name not in self and name not in self.source.files:
            self.check_combined(name)
        if stored.part is None:
            return self.source.parameter(stored.name)
        if stored.part.expert is None:
            return stored.part.of(self.source.parameter(stored.name))
        whole = self.source.entry(stored.name, stored.part.expert)
        return replace(stored.part, expert=None).of(whole)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of the parameter `name` in the files; None for quantized and absent ones."""
        stored = self.stored(name)
        header = self.source.headers.get(stored.name)
        if header is None or name not in self or stored.name in self.source.parts:
            return None
        if stored.part is None:
            return header.shape
        return tuple(stored.part.of(torch.empty(header.shape, device="meta")).shape)

    @property
    def rows(self) -> int | None:
        """Rows of the embedding, where an adapter changes them."""
        return None

    def check_combined(self, name: str) -> None:
        """Raise ModelError if `name` may be missing because Transformers would make it."""
        others = combined_parameters(self.architecture, self.source)
        if others:
            raise ModelError(
                f"{self.source.folder} has no tensor {name!r}. Transformers makes some parameters "
                f"of this model out of others ({others[0]!r}), in ways that Salient does not "
                "follow. Load the model with Transformers and write it with "
                "save_pretrained(..., save_original_format=False), then quantize that."
            )

    def target(self, name: str) -> str | None:
        """The parameter that the stored tensor `name` is, or is a second copy of."""
        return self._targets.of(name)

    def module(self, name: str) -> str:
        """What the module `name` is called in the files."""
        stored = self._stored.get(f"{name}.weight")
        return stored.written.removesuffix(".weight") if stored else name

    def names(self) -> dict[str, str]:
        """Parameter -> its stored tensor."""
        return {name: stored.name for name, stored in self._stored.items()}

    def alias(self, name: str, target: str) -> None:
        """Let the parameter `name`, which the files lack, be read from that of `target`."""
        home = "".join(f"{part}." for part in name.split(".")[:-2])
        alike = (
            stored.name.removesuffix(own.removeprefix(home))
            for own, stored in self._stored.items()
            if own.startswith(home) and stored.name.endswith(own.removeprefix(home))
        )
        written = next(alike, home) + name.removeprefix(home)
        self._stored[name] = replace(self._stored[target], written=written)


@dataclass(frozen=True)
class LoadingRules:
    """What Transformers' loading rules need to know of a model.

    model: on the meta device
    wanted: its state as Transformers builds it
    places: the parameters that Salient stores differently
    """

    model: Any
    wanted: dict[str, Tensor]
    places: dict[str, StoredSlice]


class TargetNames:
    """The parameter that each stored tensor is, by Transformers' loading rules."""

    def __init__(self, architecture: LoadingRules):
        rules = get_model_conversion_mapping(architecture.model)
        self.renamings = [r for r in rules if isinstance(r, WeightRenaming)]
        converters = [r for r in rules if isinstance(r, WeightConverter)]
        self.stackings = [r for r in converters if _stacks_experts(r)]
        self._architecture = architecture
        places = architecture.places.items()
        self._singly = {(p.name, p.part.expert, p.order): own for own, p in places}
        self._stacked = {place.name for _, place in places}
        self._known: dict[str, str | None] = {}

    def of(self, name: str) -> str | None:
        """The parameter that the stored tensor `name` is; None if the model has no place for it."""
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def _find(self, name: str) -> str | None:
        wanted, places = self._architecture.wanted, self._architecture.places
        prefix = self._architecture.model.base_model_prefix
        plain, _ = rename_source_key(name, self.renamings, [], prefix, wanted)
        target = next((n for n in (name, plain) if n in wanted or n in places), None)
        if target is not None:
            return target
        target, pattern = rename_source_key(name, self.renamings, self.stackings, prefix, wanted)
        if pattern is None or target not in self._stacked:
            return None
        order = next(
            r.source_patterns.index(pattern) for r in self.stackings if pattern in r.source_patterns
        )
        return self._singly.get((target, _last_number(name), order))


def stored_names(
    architecture: LoadingRules, source: Checkpoint, targets: TargetNames
) -> dict[str, StoredParameter]:
    """Parameter or buffer -> where the files of `source` have it.

    Linears stored as codes count by `.weight`.
    """
    places = architecture.places
    stacked = {place.name for place in places.values()}
    whole: dict[str, str] = {}
    for name in source.parameter_names():
        target = targets.of(name)
        if target is not None and not (target in whole and name != target):
            whole[target] = name
    stored = {own: StoredParameter.whole(name) for own, name in whole.items() if own not in stacked}
    for own, place in places.items():
        name = whole.get(place.name)
        if own not in stored and name is not None:
            stored[own] = _part_of(name, own, place, source)
    return stored


def combined_parameters(architecture: LoadingRules, source: Checkpoint) -> list[str]:
    """The tensors of `source` that Transformers turns into others by rules not followed here."""
    model = architecture.model
    rules = get_model_conversion_mapping(model)
    renamings = [r for r in rules if isinstance(r, WeightRenaming)]
    mixing = [r for r in rules if isinstance(r, WeightConverter) and not _stacks_experts(r)]
    prefix, wanted = model.base_model_prefix, architecture.wanted
    renamed = {n: rename_source_key(n, renamings, mixing, prefix, wanted) for n in source.files}
    return [name for name, (_, pattern) in renamed.items() if pattern is not None]


def _part_of(name: str, own: str, place: StoredSlice, source: Checkpoint) -> StoredParameter:
    """Where `own` is within the stored tensor `name`, and what to call it alone."""
    if place.part.expert is None:
        packed = source.is_quantized(name.removesuffix(".weight"))  # codes are always [out, in]
        return StoredParameter.whole(name) if packed else StoredParameter(name, name, place.part)
    leaf = ".".join(own.split(".")[-3:])  # e.g. 3.gate_proj.weight
    home = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[0]
    home = home if home.endswith(".experts") else f"{home}.experts"
    return StoredParameter(name, f"{home}.{leaf}", place.part)


def _stacks_experts(rule: WeightConverter) -> bool:
    """Whether `rule` only stacks tensors of single experts into one."""
    kinds = [type(operation) for operation in rule.operations]
    return kinds in ([MergeModulelist], [MergeModulelist, Concatenate])


def _last_number(name: str) -> int:
    return int([part for part in name.split(".") if part.isdigit()][-1])
