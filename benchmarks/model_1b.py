"""A random Llama of the shape of TinyLlama, 1.1 billion parameters, in 16-bit and as 4-bit AWQ.

Both folders are written block by block, with one block in memory. Weights are rounded to nearest.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from random_models import DTYPE, TOKENIZER, LlamaShape, random_weight, special_tokens
from salient.core.model_files import INDEX
from salient.core.quant import quantize
from salient.core.scheme import LayerSchemes, parse_scheme
from salient.formats import load_format
from salient.formats.folder import copy_metadata, quantized_config
from salient.formats.writer import write_json, write_tensors
from salient.models.model_folder import model_folder
from subprocess_run import log_step

SCHEME = parse_scheme("w4-g128")
SHAPE = LlamaShape(width=2048, inner=5632, blocks=22, heads=32, keys=4, vocabulary=32000)
OUTER = {
    "model.embed_tokens": (SHAPE.vocabulary, SHAPE.width),
    "model.norm": (SHAPE.width,),
    "lm_head": (SHAPE.vocabulary, SHAPE.width),
}


def written(work: Path, blocks: int = SHAPE.blocks) -> tuple[Path, Path]:
    """The 16-bit folder and the 4-bit checkpoint, written if they do not exist."""
    full, codes = work / f"model-1b-{blocks}", work / f"model-1b-{blocks}-{SCHEME}"
    if not all((folder / "config.json").exists() for folder in (full, codes)):
        _write(full, codes, blocks)
    return full, codes


def _write(full: Path, codes: Path, blocks: int) -> None:
    for folder in (full, codes):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        copy_metadata(model_folder(TOKENIZER), folder)
    generator, indexes = torch.Generator().manual_seed(0), ({}, {})
    for number, shapes in enumerate(_shards(blocks)):
        log_step(f"writing shard {number} of {blocks} of {full} and {codes}")
        weights = {name: random_weight(shape, generator) for name, shape in shapes.items()}
        wide = {f"{name}.weight": weight for name, weight in weights.items()}
        narrow = dict(pair for item in weights.items() for pair in _rounded(*item))
        for folder, tensors, index in zip((full, codes), (wide, narrow), indexes, strict=True):
            name = f"model-{number:05d}.safetensors"
            write_tensors(folder / name, tensors)
            index |= dict.fromkeys(tensors, name)
    settings = load_format("awq").config(LayerSchemes(SCHEME), ["lm_head"])
    for folder, index in zip((full, codes), indexes, strict=True):
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": index})
    config = special_tokens() | SHAPE.config | {"num_hidden_layers": blocks}
    # The config is written last: a folder that has one is complete.
    dtype = str(DTYPE).removeprefix("torch.")
    write_json(codes / "config.json", quantized_config(config, settings, dtype))
    write_json(full / "config.json", config | {"torch_dtype": dtype})


def _shards(blocks: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """The shapes of each file's weights by module."""
    block_shapes = SHAPE.attention | SHAPE.mlp
    yield OUTER
    for block in range(blocks):
        yield {f"model.layers.{block}.{name}": shape for name, shape in block_shapes.items()}


def _rounded(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one module of the 4-bit checkpoint: codes for a block's linears."""
    if weight.ndim == 1 or name in OUTER:
        yield f"{name}.weight", weight
        return
    packed = load_format("awq").pack(quantize(weight, SCHEME, name=name, dtype=DTYPE), DTYPE)
    for leaf, tensor in packed.items():
        yield f"{name}.{leaf}", tensor
