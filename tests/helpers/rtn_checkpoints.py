"""Tiny 4-bit checkpoints by plain rounding: real folders, without the search that takes time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from helpers.families import FAMILIES
from helpers.toy_models import save, tiny_model
from salient.awq.layer_selection import choose_layers
from salient.awq.partial_shards import PartialCheckpoint
from salient.awq.results import BlockResult, OutputTarget
from salient.core.quant import quantize
from salient.core.scheme import Scheme
from salient.formats.checkpoint import open_checkpoint
from salient.formats.folder import copy_metadata, quantized_config
from salient.formats.writer import merge, write_json
from salient.models.skeleton import Skeleton


def rounded(
    model: Path,
    out: Path,
    scheme: str = "w4-g32",
    format: str = "awq",
    skip: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float16,
    own: Mapping[str, Scheme] | None = None,
) -> Path:
    """Write the 16-bit `model` to `out` with its linears rounded, everything else in `dtype`.

    own: linear -> its scheme, where it is not `scheme`
    """
    source = open_checkpoint(model)
    skeleton = Skeleton(source, torch.float32, torch.device("cpu"))
    layers = choose_layers(skeleton, scheme, format, skip)
    folder = out.with_name(f"{out.name}.pieces")
    out.mkdir(parents=True)
    folder.mkdir()
    target = OutputTarget(layers.scheme, dtype, layers.quantized, own=own or {})
    pieces = PartialCheckpoint(folder, source, skeleton, format, target)
    pieces.write_outer()
    for index, block in enumerate(skeleton.blocks):
        weights = {}
        for name in skeleton.linears(index):
            full = f"{block}.{name}"
            if full in layers.quantized:
                weight = skeleton.files.read(f"{full}.weight")
                weights[name] = quantize(weight, target.scheme_of(full), name=full, dtype=dtype)
        pieces.write_block(pieces.path(index), index, BlockResult(weights, weights, {}))
    merge([pieces.path(i) for i in range(-1, len(skeleton.blocks))], out)
    settings = pieces.quantization_config([*layers.left, *skeleton.tower_modules()])
    dtype_name = str(dtype).removeprefix("torch.")
    write_json(out / "config.json", quantized_config(source.config, settings, dtype_name))
    copy_metadata(model, out)
    return out


# Schemes of a toy's linears that are not w4-g32: wider, symmetric, and of 8 bits.
MIXED = {
    "model.layers.0.mlp.down_proj": Scheme(32, symmetric=True, bits=8),
    "model.layers.1.self_attn.o_proj": Scheme(64),
}


def rounded_toy(folder: Path, kind: str = "llama", changes: Any = None, **how: Any) -> Path:
    """A 4-bit checkpoint of a tiny model in one call; `changes` to its config, `how` to round."""
    family = FAMILIES[kind]
    model = tiny_model(kind, vision=family.vision, **{**family.changes, **(changes or {})})
    save(model, folder / "model", torch.float32)
    return rounded(folder / "model", folder / "rounded", **how)
