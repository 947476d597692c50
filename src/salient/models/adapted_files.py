"""The parameters of a model as its files have them, with a LoRA adapter merged in.

The adapter's names are those of the model that peft saw; the parameters here are those that Salient
reads, so that experts, transposed linears and names of other readers come out alike.
"""

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from salient.core.errors import ModelError
from salient.formats.checkpoint import Checkpoint

from .build import name_of
from .lora import CONFIG, Adapter
from .ties import equal
from .weight_map import LoadingRules, ParameterFiles, StoredParameter, TensorPart

LISTED = 3


@dataclass(frozen=True)
class ParameterUpdate:
    """LoRA of a parameter that is no module's weight, such as stacked experts.

    down, up: lora_A [experts * rank, in] and lora_B [out, rank * experts]
    transposed: the parameter is [in, out] for each expert
    """

    down: Tensor
    up: Tensor
    experts: int
    scaling: float
    transposed: bool

    def of(self, expert: int) -> Tensor:
        """What to add to the entry `expert`: peft's `get_delta_weight`, for one."""
        down = self.down.float().reshape(self.experts, -1, self.down.shape[1])[expert]
        up = self.up.float().reshape(self.up.shape[0], -1, self.experts)[:, :, expert]
        delta = up @ down * self.scaling
        return delta.t() if self.transposed else delta


