"""Tiny 4-bit checkpoints by plain rounding: real folders, without the search that takes time."""

from pathlib import Path
from typing import Any

import torch

from helpers.families import FAMILIES
from helpers.toy_models import save, tiny_model
from salient.awq.layer_selection import choose_layers
from salient.awq.partial_shards import PartialCheckpoint
from salient.awq.results import BlockResult, OutputTarget
from salient.core.quant import quantize
from salient.formats import load_format
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
) -> Path:
    """Write the 16-bit `model` to `out` with its linears rounded, everything else in `dtype`."""
    source = open_checkpoint(model)
    skeleton = Skeleton(source, torch.float32, torch.device("cpu"))
    layers = choose_layers(skeleton, scheme, format, skip)
    folder = out.with_name(f"{out.name}.pieces")
    out.mkdir(parents=True)
    folder.mkdir()
    pieces = PartialCheckpoint(
        folder, source, skeleton, format, OutputTarget(layers.scheme, dtype, layers.quantized)
    )
    pieces.write_outer()
    for index, block in enumerate(skeleton.blocks):
        weights = {}
        for name in skeleton.linears(index):
            full = f"{block}.{name}"
            if full in layers.quantized:
                weight = skeleton.files.read(f"{full}.weight")
                weights[name] = quantize(weight, layers.scheme, name=full, dtype=dtype)
        pieces.write_block(index, BlockResult(weights, weights, {}))
    merge([pieces.path(i) for i in range(-1, len(skeleton.blocks))], out)
    names = sorted(map(skeleton.files.module, [*layers.left, *skeleton.tower_modules()]))
    settings = load_format(format).config(layers.scheme, names)
    dtype_name = str(dtype).removeprefix("torch.")
    write_json(out / "config.json", quantized_config(source.config, settings, dtype_name))
    copy_metadata(model, out)
    return out


def rounded_toy(folder: Path, kind: str = "llama", changes: Any = None, **how: Any) -> Path:
    """A 4-bit checkpoint of a tiny model in one call; `changes` to its config, `how` to round."""
    family = FAMILIES[kind]
    model = tiny_model(kind, vision=family.vision, **{**family.changes, **(changes or {})})
    save(model, folder / "model", torch.float32)
    return rounded(folder / "model", folder / "rounded", **how)
