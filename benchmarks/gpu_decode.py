"""Decoding end to end: a random Llama of Llama-3-8B's shape at 4 bits, beside Transformers.

The checkpoint is random words, scales and zeros in AutoAWQ's layout, written shard by shard; only
sizes are measured. It needs about 6 GB of disk and, for the 16-bit model, 17 GB of GPU memory.
"""

import gc
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from gpu_timing import decode_tokens_per_second
from salient.core.model_files import INDEX
from salient.core.scheme import Scheme
from salient.formats import load_format
from salient.formats.folder import copy_metadata, quantized_config
from salient.formats.writer import write_json, write_tensors
from salient.models.model_folder import model_folder
from salient.runtime.load_engine import EngineOptions, load
from salient.runtime.sampling_params import SamplingParams
from subprocess_run import say

DTYPE = torch.bfloat16
PROMPT = 64
CONTEXT = 1024


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes."""

    width: int = 4096
    inner: int = 14336
    blocks: int = 32
    heads: int = 32
    keys: int = 8
    vocabulary: int = 128256

    @property
    def config(self) -> dict[str, Any]:
        """The config.json of this shape."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.keys,
            "head_dim": self.width // self.heads,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "vocab_size": self.vocabulary,
            "eos_token_id": None,
        }

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(out, in) of a block's linears."""
        side = self.keys * self.width // self.heads
        return {
            "self_attn.q_proj": (self.width, self.width),
            "self_attn.k_proj": (side, self.width),
            "self_attn.v_proj": (side, self.width),
            "self_attn.o_proj": (self.width, self.width),
            "mlp.gate_proj": (self.inner, self.width),
            "mlp.up_proj": (self.inner, self.width),
            "mlp.down_proj": (self.width, self.inner),
        }


def decode_rates(shape: Shape, scheme: Scheme, work: Path, device: str) -> dict[str, float]:
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
    say(f"salient runs as: {opened.engine.runner.how}")
    counter = iter(range(10**6))

    def generate(tokens: int) -> None:
        first = next(counter) % 1000  # another prompt each time: none is reused
        ids = [(first + i) % 1000 for i in range(PROMPT)]
        sampling = SamplingParams(max_new_tokens=tokens, ignore_eos=True)
        opened.engine.generate([ids], sampling)

    return generate


def _transformers(shape: Shape, device: str) -> Any:
    config = LlamaConfig(**shape.config)
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


def written(shape: Shape, scheme: Scheme, work: Path) -> Path:
    """The random 4-bit checkpoint, written unless it is there."""
    folder = work / f"random-{shape.blocks}x{shape.width}-{scheme}"
    if (folder / "config.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy_metadata(model_folder("smollm2-135m"), folder)  # any tokenizer: prompts come as ids
    index: dict[str, str] = {}
    seeded = torch.Generator().manual_seed(0)
    for number in range(-1, shape.blocks):
        say(f"writing shard {number + 2} of {shape.blocks + 1} of {folder}")
        tensors = _outer(shape) if number < 0 else _block(shape, scheme, number, seeded)
        name = f"model-{number + 1:05d}.safetensors"
        write_tensors(folder / name, tensors)
        index |= dict.fromkeys(tensors, name)
    write_json(folder / INDEX, {"metadata": {}, "weight_map": index})
    settings = load_format("awq").config(scheme, ["lm_head"])
    write_json(folder / "config.json", quantized_config(shape.config, settings, "bfloat16"))
    return folder


def _outer(shape: Shape) -> dict[str, Tensor]:
    table = torch.randn(shape.vocabulary, shape.width).mul_(0.02).to(DTYPE)
    return {
        "model.embed_tokens.weight": table,
        "lm_head.weight": table.flip(0).contiguous(),
        "model.norm.weight": torch.ones(shape.width, dtype=DTYPE),
    }


def _block(shape: Shape, scheme: Scheme, number: int, seeded: torch.Generator) -> dict[str, Tensor]:
    home, made = f"model.layers.{number}", {}
    for name in ("input_layernorm", "post_attention_layernorm"):
        made[f"{home}.{name}.weight"] = torch.ones(shape.width, dtype=DTYPE)
    for name, (out, width) in shape.linears.items():
        groups = width // scheme.group_size
        sizes = {"qweight": (width, out // 8), "qzeros": (groups, out // 8)}
        for leaf, size in sizes.items():
            words = torch.randint(-(2**31), 2**31, size, generator=seeded, dtype=torch.int64)
            made[f"{home}.{name}.{leaf}"] = words.to(torch.int32)
        scale = torch.full((groups, out), 0.15 / width**0.5, dtype=torch.float16)
        made[f"{home}.{name}.scales"] = scale
    return made
