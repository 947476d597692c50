"""Decoder blocks in PyTorch, over rows of several sequences and one key/value cache.

The definition of a fused block; runs on GPUs and under torch.compile. On a CPU with a compiler
native_blocks.py runs the same as one C++ call.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention, silu

from salient.runtime.kv_cache import Batch, KeyValueCache

from .match import FusedAttention, FusedBlock, Norm

ACTS = {"silu": silu, "gelu": gelu, "gelu_tanh": partial(gelu, approximate="tanh")}


def run_block(
    parts: FusedBlock, hidden: Tensor, batch: Batch, cache: KeyValueCache, index: int
) -> Tensor:
    """The hidden states float32 [rows, width] after block `index`; updates the cache.

    Hidden states stay float32 whatever the dtype of linears: 16-bit would lose what a block adds to
    channels other than the few large ones.
    """
    x = _apply_norm(parts.attention.before, hidden).to(parts.dtype)
    output = _attention(parts.attention, x, batch, cache, index)
    hidden = hidden.float() + parts.residual * output.float()
    return hidden + parts.residual * run_mlp(parts, hidden)


def _attention(
    parts: FusedAttention, x: Tensor, batch: Batch, cache: KeyValueCache, index: int
) -> Tensor:
    """The output of attention for normed hidden states `x` [rows, width]."""
    qkv = torch.cat([linear(x) for linear in parts.qkv], -1).unflatten(-1, (-1, parts.head_dim))
    q, k, v = qkv.split((parts.heads, parts.kv_heads, parts.kv_heads), -2)
    q = _rotate(_apply_norm(parts.q_norm, q), parts, batch.positions)
    k = _rotate(_apply_norm(parts.k_norm, k), parts, batch.positions)
    keys, values = cache.keys[index], cache.values[index]
    keys[batch.slots, :, batch.positions] = k.to(keys.dtype)
    values[batch.slots, :, batch.positions] = v.to(values.dtype)
    return _apply_norm(parts.after, parts.o(_attend(parts, q, keys, values, batch).flatten(-2)))


def _attend(parts: FusedAttention, q: Tensor, keys: Tensor, values: Tensor, batch: Batch) -> Tensor:
    """Attention of q [rows, heads, head_dim] over the rows' slots; same shape."""
    if batch.prefills:
        rows = zip(q.split([len(p.slots) for p in batch.prefills]), batch.prefills, strict=True)
        return torch.cat([_attend(parts, own, keys, values, prefill) for own, prefill in rows])
    columns = torch.arange(batch.length, device=q.device)
    mask = columns <= batch.positions[:, None]
    if parts.window:
        mask &= columns > batch.positions[:, None] - parts.window
    if batch.slot is not None:
        near = slice(batch.slot, batch.slot + 1)
        k, v = keys[near, :, : batch.length], values[near, :, : batch.length]
        q, mask = q.transpose(0, 1)[None], mask[None, None]
    else:
        k, v = keys[batch.slots, :, : batch.length], values[batch.slots, :, : batch.length]
        q, mask = q[:, :, None], mask[:, None, None]
    k, v = k.to(q.dtype), v.to(q.dtype)
    if parts.softcap:
        output = _capped_attention(parts, q, k, v, mask)
    else:
        output = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=parts.scaling, enable_gqa=True
        )
    return output[0].transpose(0, 1) if batch.slot is not None else output[:, :, 0]


def _capped_attention(
    parts: FusedAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor
) -> Tensor:
    """Attention whose scores are squeezed to +-softcap; all [sequences, heads, rows, head_dim]."""
    k, v = (x.repeat_interleave(parts.heads // parts.kv_heads, 1) for x in (k, v))
    scores = torch.tanh(q @ k.mT * (parts.scaling / parts.softcap)) * parts.softcap
    weights = scores.float().masked_fill(~mask, -torch.inf).softmax(-1)
    return weights.to(q.dtype) @ v


def _rotate(x: Tensor, parts: FusedAttention, positions: Tensor) -> Tensor:
    """Rotary embedding of x [rows, heads, head_dim]; pairs are (i, i + rotary_dim / 2)."""
    if parts.cos is None or parts.sin is None:
        return x
    cos, sin = (table[positions][:, None] for table in (parts.cos, parts.sin))
    half = cos.shape[-1]
    wide = x.float()
    a, b, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), -1).to(x.dtype)


def run_mlp(parts: FusedBlock, hidden: Tensor) -> Tensor:
    """The output of the MLP for `hidden` [rows, width], float32, before the residual multiplier."""
    mlp = parts.mlp
    x = _apply_norm(mlp.before, hidden).to(parts.dtype)
    if mlp.module is not None:
        output: Any = mlp.module(x[None])
        output = (output[0] if isinstance(output, tuple) else output).view_as(hidden)
    else:
        gate, up = torch.cat([linear(x) for linear in mlp.gate_up], -1).chunk(2, -1)
        output = mlp.down((ACTS[mlp.act](gate.float()) * up.float()).to(parts.dtype))
    return _apply_norm(mlp.after, output).float()


def _apply_norm(norm: Norm | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)
