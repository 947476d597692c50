"""A whole Transformers model from a checkpoint, its codes dequantized."""

from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from salient.formats.checkpoint import open_checkpoint

from .skeleton import Skeleton
from .source import model_folder

DTYPES = {
    "auto": torch.float32,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def load_dequantized(checkpoint: str, dtype: str = "auto", device: str = "cpu") -> tuple[Any, Any]:
    """(model, tokenizer) with every weight of `checkpoint`, 16-bit or 4-bit, in `dtype`.

    'auto' is float32, in which the codes are exact.
    """
    folder = model_folder(checkpoint)
    skeleton = Skeleton(open_checkpoint(folder), DTYPES[dtype], torch.device(device))
    model = skeleton.assemble()
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(folder)
