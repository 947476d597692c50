"""GGUF files of tiny models, as llama.cpp's converter makes them: names, row orders, changes."""

import re
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from salient.formats.checkpoint import open_checkpoint

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "gemma": "gemma", "qwen3_moe": "qwen3moe"}


def rotary_interleaved(weight: Tensor, heads: int) -> Tensor:
    """As LlamaModel.permute of the converter."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def converted(name: str, tensor: Tensor, config: dict[str, Any]) -> Tensor:
    """The parameter `name` as the converter changes it."""
    if config["model_type"] == "llama" and re.search(r"[qk]_proj\.(weight|bias)$", name):
        key = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
        return rotary_interleaved(tensor, config[key])
    if config["model_type"] == "gemma" and name.endswith("norm.weight"):
        return tensor + 1
    return tensor


def write_template(model: Path, path: Path, kind: str = "F16", **metadata: Any) -> Path:
    """The 16-bit `model` as a GGUF file whose matrices have the type `kind`."""
    source = open_checkpoint(model)
    config: dict[str, Any] = source.config
    architecture = ARCHITECTURES[config["model_type"]]
    kinds = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config["num_hidden_layers"])
    tensors: dict[str, list[Tensor]] = {}
    for parameter in source.files:
        plain = re.sub(r"\.experts\.\d+\.", ".experts.", parameter)
        home = names.get_name(plain, (".weight", ".bias"))
        assert home, parameter
        values = converted(parameter, source.tensor(parameter).float(), config)
        tensors.setdefault(home, []).append(values)
    writer = gguf.GGUFWriter(path, architecture)
    numbers = {
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
    }
    for key, value in (numbers | metadata).items():
        writer.add_uint32(f"{architecture}.{key}", int(value))
    vocabulary = config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens_of(model, vocabulary))
    for name, parts in tensors.items():
        data = (torch.stack(parts) if ".ffn_" in name and "exps" in name else parts[0]).numpy()
        stored = gguf.GGMLQuantizationType["F32" if data.ndim == 1 else kind]
        writer.add_tensor(name, gguf.quants.quantize(data, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokens_of(model: Path, count: int) -> list[str]:
    """The tokens of the model's tokenizer, filled up."""
    from transformers import AutoTokenizer

    ids = {i: t for t, i in AutoTokenizer.from_pretrained(model).get_vocab().items()}
    return [ids.get(number, f"[PAD{number}]") for number in range(count)]


def tensors_in(path: Path) -> dict[str, Tensor]:
    """All tensors of a GGUF file, dequantized."""
    return {
        entry.name: torch.from_numpy(gguf.quants.dequantize(entry.data, entry.tensor_type).copy())
        for entry in gguf.GGUFReader(path).tensors
    }
