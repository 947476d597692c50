"""Checkpoint formats: named tensors on disk -> weights, and QuantizedWeight -> named tensors.

A format that has *codes* (affine integers in groups along `in`) is one module with `SUFFIXES`,
`unpack` and `read_config`; where Salient writes it, also `pack` and `config`. A format that has
only *values* has `PARTS`, `MARKERS`, `SIBLINGS`, `dequantize` and `read_config`, see
`stored_parts.py`. The table imports no torch; `load_format` brings the module in.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from salient.core.errors import CheckpointError


@dataclass(frozen=True)
class Format:
    """A row of the table: where the code is and what the format's config calls itself.

    codes: whether `unpack` gives a QuantizedWeight; else the format has only values
    writers: the verbs that write it
    """

    name: str
    module: str
    quant_method: str
    suffix: str  # the tensor whose presence marks a quantized module
    codes: bool = True
    writers: tuple[str, ...] = ()


# In the order in which a config is tried, of the rows with its quant_method.
_TABLE = (
    Format("awq", "autoawq", "awq", "qweight", writers=("quantize", "convert")),
    Format(
        "compressed-tensors",
        "compressed_tensors",
        "compressed-tensors",
        "weight_packed",
        writers=("quantize", "convert"),
    ),
    Format("gptq", "gptq", "gptq", "qweight", writers=("convert",)),
    Format("awq-gemv", "awq_gemv", "awq", "qweight"),
    Format("awq-gemv-fast", "awq_gemv_fast", "awq", "qweight"),
    Format("awq-marlin", "awq_marlin", "awq", "qweight"),
    Format(
        "compressed-tensors values",
        "scaled_values",
        "compressed-tensors",
        "weight_scale",
        codes=False,
    ),
    Format("fp8", "scaled_values", "fp8", "weight_scale_inv", codes=False),
    Format("modelopt", "scaled_values", "modelopt", "weight_scale", codes=False),
    Format("mxfp4", "mxfp4_experts", "mxfp4", "_blocks", codes=False),
    Format("bitsandbytes", "bitsandbytes", "bitsandbytes", "weight.absmax", codes=False),
)
FORMATS = {row.name: row for row in _TABLE}
# What writers call a method, besides its name here.
METHOD_ALIASES = {
    "awq_marlin": "awq",
    "auto_awq": "awq",
    "gptq_marlin": "gptq",
    "auto_gptq": "gptq",
    "gptqmodel": "gptq",
    "compressed_tensors": "compressed-tensors",
    "intel/auto-round": "auto-round",
    "fbgemm_fp8": "fp8",
    "finegrained_fp8": "fp8",
    "deepseek_v4_fp8": "fp8",
    "modelopt_fp4": "modelopt",
    "nvfp4": "modelopt",
    "gpt_oss_mxfp4": "mxfp4",
}


def find_format(name: str, writer: str = "") -> Format:
    """The format called `name`, of those that the verb `writer` writes if it is given.

    Raises CheckpointError listing the known ones.
    """
    known = [row.name for row in FORMATS.values() if not writer or writer in row.writers]
    if name not in known:
        raise CheckpointError(f"Unknown format {name!r}. Known formats: {', '.join(known)}.")
    return FORMATS[name]


def load_format(name: str) -> ModuleType:
    """The module that packs and unpacks the format called `name`."""
    return import_module(f"salient.formats.{find_format(name).module}")