class AdaptedFiles(ParameterFiles):
    """The parameters of a model in the files of `source`, with `adapter` merged in.

    ties: parameter -> the one that config.json ties it to
    plain: the model before its special linears were replaced; only an adapter of parameters
        (`target_parameters`) needs it

    Raises ModelError naming what of the adapter has no place in the model, or does not fit it.
    """

    def __init__(
        self,
        architecture: LoadingRules,
        source: Checkpoint,
        adapter: Adapter,
        ties: dict[str, str],
        plain: Any = None,
    ):
        super().__init__(architecture, source)
        self.adapter = adapter
        model = architecture.model
        ends = model.get_input_embeddings(), model.get_output_embeddings()
        self._table, self._head = (f"{name_of(model, end)}.weight" for end in ends)
        self.updates: dict[str, ParameterUpdate] = {}
        layers = dict(adapter.layers)
        if plain is not None:
            self._take_updates(plain, layers)
        self.replaced = {self._place(name): t for name, t in adapter.replaced.items()}
        self.bases = {self._place(name): t for name, t in adapter.bases.items()}
        self.layers = {self._place(f"{module}.weight"): module for module in layers}
        rows = {m: (adapter.token_rows(m), t) for m, t in adapter.tokens.items()}
        self.tokens = {self._place(f"{m}.weight"): value for m, value in rows.items()}
        stacked = {place.name for place in architecture.places.values()}
        for name in self.replaced.keys() - self.names().keys() - stacked - ties.keys():
            self._stored[name] = StoredParameter.whole(name)  # a head that the files lack
        self._follow_ties(ties)
        self._check_shapes()
        self._check_targets()

    @property
    def changed(self) -> set[str]:
        """The parameters that the adapter changes, as Transformers calls them."""
        return {*self.replaced, *self.bases, *self.layers, *self.tokens, *self.updates}

    def read(self, name: str) -> Tensor:
        """The parameter `name` with the adapter merged in; float32 where it changed."""
        place = self.architecture.places.get(name)
        fused, part = (place.name, place.part) if place else (name, TensorPart())
        value = self.replaced.get(fused, self.bases.get(fused))
        value = super().read(name) if value is None else part.of(value)
        if name in self.tokens:
            rows, values = self.tokens[name]
            value = value.index_copy(0, torch.tensor(rows), values.to(value.dtype))
        if name in self.layers:
            value = self.adapter.merged(self.layers[name], value)
        update = self.updates.get(fused)
        if update is not None:
            entries = range(update.experts) if part.expert is None else [part.expert]
            deltas = [replace(part, expert=None).of(update.of(entry)) for entry in entries]
            stacked = part.expert is None and value.ndim > deltas[0].ndim
            value = value.float() + (torch.stack(deltas) if stacked else deltas[0])
        return value

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of the parameter `name`, from the adapter where that replaces it."""
        value = self.replaced.get(name, self.bases.get(name))
        return super().shape(name) if value is None else tuple(value.shape)

    @property
    def rows(self) -> int | None:
        """Rows of the embedding, where the adapter stores it."""
        value = self.replaced.get(self._table, self.bases.get(self._table))
        return None if value is None else len(value)

    def _place(self, name: str) -> str:
        """The parameter that peft calls `name`. Raises ModelError if the model has none."""
        wanted, places = self.architecture.wanted, self.architecture.places
        place = name if name in wanted or name in places else self.target(name)
        if place is None:
            raise ModelError(self._unknown(name))
        return place

    def _unknown(self, name: str) -> str:
        adapter, model = self.adapter, type(self.architecture.model).__name__
        trained = (
            f" {CONFIG} names {adapter.base!r} as its base model: give that as MODEL."
            if adapter.base
            else " Give the model that it was trained on as MODEL."
        )
        task = str(adapter.config.task_type or "")
        if name in adapter.replaced and task and "CAUSAL" not in task:
            trained = (
                f" It is a head of the task {task.rpartition('.')[2]}: give a model of that class "
                "(architectures in config.json), with the head merged by peft."
            )
        return (
            f"The adapter {adapter.folder} changes {name!r}, for which the {model} in "
            f"{self.source.folder} has no place.{trained}"
        )

    def _take_updates(self, plain: Any, layers: dict[str, dict[str, Tensor]]) -> None:
        """Move the LoRA of parameters from `layers` to `updates`: peft says which each is of."""
        from peft import inject_adapter_in_model
        from peft.tuners.lora.layer import ParamWrapper

        settings = self.adapter.settings(init_lora_weights=False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                inject_adapter_in_model(settings, plain, low_cpu_mem_usage=True)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"The adapter {self.adapter.folder} does not fit {type(plain).__name__} "
                f"({' '.join(str(error).split())}). Give the model that it was trained on."
            ) from error
        wrappers = [(n, m) for n, m in plain.named_modules() if isinstance(m, ParamWrapper)]
        for path, wrapper in wrappers:
            layer: Any = wrapper
            name = f"{path.replace('.base_layer', '')}.{layer.parameter_name}"
            tensors = layers.pop(path, {})
            down, up = (tensors.get(f"lora_{side}.weight") for side in "AB")
            if down is None or up is None:
                raise ModelError(self._incomplete(name))
            expected = [layer.lora_A["default"].weight.shape, layer.lora_B["default"].weight.shape]
            if [down.shape, up.shape] != expected:
                raise ModelError(
                    self._wrong_base(
                        name, [list(down.shape), list(up.shape)], list(map(list, expected))
                    )
                )
            self.updates[name] = ParameterUpdate(
                down,
                up,
                layer.num_experts,
                layer.scaling["default"],
                layer.get_param().ndim == 3 and not layer._did_swap_in_out_features,
            )

    def _incomplete(self, name: str) -> str:
        return (
            f"The adapter {self.adapter.folder} has no tensors for {name!r}, which its {CONFIG} "
            "targets: it was trained on a smaller model, or its files are not whole."
        )

    def _wrong_base(self, name: str, has: object, fits: object) -> str:
        base = f" ({CONFIG} names {self.adapter.base!r})" if self.adapter.base else ""
        return (
            f"The adapter {self.adapter.folder} does not fit the model {self.source.folder}: for "
            f"{name!r} it has {has}, but the model needs {fits}. Give the model that it was "
            f"trained on{base}, or this model's own adapter."
        )

    def _follow_ties(self, ties: dict[str, str]) -> None:
        """Give tied parameters what peft's model gives them.

        Both have one base value; LoRA and `modules_to_save` are of one of them alone, so that they
        come apart; a token adapter is of both.
        """
        changed = self.changed
        for target, origin in ties.items():
            stored_apart = target in self and not self._same_in_files(target, origin)
            if stored_apart or not {target, origin} & changed:
                continue
            if target not in self:
                self.alias(target, origin)
            wrapped = self._wrapped()
            for name in (target, origin):  # a plain value is the pair's; a wrapped one its own
                if name in self.replaced and name not in wrapped:
                    self.bases.setdefault(name, self.replaced[name])
            base = next((self.bases[n] for n in (origin, target) if n in self.bases), None)
            tokens = next((self.tokens[n] for n in (origin, target) if n in self.tokens), None)
            for name in (target, origin):
                if base is not None:
                    self.bases.setdefault(name, base)
                if tokens is not None:
                    self.tokens.setdefault(name, tokens)
                if self.adapter.config.ensure_weight_tying and origin in self.replaced:
                    self.replaced.setdefault(name, self.replaced[origin])

    def _same_in_files(self, one: str, other: str) -> bool:
        if other not in self:
            return False
        with self.source.reading():
            return equal(super().read(one), super().read(other))

    def _wrapped(self) -> set[str]:
        """The replaced parameters that are copies of peft's (`modules_to_save`)."""
        modules: Iterable[str] = self.adapter.config.modules_to_save or ()
        return {
            name for name in self.replaced if any(f".{module}." in f".{name}" for module in modules)
        }

    def _check_shapes(self) -> None:
        wanted = self.architecture.wanted
        for name, (rows, values) in self.tokens.items():
            shape = self.shape(name) or tuple(wanted[name].shape)
            if len(rows) != len(values) or max(rows, default=0) >= shape[0]:
                raise ModelError(
                    f"The adapter {self.adapter.folder} has {len(values)} rows for {name!r}, but "
                    f"its {CONFIG} names {len(rows)}, up to row {max(rows, default=0)} of "
                    f"{shape[0]} (trainable_token_indices)."
                )
            if values.shape[1:] != shape[1:]:
                raise ModelError(self._wrong_base(name, list(values.shape[1:]), list(shape[1:])))
        for name, value in (self.bases | self.replaced).items():
            has, fits = list(value.shape), list(wanted[name].shape)
            if has[1:] != fits[1:] or (has != fits and not self._is_of_vocabulary(name)):
                raise ModelError(self._wrong_base(name, has, fits))
        shapes = [self.shape(name) for name in (self._table, self._head)]
        rows = [shape[0] for shape in shapes if shape]
        if len(set(rows)) > 1:
            raise ModelError(
                f"The adapter {self.adapter.folder} changes the vocabulary to {rows[0]} rows of "
                f"{self._table!r}, but {self._head!r} has {rows[1]}. Train and save both "
                "(modules_to_save), or merge it with peft first."
            )
        for name, module in self.layers.items():
            self._check_layer(name, module)

    def _is_of_vocabulary(self, name: str) -> bool:
        ends = (self._table.rpartition(".")[0], self._head.rpartition(".")[0])
        return name.rpartition(".")[0] in ends

    def _check_layer(self, name: str, module: str) -> None:
        from peft.tuners.tuners_utils import check_target_module_exists

        adapter, tensors = self.adapter, self.adapter.layers[module]
        shape = self.shape(name)
        if shape is None:
            raise ModelError(self._unknown(f"{module}.weight"))
        if len(shape) != 2:
            raise ModelError(
                f"The adapter {adapter.folder} changes {name!r}, which is {list(shape)} and no "
                "linear. Merge it with peft first."
            )
        embedding = "lora_embedding_A" in tensors
        down, up = (
            (
                tensors.get(f"lora_embedding_{side}")
                if embedding
                else tensors.get(f"lora_{side}.weight")
            )
            for side in "AB"
        )
        if down is not None and up is not None and down.ndim == up.ndim == 2:
            has = [up.shape[0], down.shape[1]][:: -1 if embedding else 1]
            if has != list(shape):
                raise ModelError(self._wrong_base(name, has, list(shape)))
        config = adapter.settings()
        tied = config.ensure_weight_tying and name in (self._table, self._head)
        if not tied and not check_target_module_exists(config, module):
            raise ModelError(
                f"The adapter {adapter.folder} does not fit {module!r} (its {CONFIG} does not "
                "target it). Check that both of its files are of one training."
            )
        adapter.merged(module, torch.empty(shape, device="meta"))

    def _check_targets(self) -> None:
        """Refuse an adapter that lacks blocks which its config targets."""
        from peft.tuners.tuners_utils import check_target_module_exists

        config = self.adapter.settings()
        targets = config.target_modules
        if not targets or targets == "all-linear" or not self.layers:
            return
        for name, module in self.architecture.model.named_modules():
            parts = name.split(".")
            if not isinstance(module, nn.Linear) or not any(part.isdigit() for part in parts):
                continue
            kind = [part for part in parts if not part.isdigit()]
            known = any(
                [p for p in own.split(".")[:-1] if not p.isdigit()] == kind for own in self.layers
            )
            if (
                known
                and f"{name}.weight" not in self.layers
                and check_target_module_exists(config, name)
            ):
                raise ModelError(self._incomplete(name))


def before_replacement(model: Any, adapter: Adapter) -> Any:
    """A copy of `model` for `AdaptedFiles`, if `adapter` needs one."""
    return copy.deepcopy(model) if adapter.config.target_parameters else None
