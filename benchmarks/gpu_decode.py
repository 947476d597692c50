"""Decoding end to end: a random 4-bit Llama of Llama-3-8B's shape, and Transformers in 16-bit.

The checkpoint has random codes, scales and zeros in AutoAWQ's layout, written shard by shard. It
needs about 6 GB of disk and, for the 16-bit model, 17 GB of GPU memory.
"""

import gc
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from gpu_timing import decode_tokens_per_second
from random_models import DTYPE, TOKENIZER, LlamaShape
from salient.core.model_files import INDEX
from salient.core.scheme import LayerSchemes, Scheme
from salient.formats import load_format
from salient.formats.folder import copy_metadata, quantized_config
from salient.formats.writer import write_json, write_tensors
from salient.models.model_folder import model_folder
from salient.runtime.load_engine import EngineOptions, load
from salient.runtime.sampling_params import SamplingParams
from subprocess_run import log_step

PROMPT = 64
CONTEXT = 1024


LLAMA_8B = LlamaShape(width=4096, inner=14336, blocks=32, heads=32, keys=8, vocabulary=128256)


def config_of(shape: LlamaShape) -> dict[str, Any]:
    return shape.config | {
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "eos_token_id": None,
    }


def decode_rates(shape: LlamaShape, scheme: Scheme, work: Path, device: str) -> dict[str, float]:
    """Tokens a second of one sequence: 'salient' and 'transformers'."""
    folder = written(shape, scheme, work)
    rates = {"salient": decode_tokens_per_second(_ours(folder, device))}
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
    rates["transformers"] = decode_tokens_per_second(_transformers(shape, device))
    return rates


def _ours(folder: Path, device: str) -> Any:
    opened = load(str(folder), EngineOptions(device=device, context_length=CONTEXT, slots=1))
    log_step(f"salient runs as: {opened.engine.runner.how}")
    counter = iter(range(10**6))

    def generate(tokens: int) -> None:
        first = next(counter) % 1000  # a new prompt each time: no prefix is reused
        ids = [(first + i) % 1000 for i in range(PROMPT)]
        sampling = SamplingParams(max_new_tokens=tokens, ignore_eos=True)
        opened.engine.generate([ids], sampling)

    return generate


def _transformers(shape: LlamaShape, device: str) -> Any:
    config = LlamaConfig(**config_of(shape))
    with torch.device(device):
        torch.set_default_dtype(DTYPE)
        model = LlamaForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)

    def generate(tokens: int) -> None:
        cache = StaticCache(config=config, max_cache_len=CONTEXT)
        ids = torch.arange(PROMPT, device=device)[None]
        with torch.inference_mode():
            for _ in range(tokens):
                out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                ids = out.logits[:, -1].argmax(-1, keepdim=True)

    return generate


def written(shape: LlamaShape, scheme: Scheme, work: Path) -> Path:
    """The random 4-bit checkpoint, written if it does not exist."""
    folder = work / f"random-{shape.blocks}x{shape.width}-{scheme}"
    if (folder / "config.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy_metadata(model_folder(TOKENIZER), folder)
    index: dict[str, str] = {}
    seeded = torch.Generator().manual_seed(0)
    for number in range(-1, shape.blocks):
        log_step(f"writing shard {number + 2} of {shape.blocks + 1} of {folder}")
        tensors = _outer(shape) if number < 0 else _block(shape, scheme, number, seeded)
        name = f"model-{number + 1:05d}.safetensors"
        write_tensors(folder / name, tensors)
        index |= dict.fromkeys(tensors, name)
    write_json(folder / INDEX, {"metadata": {}, "weight_map": index})
    settings = load_format("awq").config(LayerSchemes(scheme), ["lm_head"])
    write_json(folder / "config.json", quantized_config(config_of(shape), settings, "bfloat16"))
    return folder


def _outer(shape: LlamaShape) -> dict[str, Tensor]:
    table = torch.randn(shape.vocabulary, shape.width).mul_(0.02).to(DTYPE)
    return {
        "model.embed_tokens.weight": table,
        "lm_head.weight": table.flip(0).contiguous(),
        "model.norm.weight": torch.ones(shape.width, dtype=DTYPE),
    }


def _block(
    shape: LlamaShape, scheme: Scheme, number: int, seeded: torch.Generator
) -> dict[str, Tensor]:
    home, tensors = f"model.layers.{number}", {}
    for name, sizes in (shape.attention | shape.mlp).items():
        if len(sizes) == 1:
            tensors[f"{home}.{name}.weight"] = torch.ones(sizes, dtype=DTYPE)
            continue
        out, width = sizes
        groups = width // scheme.group_size
        sizes_of = {"qweight": (width, out // 8), "qzeros": (groups, out // 8)}
        for leaf, size in sizes_of.items():
            codes = torch.randint(-(2**31), 2**31, size, generator=seeded, dtype=torch.int64)
            tensors[f"{home}.{name}.{leaf}"] = codes.to(torch.int32)
        scale = torch.full((groups, out), 0.15 / width**0.5, dtype=torch.float16)
        tensors[f"{home}.{name}.scales"] = scale
    return tensors
