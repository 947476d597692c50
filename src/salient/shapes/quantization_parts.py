"""Where a config.json, or a file next to it, declares how its weights are quantized."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from salient.core.model_files import as_object, read_json

KEYS = ("quantization_config", "compression_config")
MLX_KEY = "quantization"  # at the top, of mlx-lm
# Files next to config.json that engines read, and the method where they name none.
SIDE_CARS = {
    "hf_quant_config.json": "modelopt",
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
}
# parts of multimodal configs: the language model's first, then any other
LANGUAGE_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
MAX_DEPTH = 4
# What a name says, where no file does: (a part of the name, the settings of most such checkpoints).
_NAMED: tuple[tuple[str, dict[str, object]], ...] = (
    ("nvfp4|fp4", {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}),
    ("mxfp4", {"quant_method": "mxfp4"}),
    ("fp8-block", {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    ("fp8", {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}),
    ("awq", {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}),
    ("gptq-int8", {"quant_method": "gptq", "bits": 8, "group_size": 128, "sym": True}),
    ("gptq", {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}),
    ("mlx-4bit|4bit-mlx", {"bits": 4, "group_size": 64}),
    ("mlx-8bit|8bit-mlx", {"bits": 8, "group_size": 64}),
    ("bnb|nf4", {"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"}),
)  # fmt: skip


def quantization_of_name(name: str) -> tuple[str, dict[str, object]]:
    """The part of a checkpoint's name that says how it is quantized, and likely settings."""
    plain = name.lower().replace("_", "-")
    for pattern, settings in _NAMED:
        if match := re.search(rf"(?:^|[-.])({pattern})(?:$|[-.])", plain):
            return match[1].upper(), settings
    return "", {}


def quantization_parts(config: Mapping[str, object]) -> list[tuple[str, dict[str, object]]]:
    """The path and content of every quantization config: the top's first, then the language's."""
    parts = list(_parts(config, "", MAX_DEPTH))
    mlx = as_object(config.get(MLX_KEY))
    return parts if parts or not mlx else [(MLX_KEY, mlx)]


def quantization_settings(config: Mapping[str, object]) -> dict[str, object]:
    """The quantization of the language model's weights, {} for a 16-bit model.

    `expert_dtype`, which DeepSeek-V4 has outside of it, is one of the settings.
    """
    parts = quantization_parts(config)
    settings = parts[0][1] if parts else dict[str, object]()
    experts = config.get("expert_dtype")
    return {**settings, "expert_dtype": experts} if settings and experts else settings


def with_side_car(folder: Path, config: dict[str, object]) -> dict[str, object]:
    """`config` with the quantization that another file of its folder declares."""
    if quantization_parts(config):
        return config
    for file, method in SIDE_CARS.items():
        here = (folder / file).is_file()
        settings = as_object(read_json(folder / file) if here else None)
        if settings:
            return {**config, "quantization_config": {"quant_method": method, **settings}}
    return config


def _parts(
    config: Mapping[str, object], path: str, depth: int
) -> Iterator[tuple[str, dict[str, object]]]:
    for key in KEYS:
        if settings := as_object(config.get(key)):
            yield path + key, settings
    names = [name for name in LANGUAGE_PARTS if name in config]
    names += [name for name in config if name not in names and name not in KEYS]
    for name in names if depth else ():
        if part := as_object(config.get(name)):
            yield from _parts(part, f"{path}{name}.", depth - 1)
