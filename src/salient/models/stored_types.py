"""Which parameters stay in float32: small ones whose rounding to 16 bits changes what is computed.

Router corrections (34.40 and 34.46 are one number in bfloat16), decays and time steps of state
space layers. Sources store them in float32 next to 16-bit weights; so does the checkpoint.
"""

import re
from collections import Counter
from typing import Any

from salient.core.model_files import StoredTensor

from .weight_map import ParameterFiles

LARGEST_FLOAT32 = 2**22  # elements: 16 MiB, the router of 500 experts at a width of 8192
WIDE = ("F32", "F64")
# Names of the small tensors that a source wholly in float32 needs in float32 too, besides those
# that Transformers' classes name: Mamba's decay and time step, routers' corrections.
SENSITIVE = re.compile(r"(^|\.)(A_log|dt_bias|\w*correction_bias|expert_bias)$")


def main_type(files: ParameterFiles) -> str:
    """The safetensors type of most bytes of the source, e.g. 'BF16'."""
    sizes: Counter[str] = Counter()
    for tensor in files.source.headers.values():
        sizes[tensor.dtype] += tensor.bytes
    return sizes.most_common(1)[0][0]


def float32_parameters(model: Any, files: ParameterFiles) -> frozenset[str]:
    """The parameters and buffers that the checkpoint stores in float32."""
    headers, main, strict = files.source.headers, main_type(files), strict_float32(model)
    return frozenset(
        name
        for name, stored in files.names().items()
        if (header := headers.get(stored)) is not None and stays_float32(name, header, main, strict)
    )


def stays_float32(
    name: str, stored: StoredTensor, main: str, strict: re.Pattern[str] | None = None
) -> bool:
    """Whether a parameter stays in float32, in a source whose tensors are mostly `main`."""
    small = stored.dtype in WIDE and stored.elements <= LARGEST_FLOAT32
    sensitive = SENSITIVE.search(name) or (strict and strict.search(name))
    return small and (main not in WIDE or bool(sensitive))


def strict_float32(model: Any) -> re.Pattern[str] | None:
    """The parameters that Transformers computes in float32 whatever the model's dtype."""
    names = getattr(model, "_keep_in_fp32_modules_strict", None)
    alternatives = "|".join(re.escape(name) for name in sorted(names or ()))
    return re.compile(rf"(^|\.)({alternatives})(\.|$)") if alternatives else None
