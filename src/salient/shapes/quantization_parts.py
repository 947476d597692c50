"""Where a config.json, or a file next to it, declares how its weights are quantized."""

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
        if (folder / file).is_file():
            settings = as_object(read_json(folder / file))
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
