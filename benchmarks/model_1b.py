"""A random Llama of the shape of TinyLlama, 1.1 billion parameters, at 16 bits and as 4-bit AWQ.

Both folders are written block by block, so that one block is in memory at a time. The weights are
rounded plainly: they mean nothing, and only their sizes are measured.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salient.core.model_files import INDEX
from salient.core.quant import quantize
from salient.core.scheme import parse_scheme
from salient.formats import load_format
from salient.formats.folder import copy_metadata, quantized_config
from salient.formats.writer import write_json, write_tensors
from salient.models.model_folder import model_folder
from subprocess_run import say

SCHEME = parse_scheme("w4-g128")
DTYPE = torch.bfloat16
SPREAD = 0.02  # standard deviation of the weights
BLOCKS, WIDTH, INNER, HEADS, KEYS, HEAD, VOCABULARY = 22, 2048, 5632, 32, 4, 64, 32000
BLOCK = {
    "input_layernorm": (WIDTH,),
    "self_attn.q_proj": (HEADS * HEAD, WIDTH),
    "self_attn.k_proj": (KEYS * HEAD, WIDTH),
    "self_attn.v_proj": (KEYS * HEAD, WIDTH),
    "self_attn.o_proj": (WIDTH, HEADS * HEAD),
    "post_attention_layernorm": (WIDTH,),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}
OUTER = {
    "model.embed_tokens": (VOCABULARY, WIDTH),
    "model.norm": (WIDTH,),
    "lm_head": (VOCABULARY, WIDTH),
}


def written(work: Path, blocks: int = BLOCKS) -> tuple[Path, Path]:
    """The 16-bit folder and the 4-bit checkpoint, written unless they are there."""
    full, codes = work / f"model-1b-{blocks}", work / f"model-1b-{blocks}-{SCHEME}"
    if not all((folder / "config.json").exists() for folder in (full, codes)):
        _write(full, codes, blocks)
    return full, codes


def _write(full: Path, codes: Path, blocks: int) -> None:
    for folder in (full, codes):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        copy_metadata(model_folder("smollm2-135m"), folder)  # any tokenizer: prompts come as ids
    generator, indexes = torch.Generator().manual_seed(0), ({}, {})
    for number, shapes in enumerate(_shards(blocks)):
        say(f"writing shard {number} of {blocks} of {full} and {codes}")
        made = {name: _random(shape, generator) for name, shape in shapes.items()}
        wide = {f"{name}.weight": weight for name, weight in made.items()}
        narrow = dict(pair for item in made.items() for pair in _rounded(*item))
        for folder, tensors, index in zip((full, codes), (wide, narrow), indexes, strict=True):
            name = f"model-{number:05d}.safetensors"
            write_tensors(folder / name, tensors)
            index |= dict.fromkeys(tensors, name)
    settings = load_format("awq").config(SCHEME, ["lm_head"])
    for folder, index in zip((full, codes), indexes, strict=True):
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": index})
    # The config is written last: a folder that has one is complete.
    dtype = str(DTYPE).removeprefix("torch.")
    write_json(codes / "config.json", quantized_config(_config(blocks), settings, dtype))
    write_json(full / "config.json", _config(blocks) | {"torch_dtype": dtype})


def _shards(blocks: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """The modules of each file with their weights' shapes."""
    yield OUTER
    for block in range(blocks):
        yield {f"model.layers.{block}.{name}": shape for name, shape in BLOCK.items()}


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A weight of `shape`; a norm's is 1."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=DTYPE)
    return torch.randn(shape, generator=generator).mul_(SPREAD).to(DTYPE)


def _rounded(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one module of the 4-bit checkpoint: codes for a block's linears."""
    if weight.ndim == 1 or name in OUTER:
        yield f"{name}.weight", weight
        return
    packed = load_format("awq").pack(quantize(weight, SCHEME, name=name, dtype=DTYPE), DTYPE)
    for leaf, tensor in packed.items():
        yield f"{name}.{leaf}", tensor


def _config(blocks: int) -> dict[str, Any]:
    demo = json.loads((model_folder("smollm2-135m") / "generation_config.json").read_text())
    return demo | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": blocks,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "head_dim": HEAD,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
    }
