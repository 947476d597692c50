"""Float dtypes by their names in options and config.json."""

from collections.abc import Mapping
from typing import Any

import torch

from .errors import RequestError

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
    return SIXTEEN_BITS.get(str(config.get("dtype") or config.get("torch_dtype")))
