"""A whole Transformers model from a checkpoint, its codes dequantized."""

from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from salient.core.dtypes import dtype_of
from salient.formats.checkpoint import open_checkpoint

from .model_folder import model_folder
from .skeleton import Skeleton


def load_dequantized(checkpoint: str, dtype: str = "auto", device: str = "cpu") -> tuple[Any, Any]:
    """(model, tokenizer) with every weight of `checkpoint`, 16-bit or 4-bit, in `dtype`.

    'auto' is float32, in which the codes are exact. Raises RequestError for an unknown `dtype`.
    """
    wanted = dtype_of(dtype, torch.float32)
    folder = model_folder(checkpoint)
    skeleton = Skeleton(open_checkpoint(folder), wanted, torch.device(device))
    model = skeleton.assemble()
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(folder)
