"""A quantized block: codes, folded parameters, errors on the held-out tokens, and its evidence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from salient.core.evidence import BlockEvidence, GroupEvidence, LayerEvidence
from salient.core.quant import QuantizedWeight
from salient.core.scheme import LayerSchemes, Scheme
from salient.models.proof import ScaleGroup, kind_of
from salient.models.tracing import pattern

from .fisher import clipped, token_weights
from .search import IDENTITY

JUDGE_TOKENS = 256  # held-out tokens, evenly spread, that decide between the versions of a group


class HeldoutInput:
    """A shared input on tokens that the search does not see.

    x: float32 [tokens, in], an evenly spread part of them
    gradients: reader -> the end loss's at its output for these tokens, float32 [tokens, out],
        clipped; empty without gradients
    weights: reader -> w of these tokens (fisher.py), float32 [tokens, 1]
    tokens: their number
    """

    def __init__(self, x: Tensor, gradients: Mapping[str, Tensor] | None = None):
        self.tokens = len(x)
        spread = slice(None, None, max(1, -(-len(x) // JUDGE_TOKENS)))
        self.x = x[spread].float().clone()
        each = {n: d[spread].float() for n, d in (gradients or {}).items()}
        self.gradients = {n: clipped(d) for n, d in each.items()}
        self.weights = {n: token_weights(d) for n, d in each.items()}

    def error(self, difference: Tensor) -> float:
        """sum_t |D x_t|^2 for `difference` [out, in]."""
        return float((self.x @ difference.t()).square_().sum())

    def loss(self, reader: str, difference: Tensor) -> float:
        """The end loss's change by `difference` D [out, in] of a reader with gradients d.

        sum_t (d_t^T D x_t)^2 with the Kronecker factors of end_loss.py, of these tokens:
        sum_tu w_u (d_t^T D x_u)^2 / sum_u w_u. All pairs of tokens count: a sum over matching ones
        alone is decided by the few with the largest gradients.
        """
        gradients, weights = self.gradients[reader], self.weights[reader]
        changes = (self.x @ difference.t()) @ gradients.t()
        return float((changes.square_() * weights).sum() / weights.sum().clamp(min=1e-30))


@dataclass(frozen=True)
class LayerResult:
    """One linear's held-out output error, relative to its output: by plain rounding, as written."""

    name: str
    plain: float
    awq: float


@dataclass(frozen=True)
class GroupResult:
    """The result of one shared input.

    exponents: those of the scale (search.py), (0, 0) if it scales nothing
    rounding: 'feedback', 'nearest', or 'plain' where the held-out tokens preferred plain rounding
    """

    group: ScaleGroup
    layers: list[LayerResult]
    exponents: tuple[float, float] = IDENTITY
    rounding: str = "plain"

    @property
    def improved(self) -> bool:
        """Whether AWQ beat plain rounding on the held-out tokens."""
        return self.rounding != "plain"


@dataclass(frozen=True)
class BlockResult:
    """A quantized block.

    weights, plain: linear's name -> codes, as written and by plain rounding
    folded: parameter's name -> 16-bit tensor with a scale folded in (norms, biases, unquantized
        linears)
    left: linears that are not called on text and stay unquantized, and why
    columns, rows: linear -> what its columns were multiplied by, and its rows divided by, before it
        was rounded; only where there is something
    """

    weights: dict[str, QuantizedWeight]
    plain: dict[str, QuantizedWeight]
    folded: dict[str, Tensor]
    groups: list[GroupResult] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    rows: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True)
class OutputTarget:
    """The schemes, the dtype of unquantized tensors, and the linears to quantize.

    float32: the parameters that stay in float32 (models/stored_types.py)
    own: linear -> its scheme, where it is not `scheme`
    """

    scheme: Scheme
    dtype: torch.dtype
    quantized: frozenset[str]
    float32: frozenset[str] = frozenset()
    own: Mapping[str, Scheme] = field(default_factory=dict[str, Scheme])

    def scheme_of(self, linear: str) -> Scheme:
        """The scheme of a linear."""
        return self.own.get(linear, self.scheme)

    @property
    def schemes(self) -> LayerSchemes:
        """The schemes of all linears."""
        return LayerSchemes(self.scheme, self.own)

    def dtype_of(self, parameter: str) -> torch.dtype:
        """The dtype that an unquantized parameter is written in."""
        return torch.float32 if parameter in self.float32 else self.dtype

    def within(self, block: str) -> "OutputTarget":
        """The target of one block, by names within it."""
        linears, parameters, own = (
            {n: n.removeprefix(f"{block}.") for n in names if n.startswith(f"{block}.")}
            for names in (self.quantized, self.float32, self.own)
        )
        return OutputTarget(
            self.scheme,
            self.dtype,
            frozenset(linears.values()),
            frozenset(parameters.values()),
            {local: self.own[name] for name, local in own.items()},
        )


def plain_group(result: GroupResult) -> GroupResult:
    """The same group by plain rounding."""
    layers = [LayerResult(layer.name, layer.plain, layer.plain) for layer in result.layers]
    return GroupResult(result.group, layers)


def plain_result(result: BlockResult) -> BlockResult:
    """The same block by plain rounding throughout: nothing scaled, nothing folded."""
    groups = [plain_group(group) for group in result.groups]
    return BlockResult(result.plain, result.plain, {}, groups, result.left)


def effective_state(result: BlockResult) -> dict[str, Tensor]:
    """Parameters of the written block, by name: dequantized codes and folded parameters."""
    return {f"{n}.weight": q.dequantize() for n, q in result.weights.items()} | result.folded


def block_evidence(
    name: str,
    result: BlockResult,
    errors: dict[str, float],
    borrowed: dict[str, int],
    *,
    peak: float,
    fell_back: bool,
    no_gradients: str = "",
) -> BlockEvidence:
    """The evidence of block `name`. Experts are many and alike: one entry for all of a kind.

    `errors`: its relative output error, 'plain' and 'awq'; `borrowed`: experts that too few tokens
    reached, and how many; `peak`: its largest activation; `no_gradients`: why there are none.
    """
    alike: dict[Any, list[GroupResult]] = {}
    for group in result.groups:
        alike.setdefault(kind_of(group.group), []).append(group)
    return BlockEvidence(
        block=name,
        error_plain=errors["plain"],
        error_awq=errors["awq"],
        fell_back=fell_back,
        left_at_16_bits=result.left,
        borrowed_statistics=borrowed,
        groups=tuple(map(_group_evidence, alike.values())),
        largest_activation=peak,
        no_gradients=no_gradients,
    )


def _group_evidence(results: list[GroupResult]) -> GroupEvidence:
    group = results[0].group
    readers, absorber, refusal = kind_of(group)
    roundings = [r.rounding for r in results]
    layers: dict[str, list[LayerResult]] = {}
    for layer in (layer for r in results for layer in r.layers):
        layers.setdefault(pattern(layer.name), []).append(layer)
    return GroupEvidence(
        readers=tuple(readers),
        absorber=absorber if group.proven else None,
        proof_error=group.proof_error,
        refusal=refusal,
        count=len(results),
        improved=sum(r.improved for r in results),
        exponents=tuple(r.exponents for r in results),
        rounding={kind: roundings.count(kind) for kind in dict.fromkeys(roundings)},
        layers={kind: _layer_evidence(members) for kind, members in layers.items()},
    )


def _layer_evidence(layers: list[LayerResult]) -> LayerEvidence:
    count = len(layers)
    plain, awq = sum(layer.plain for layer in layers), sum(layer.awq for layer in layers)
    return LayerEvidence(count, plain / count, awq / count)
