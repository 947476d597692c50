"""Random tiny models written to disk as real folders: real config, real tokenizer, real
safetensors."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
)

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_model(
    kind: str = "llama", seed: int = 0, vision: dict[str, Any] | None = None, **changes: Any
) -> Any:
    """A model of the Transformers family `kind`, random but lively.

    Norms are spread, weights have unit gain. A change to None drops a size. `vision` is the rest
    of a config whose text part has these sizes.
    """
    torch.manual_seed(seed)
    sizes = {key: value for key, value in {**SIZES, **changes}.items() if value is not None}
    if vision is None:
        config = AutoConfig.for_model(kind, **sizes)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    else:
        config = AutoConfig.for_model(kind, text_config=sizes, **vision)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 256 bytes and three special tokens."""
    special = ["<pad>", "<s>", "</s>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(special + letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def save(model: Any, folder: Path, dtype: torch.dtype = torch.float16, **options: Any) -> Path:
    """Write `model` with a byte tokenizer as a Hugging Face folder."""
    model.to(dtype).save_pretrained(folder, **options)
    model.float()
    byte_tokenizer().save_pretrained(folder)
    return folder


def toy_folder(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    """A tiny model's folder in one call."""
    return save(tiny_model(kind, **changes), folder)


def toy_text(folder: Path, word_count: int = 3000) -> Path:
    """A text file of seeded random words, one paragraph a hundred words."""
    generator = torch.Generator().manual_seed(0)
    letters = "etaoinshrdlu"
    picks = torch.randint(len(letters), (word_count, 5), generator=generator)
    spelled = ["".join(letters[i] for i in row) for row in picks.tolist()]
    paragraphs = [" ".join(spelled[i : i + 100]) for i in range(0, word_count, 100)]
    path = folder / "toy.txt"
    path.write_text("\n\n".join(paragraphs))
    return path


def rewrite_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
