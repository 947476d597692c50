"""Match the parts of a decoder block by Transformers' usual names.

The result is a proposal; verify.py tests it against the block itself. New architectures with these
names are accepted if they compute the same, and rejected if not.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from salient.runtime.model_loader import LoadedModel

# Transformers' names of activation functions -> ours, where they are the same function.
ACTS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


class NotFusable(Exception):
    """The block cannot run fused, with the reason."""


@dataclass(frozen=True)
class Norm:
    """x / sqrt(mean(x^2) + eps) * weight, with weight float32 [width]."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of `x` [..., width], computed in float32, in the dtype of `x`."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight).to(x.dtype)


@dataclass(frozen=True)
class FusedAttention:
    """The attention half of a block.

    qkv: one linear for q, k and v, or the three   window: 0 for all positions
    cos, sin: float32 [positions, rotary_dim / 2]; None without rotary embedding
    softcap: of the scores, 0 for none
    """

    before: Norm | None
    after: Norm | None
    q_norm: Norm | None
    k_norm: Norm | None
    qkv: tuple[Any, ...]
    o: Any
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    scaling: float
    cos: Tensor | None
    sin: Tensor | None
    softcap: float = 0.0


@dataclass(frozen=True)
class FusedMlp:
    """The MLP half: gate and up as one linear or two, or any module (experts) as it is."""

    before: Norm | None
    after: Norm | None
    gate_up: tuple[Any, ...] = ()
    down: Any = None
    act: str = ""
    module: Any = None


@dataclass(frozen=True)
class FusedBlock:
    """A block as its halves.

    dtype: of what linears take and give   residual: what both halves are multiplied by
    """

    name: str
    attention: FusedAttention
    mlp: FusedMlp
    dtype: torch.dtype
    residual: float = 1.0


class MergedLinear:
    """Joined siblings as one linear."""

    def __init__(self, packed: Any, parts: list[Any]):
        self.packed, self.parts = packed, parts
        biases = [part.bias for part in parts]
        self.bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs of all parts, one after the other."""
        first = self.parts[0]
        if x.numel() >= first.dense_rows * self.packed.width:
            return torch.cat([part(x) for part in self.parts], -1)
        y = self.packed(x)
        return y if self.bias is None else y + self.bias


def match_block(model: LoadedModel, name: str, block: nn.Module, rotary: Any) -> FusedBlock:
    """The parts of `block`, called `name`. `rotary`: (cos, sin) of its positions, or None.

    Raises NotFusable.
    """
    attention = _child(block, "self_attn")
    norms = _norms(block)
    cos, sin = rotary if rotary is not None else (None, None)
    o = _child(attention, "o_proj")
    dim = getattr(attention, "head_dim", None)
    if not isinstance(dim, int):
        raise NotFusable(f"its {type(attention).__name__} has no head_dim")
    q_norm, k_norm = _head_norm(attention, "q_norm", dim), _head_norm(attention, "k_norm", dim)
    qkv = _linears(
        model, f"{name}.self_attn", attention, ("q_proj", "k_proj", "v_proj"), "qkv_proj"
    )
    heads = o.in_features // dim
    columns = sum(linear.out_features for linear in qkv[1])
    kv_heads = (columns // dim - heads) // 2
    if kv_heads < 1 or heads % kv_heads or o.in_features % dim:
        raise NotFusable(
            f"its attention has {heads} heads of {dim} channels to {kv_heads} key heads"
        )
    if getattr(attention, "sinks", None) is not None:
        raise NotFusable("its attention has sinks")
    half = FusedAttention(
        *(norms[0], norms[1], q_norm, k_norm),
        *(qkv[0], o),
        *(heads, kv_heads, dim),
        window=0,
        scaling=float(getattr(attention, "scaling", dim**-0.5)),
        cos=cos,
        sin=sin,
        softcap=float(getattr(attention, "attn_logit_softcapping", None) or 0.0),
    )
    residual = float(getattr(block, "residual_multiplier", 1.0))
    return FusedBlock(name, half, _mlp(model, name, block, norms), model.dtype, residual)


def _norms(block: nn.Module) -> tuple[Norm | None, ...]:
    """Before and after attention, before and after the MLP."""
    present = {name for name, _ in block.named_children()}
    if "pre_feedforward_layernorm" in present:
        names = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    elif "input_layernorm" in present:
        names = ("input", None, "post_attention", None)
    else:
        names = (None, "post_attention", None, "post_feedforward")
    return tuple(name and rms_norm(_child(block, f"{name}_layernorm")) for name in names)


def rms_norm(module: nn.Module) -> Norm:
    """`module` as a Norm: its weight is its output for ones. Raises NotFusable."""
    eps = next((e for n in ("variance_epsilon", "eps") if (e := getattr(module, n, None))), None)
    weight = getattr(module, "weight", None)
    if eps is None or weight is None or getattr(module, "bias", None) is not None:
        raise NotFusable(f"its {type(module).__name__} is no RMS norm")
    ones = torch.ones_like(weight)
    with torch.no_grad():
        scaled = module(ones[None])[0].float() * (1 + eps) ** 0.5
    return Norm(scaled.contiguous(), float(eps))


def _head_norm(attention: nn.Module, name: str, dim: int) -> Norm | None:
    module = getattr(attention, name, None)
    if module is None:
        return None
    norm = rms_norm(module)
    if len(norm.weight) != dim:
        raise NotFusable(f"its {name} is over {len(norm.weight)} channels, not those of a head")
    return norm


def _linears(
    model: LoadedModel, home: str, parent: nn.Module, apart: tuple[str, ...], whole: str
) -> tuple[tuple[Any, ...], list[Any]]:
    """The linears to call, and those that they replace."""
    if hasattr(parent, whole):
        return (getattr(parent, whole),), [getattr(parent, whole)]
    parts = [_child(parent, name) for name in apart]
    merged = model.merged.get(home)
    same_bias = len({part.bias is None for part in parts}) == 1
    if merged is not None and merged.parts == parts and same_bias:
        return (MergedLinear(merged.packed, parts),), parts
    return tuple(parts), parts


def _mlp(
    model: LoadedModel, name: str, block: nn.Module, norms: tuple[Norm | None, ...]
) -> FusedMlp:
    module = _child(block, "mlp")
    down, act = getattr(module, "down_proj", None), _act(module)
    gated = hasattr(module, "gate_up_proj") or hasattr(module, "gate_proj")
    if down is not None and gated and act and hasattr(down, "in_features"):
        names = ("gate_proj", "up_proj")
        linears, parts = _linears(model, f"{name}.mlp", module, names, "gate_up_proj")
        if sum(part.out_features for part in parts) == 2 * down.in_features:
            return FusedMlp(norms[2], norms[3], linears, down, act)
    return FusedMlp(norms[2], norms[3], module=module)


def _act(module: nn.Module) -> str:
    """Our name of the activation function of `module`; '' if unsupported."""
    function = getattr(module, "act_fn", getattr(module, "activation_fn", None))
    return next(
        (ours for theirs, ours in ACTS.items() if type(function) is type(ACT2FN[theirs])), ""
    )


def _child(module: nn.Module, name: str) -> Any:
    child = getattr(module, name, None)
    if child is None:
        raise NotFusable(f"its {type(module).__name__} has no {name}")
    return child
