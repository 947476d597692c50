"""Random Llamas for benchmarks of time and memory: only their sizes matter."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from salient.models.model_folder import model_folder

DTYPE = torch.bfloat16
STANDARD_DEVIATION = 0.02
TOKENIZER = "smollm2-135m"  # any: prompts are token ids
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a Llama. keys: heads of keys and values"""

    width: int
    inner: int
    blocks: int
    heads: int
    keys: int
    vocabulary: int

    @property
    def head(self) -> int:
        return self.width // self.heads

    @property
    def config(self) -> dict[str, Any]:
        """The config.json, without special tokens."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.keys,
            "head_dim": self.head,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "vocab_size": self.vocabulary,
        }

    @property
    def attention(self) -> Shapes:
        """The weights of a block's norms and attention, by module."""
        queries, keys = self.heads * self.head, self.keys * self.head
        return {
            "input_layernorm": (self.width,),
            "self_attn.q_proj": (queries, self.width),
            "self_attn.k_proj": (keys, self.width),
            "self_attn.v_proj": (keys, self.width),
            "self_attn.o_proj": (self.width, queries),
            "post_attention_layernorm": (self.width,),
        }

    @property
    def mlp(self) -> Shapes:
        """The weights of a block's MLP, by module."""
        return {
            "mlp.gate_proj": (self.inner, self.width),
            "mlp.up_proj": (self.inner, self.width),
            "mlp.down_proj": (self.width, self.inner),
        }


def random_weight(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A bfloat16 weight of `shape`; ones for a norm."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=DTYPE)
    return torch.randn(shape, generator=generator).mul_(STANDARD_DEVIATION).to(DTYPE)


def special_tokens() -> dict[str, Any]:
    """The ids of special tokens of the tokenizer, for config.json."""
    path = model_folder(TOKENIZER) / "generation_config.json"
    return json.loads(path.read_text(encoding="utf-8"))
