"""How each parameter becomes a tensor of the file: order of its rows, change of its values, type.

Everything is compared with the template's tensor of that name, dequantized. What agrees in no way
that llama.cpp's converter has is another model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from salient.core.errors import CheckpointError, ModelError
from salient.core.quant import QuantizedWeight
from salient.core.records import is_list
from salient.formats.checkpoint import Checkpoint

from .gguf_blocks import BLOCK, PLAIN, RoundingError, code_error, code_kind, row_bytes
from .gguf_places import EMBEDDING, HEAD, Place
from .gguf_template import REMEDY, GgufTemplate, TemplateTensor
from .options import Others
from .row_order import RowOrder, column_factors, find_order, sampled_columns

CLOSE = 0.02  # relative difference of values that are the same, or of Q8_0
SCALED = 0.3  # of a norm whose AWQ scale is estimated from rounded weights
CLEARER = 0.5  # the best change is so much closer than the next
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Changes of values that llama.cpp's converter makes: Gemma's norms; Mamba's A.
CHANGES = {"": lambda v: v, "plus one": lambda v: v + 1, "minus exp": lambda v: -v.exp()}


@dataclass(frozen=True)
class TensorPlan:
    """How a tensor is written.

    orders: of the rows, one an expert   change: of CHANGES
    copied: the template's bytes, which are exactly the checkpoint's values
    """

    place: Place
    kind: str
    shape: tuple[int, ...]
    orders: tuple[RowOrder, ...]
    change: str = ""
    copied: bool = False
    error: RoundingError | None = None

    @property
    def bytes(self) -> int:
        rows = 1
        for size in self.shape[:-1]:
            rows *= size
        return rows * row_bytes(self.kind, self.shape[-1])


@dataclass
class Matcher:
    """Compares the checkpoint with the template.

    readers: block -> parameters of its quantized linears, and the template's tensors
    previous: the last order of each kind of tensor
    """

    checkpoint: Checkpoint
    template: GgufTemplate
    others: Others
    readers: Mapping[str, list[tuple[str, str]]]
    previous: dict[str, Tensor | None] = field(default_factory=dict[str, Tensor | None])

    def plan(self, place: Place) -> TensorPlan:
        """Raises ModelError where the template is of another model."""
        template = self.template.tensors.get(place.name)
        if template is None:  # a head of its own where the template's is tied: in its order
            template = self.template.tensors[EMBEDDING]
            values = self.checkpoint.parameter(place.parameters[0])
            self._check_shape(place, tuple(values.shape), template)
            kind = self._plain_kind(place, values, template)
            return TensorPlan(place, kind, template.shape, (RowOrder(None, 1.0, "as they are"),))
        if len(template.shape) == 1 or min(template.shape) == 1:
            return self._vector(place, template)
        return self._matrix(place, template)

    def _matrix(self, place: Place, template: TemplateTensor) -> TensorPlan:
        orders: list[RowOrder] = []
        kinds: list[str] = []
        errors: list[RoundingError] = []
        copied = not place.stacked
        for expert, parameter in enumerate(place.parameters):
            codes = stored_codes(self.checkpoint, parameter)
            values = codes.dequantize() if codes else self.checkpoint.parameter(parameter)
            inner = values if place.stacked else values.squeeze()
            part = template.shape[1:] if place.stacked else template.shape
            self._check_shape(place, (*inner.shape,), template, part)
            columns = sampled_columns(part[-1])
            other = template.values(columns, expert if place.stacked else None)
            ours = inner[..., columns].float()
            if inner.dim() > 2:  # a stack that the checkpoint has, too
                ours, other = ours.flatten(0, -2), other.flatten(0, -2)
            orders.append(self._order(place, ours, other))
            copied = copied and codes is None and self._same_values(template, inner)
            kind = code_kind(codes) if codes else ""
            kinds.append(kind)
            errors += [code_error(codes, kind)] if codes and kind else []
        if place.stacked and len(place.parameters) != template.shape[0]:
            raise self._other_model(place, f"has {template.shape[0]} experts")
        kind = kinds[0] if kinds[0] else ""
        if kind and set(kinds) <= {"Q4_0", "Q4_1"}:
            kind = max(kinds)
        elif len(set(kinds)) > 1:
            kind = ""
        worst = max(errors, key=lambda e: e.steps) if errors and kind else None
        if copied and not kind:
            kind = template.kind
        kind = kind or self._plain_kind(
            place, self.checkpoint.parameter(place.parameters[0]), template
        )
        copied = copied and kind == template.kind and all(o.rows is None for o in orders)
        return TensorPlan(place, kind, template.shape, tuple(orders), copied=copied, error=worst)

    def _order(self, place: Place, ours: Tensor, other: Tensor) -> RowOrder:
        heads = [
            count
            for key in ("attention.head_count", "attention.head_count_kv")
            for count in _whole_numbers(self.template.value(key))
        ]
        order = find_order(ours, other, heads, self.previous.get(place.part))
        if not order.kind:
            raise self._other_model(
                place,
                "agrees with no order of the checkpoint's rows: the median correlation is "
                f"{order.agreement:.2f} at best",
            )
        self.previous[place.part] = order.rows
        return order

    def _vector(self, place: Place, template: TemplateTensor) -> TensorPlan:
        """A norm, a bias, or another small tensor: F32 as the template has it."""
        values = self.checkpoint.parameter(place.parameters[0]).float()
        if values.numel() != torch.Size(template.shape).numel():
            self._check_shape(place, tuple(values.shape), template)
        ours, other = values.flatten(), template.values().flatten()
        weight = place.name.removesuffix("bias") + "weight"
        order = self.previous.get(place.part.removesuffix("bias") + "weight")
        kind = template.kind if template.kind in PLAIN else "F32"
        plan = TensorPlan(place, kind, template.shape, (RowOrder(None, 1.0, "as they are"),))
        if place.name.endswith(".bias") and weight in self.template.tensors:
            if order is None:
                return plan
            if _cosine(ours[order], other) <= _cosine(ours, other):
                raise self._other_model(place, "is not in the order of its weight's rows")
            return TensorPlan(place, kind, template.shape, (RowOrder(order, 1.0, "matched"),))
        change = self._change(place, ours, other)
        return TensorPlan(place, kind, template.shape, plan.orders, change)

    def _change(self, place: Place, ours: Tensor, other: Tensor) -> str:
        """The change of CHANGES that gives the template's values, up to AWQ's scales."""
        errors = {name: _difference(change(ours), other) for name, change in CHANGES.items()}
        name = min(errors, key=lambda key: errors[key])
        if errors[name] <= CLOSE:
            return name
        for scale in self._scales(place, len(ours)):
            for factor in (scale, 1 / scale):  # of an absorber, of a reader
                errors = {
                    n: _difference(change(ours) * factor, other) for n, change in CHANGES.items()
                }
                first, second, *_ = sorted(errors, key=lambda key: errors[key])
                if errors[first] <= SCALED and errors[first] <= CLEARER * errors[second]:
                    return first
        raise self._other_model(place, "has other values, which no scale of a reader explains")

    def _scales(self, place: Place, width: int) -> Iterator[Tensor]:
        """AWQ's scales of the inputs of linears of the same block that are `width` wide."""
        for parameter, name in self.readers.get(place.block, ()):
            template = self.template.tensors[name]
            if len(template.shape) < 2 or template.shape[-1] != width:
                continue
            ours = self.checkpoint.parameter(parameter).float()
            other = template.values(expert=0 if len(template.shape) == 3 else None)
            if ours.shape != other.shape:
                continue
            rows = self.previous.get(name.removeprefix(place.block))
            scale = column_factors(ours if rows is None else ours[rows], other)
            yield from (scale, 1 / scale)  # of an absorber, of another reader

    def _plain_kind(self, place: Place, values: Tensor, template: TemplateTensor) -> str:
        """The type of a matrix that is not codes."""
        if template.kind == "F32" and self.others == "template":
            return "F32"
        if self.others != "template":
            narrow = self.others == "q8_0" and values.shape[-1] % BLOCK
            return "F16" if narrow else self.others.upper()
        if place.name in (EMBEDDING, HEAD):
            if template.kind in PLAIN:
                return template.kind
            return "F16" if values.shape[-1] % BLOCK else "Q8_0"
        return TYPES.get(str(values.dtype).removeprefix("torch."), "F16")

    def _same_values(self, template: TemplateTensor, values: Tensor) -> bool:
        """Whether the template's tensor has the very values, in the checkpoint's type."""
        if template.kind in PLAIN or values.dtype == torch.float32:
            return False
        return torch.equal(template.values().to(values.dtype), values)

    def _check_shape(
        self,
        place: Place,
        shape: tuple[int, ...],
        template: TemplateTensor,
        expected: tuple[int, ...] | None = None,
    ) -> None:
        if shape != (expected or template.shape):
            raise self._other_model(
                place, f"is {list(expected or template.shape)}, the checkpoint's {list(shape)}"
            )

    def _other_model(self, place: Place, fault: str) -> ModelError:
        return ModelError(
            f"The template {self.template.path.name} is of another model: its {place.name!r} "
            f"{fault} ({place.parameters[0]}). {REMEDY}"
        )


def stored_codes(checkpoint: Checkpoint, parameter: str) -> QuantizedWeight | None:
    """The codes of `parameter`; None if it is not stored as codes in groups of neighbours."""
    module, _, kind = parameter.rpartition(".")
    if kind != "weight" or not checkpoint.is_quantized(module):
        return None
    try:
        return checkpoint.quantized(module)
    except CheckpointError:
        checkpoint.parameter(parameter)  # raises, unless it has values without codes
        return None


def _whole_numbers(value: object) -> list[int]:
    values = value if is_list(value) else [value]
    return [each for each in dict.fromkeys(values) if isinstance(each, int)]


def _difference(one: Tensor, other: Tensor) -> float:
    """Root of the relative square difference."""
    return float((one - other).norm() / other.norm().clamp(min=torch.finfo(torch.float32).tiny))


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))
