"""Checkpoint folders of a few tensors, whole and in shards, 16-bit and 4-bit."""

import json

import pytest
import torch
from safetensors.torch import save_file

from helpers.toy_models import rewrite_json
from salient.core.model_files import INDEX, SINGLE, read_json
from salient.core.quant import quantize
from salient.core.scheme import LayerSchemes, Scheme
from salient.formats import FORMATS, load_format

PROJ = "model.layers.0.mlp.up_proj"
each_format = pytest.mark.parametrize(
    "format", [row.name for row in FORMATS.values() if "quantize" in row.writers]
)


def tensors_of(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(4, 8, generator=generator) for name in ("a", "b", "model.c.weight")}


def folder_of(folder, config=None, tensors=None):
    (folder / "config.json").write_text(json.dumps(config or {}))
    save_file(tensors or tensors_of(), folder / SINGLE)
    return folder


def sharded_of(folder):
    """Two shards: one of 'a' and 'b', one of 'model.c.weight'."""
    tensors = tensors_of()
    (folder / "config.json").write_text("{}")
    last = {"model.c.weight": tensors.pop("model.c.weight")}
    save_file(tensors, folder / "1.safetensors")
    save_file(last, folder / "2.safetensors")
    weight_map = dict.fromkeys(tensors, "1.safetensors") | dict.fromkeys(last, "2.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def remap(folder, **changes):
    rewrite_json(folder / INDEX, weight_map=read_json(folder / INDEX)["weight_map"] | changes)


def quantized_of(folder, format="awq", scheme=None, width=128, **settings):
    """A folder with one quantized linear PROJ [16, width] and one at 16 bits."""
    scheme = scheme or Scheme(32)
    code = load_format(format)
    weight = torch.randn(16, width, generator=torch.Generator().manual_seed(1))
    q = quantize(weight, scheme, name=PROJ, dtype=torch.bfloat16)
    tensors = {f"{PROJ}.{s}": t for s, t in code.pack(q, torch.bfloat16).items()}
    config = {"quantization_config": code.config(LayerSchemes(scheme), ["lm_head"]) | settings}
    return folder_of(folder, config, tensors | {"lm_head.weight": torch.ones(3, 3)}), q
