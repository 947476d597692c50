"""Float dtypes by their names in options and config.json."""

from collections.abc import Mapping
from typing import Any

import torch

from .errors import RequestError
from .model_files import as_object

SIXTEEN_BITS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPES = {"float32": torch.float32, **SIXTEEN_BITS}


def dtype_of(name: str, auto: torch.dtype, field: str = "dtype") -> torch.dtype:
    """The dtype called `name`, `auto` for "auto". Raises RequestError, naming `field`."""
    if name == "auto":
        return auto
    if name not in DTYPES:
        raise RequestError(f"Unknown {field} {name!r}. Use auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def stored_sixteen_bits(config: Mapping[str, Any]) -> torch.dtype | None:
    """The 16-bit dtype of a config.json's weights; None for other dtypes or none."""
    parts = (config, as_object(config.get("text_config")))
    names = [part[key] for part in parts for key in ("dtype", "torch_dtype") if part.get(key)]
    return SIXTEEN_BITS.get(str(names[0]).removeprefix("torch.")) if names else None
