"""Shapes to plan with: the shipped configs of released models, and a small one."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import BlockShape, CacheShape, LinearShape, ModelShape


def released_config(name: str) -> dict[str, Any]:
    """A shipped config by the last part of its id."""
    folder = files("salient.shapes") / "configs"
    path = next(p for p in folder.iterdir() if p.name.endswith(f"--{name}.json"))
    return json.loads(path.read_text())


@cache
def released(name: str) -> ModelShape:
    """The shape of a shipped config by the last part of its id."""
    return read_shape(released_config(name))


def small_shape(**changes) -> ModelShape:
    """Two Llama-like blocks of width 256: 4 heads, 2 key-value heads of 64, inner width 512."""
    linears = (
        LinearShape("self_attn.q_proj", 256, 256, joined="qkv_proj"),
        LinearShape("self_attn.k_proj", 128, 256, joined="qkv_proj"),
        LinearShape("self_attn.v_proj", 128, 256, joined="qkv_proj"),
        LinearShape("self_attn.o_proj", 256, 256, split="in"),
        LinearShape("mlp.gate_proj", 512, 256, "mlp", joined="gate_up_proj"),
        LinearShape("mlp.up_proj", 512, 256, "mlp", joined="gate_up_proj"),
        LinearShape("mlp.down_proj", 256, 512, "mlp", "in"),
    )
    block = BlockShape("full attention, mlp", linears, CacheShape(2 * 2 * 64, 2), other=512)
    fields = {"embedding": 1000 * 256, "head": 1000 * 256, "other": 256, "context": 4096}
    return ModelShape("llama", 256, 1000, (block, block), **{**fields, **changes})
