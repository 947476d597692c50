"""Shapes to plan with: the shipped configs of released models, and small ones made by hand."""

import json
from functools import cache
from importlib.resources import files

from salient.core.architectures.reading import read_shape
from salient.core.shape import Block, Cache, Linear, Shape


@cache
def released(name: str) -> Shape:
    """The shape of a shipped config by the last part of its id."""
    folder = files("salient.plan") / "configs"
    path = next(p for p in folder.iterdir() if p.name.endswith(f"--{name}.json"))
    return read_shape(json.loads(path.read_text()))


def made(**changes) -> Shape:
    """Two Llama-like blocks of width 256: 4 heads, 2 key-value heads of 64, inner width 512."""
    linears = (
        Linear("self_attn.q_proj", 256, 256, joined="qkv_proj"),
        Linear("self_attn.k_proj", 128, 256, joined="qkv_proj"),
        Linear("self_attn.v_proj", 128, 256, joined="qkv_proj"),
        Linear("self_attn.o_proj", 256, 256, split="in"),
        Linear("mlp.gate_proj", 512, 256, "mlp", joined="gate_up_proj"),
        Linear("mlp.up_proj", 512, 256, "mlp", joined="gate_up_proj"),
        Linear("mlp.down_proj", 256, 512, "mlp", "in"),
    )
    block = Block("full attention, mlp", linears, Cache(2 * 2 * 64, 2), other=512)
    fields = {"embedding": 1000 * 256, "head": 1000 * 256, "other": 256, "context": 4096}
    return Shape("llama", 256, 1000, (block, block), **{**fields, **changes})
