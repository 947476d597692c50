"""Parameters of a model's towers for images and sound, and of what joins them to its text.

They stay unquantized and cache nothing, so that one number each is enough. Unknown ones are
estimated, with a note. Imports no torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from salient.core.errors import ModelError

from .config_reader import MOST_LAYERS, ConfigReader
from .encoder_towers import TOWERS, linear_parameters, tower_parameters

# Towers that are the same in every release, whatever the config: the Hub's counts without the text.
FIXED = {"phi3_v": 325_541_888, "phi4mm": 1_738_438_624, "gemma3n": 983_281_504}
NAMES = {"vision_config": "vision tower", "audio_config": "audio tower"}


def towers(whole: ConfigReader, hidden: int) -> tuple[dict[str, int], list[str]]:
    """Parameters of each tower and of what joins it to a text of width `hidden`, and notes."""
    counts: dict[str, int] = {}
    notes: list[str] = []
    if whole.model_type in FIXED:
        return {"towers": FIXED[whole.model_type]}, notes
    whole = towers_home(whole)
    for key, name in NAMES.items():
        part = whole.section(key)
        if not part:
            continue
        kind = tower_kind(part, whole)
        if kind is None:
            counts[name] = _estimate(replace(whole, values=part))
            notes.append(f"its {name} is of an unknown kind: counted roughly, as plain blocks")
            continue
        tower = TOWERS[kind]
        defaults = {"model_type": kind, "num_channels": 3, **tower.defaults}
        config = replace(whole, values=part, keys=tower.keys, defaults=defaults)
        counts[name] = tower_parameters(tower, config, hidden)
        if whole.model_type in PROJECTORS:
            counts["projector"] = counts.get("projector", 0) + PROJECTORS[whole.model_type](
                whole, config, hidden
            )
    return counts, notes


def towers_home(whole: ConfigReader) -> ConfigReader:
    """The object that holds the configs of towers: Qwen's models of all kinds have it inside."""
    return whole.within("thinker_config") if whole.has("thinker_config") else whole


def tower_kind(part: Mapping[str, Any], whole: ConfigReader) -> str | None:
    """The row of a tower, by the whole model's type or else its own."""
    name = part.get("model_type")
    names = (name, name.removesuffix("_vision")) if isinstance(name, str) else ()
    return next((n for n in (whole.model_type, *names) if n in TOWERS), None)


def _estimate(config: ConfigReader) -> int:
    """12 * width^2 a block, as a plain transformer has."""
    try:
        key = "hidden_size" if config.has("hidden_size") else "d_model"
        deep = next(w for w in ("num_hidden_layers", "depth", "encoder_layers") if config.has(w))
        return 12 * config.count(key) ** 2 * config.count(deep, most=MOST_LAYERS)
    except (ModelError, StopIteration):
        return 0


def _llava(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    bias = whole.flag("multimodal_projector_bias", default=True)
    wide = config.count("hidden_size")
    newline = 0 if whole.model_type == "llava" else hidden
    return (
        linear_parameters(wide, hidden, bias=bias)
        + linear_parameters(hidden, hidden, bias=bias)
        + newline
    )


def _mistral3(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    """A norm, a merger of neighbouring patches, two linears."""
    wide, side = config.count("hidden_size"), whole.count("spatial_merge_size", 2)
    bias = whole.flag("multimodal_projector_bias")
    first = wide + linear_parameters(wide * side**2, wide, bias=False)
    return (
        first
        + linear_parameters(wide, hidden, bias=bias)
        + linear_parameters(hidden, hidden, bias=bias)
    )


def _connector(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    side = whole.count("scale_factor", 2)
    return linear_parameters(config.count("hidden_size") * side**2, hidden, bias=False)


def _pixel_shuffle(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    """InternVL's norm of neighbouring patches and two linears."""
    side = round(1 / whole.factor("downsample_ratio", 0.5))
    joined = config.count("hidden_size") * side**2
    return 2 * joined + linear_parameters(joined, hidden) + linear_parameters(hidden, hidden)


def _patch_merger(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    """Kimi's norm and two linears over neighbouring patches."""
    wide = config.count("hidden_size")
    joined = prod(config.integers("merge_kernel_size") or (2, 2)) * wide
    normed = wide
    if whole.has("projection_hidden_size"):
        normed = whole.count("projection_hidden_size")
    return 2 * normed + linear_parameters(joined, joined) + linear_parameters(joined, hidden)


def _twice(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    """MiniMax-M3's two linears, then two over neighbouring patches."""
    wide, inner = config.count("hidden_size"), whole.count("projector_hidden_size", hidden)
    own = whole.within("img_token_compression_config")
    side = own.count("spatial_merge_size", config.count("spatial_merge_size", 2))
    out = linear_parameters(inner, hidden)
    return linear_parameters(wide, inner) + linear_parameters(side**2 * hidden, inner) + 2 * out


def _aligned(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    """Cohere's two linears over neighbouring patches, with a gate between them."""
    joined = config.count("hidden_size") * whole.count("downsample_factor", 2) ** 2
    inner = whole.count("alignment_intermediate_size", 36864)
    norm = 2 * joined if whole.model_type == "aya_vision" else 0
    return norm + linear_parameters(joined, inner) + linear_parameters(inner // 2, hidden)


def _unshuffled(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    """LFM2's norm of neighbouring patches and two linears."""
    joined = config.count("hidden_size") * whole.count("downsample_factor", 2) ** 2
    inner, bias = (
        whole.count("projector_hidden_size", 2560),
        whole.flag("projector_bias", default=True),
    )
    norm = 2 * joined if whole.flag("projector_use_layernorm", default=True) else 0
    return (
        norm
        + linear_parameters(joined, inner, bias=bias)
        + linear_parameters(inner, hidden, bias=bias)
    )


def _of_sound(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    """Voxtral's two linears over some joined frames."""
    return config.count("intermediate_size") * hidden + hidden**2


PROJECTORS: dict[str, Callable[[ConfigReader, ConfigReader, int], int]] = {
    "llava": _llava,
    "llava_next": _llava,
    "llava_onevision": _llava,
    "cohere2_vision": _aligned,
    "aya_vision": _aligned,
    "lfm2_vl": _unshuffled,
    "qwen2_audio": lambda _, config, hidden: linear_parameters(config.count("hidden_size"), hidden),
    "mistral3": _mistral3,
    "gemma3": lambda _, config, hidden: config.count("hidden_size") * (hidden + 1),
    "paligemma": lambda _, config, hidden: linear_parameters(
        config.count("hidden_size"), config.count("projection_dim", hidden)
    ),
    "gemma4": lambda _, config, hidden: (
        config.count("output_proj_dims" if config.has("output_proj_dims") else "hidden_size")
        * hidden
    ),
    "mllama": lambda _, config, hidden: linear_parameters(
        config.count("vision_output_dim", 7680), hidden
    ),
    "internvl": _pixel_shuffle,
    "internvl_chat": _pixel_shuffle,
    "kimi_k25": _patch_merger,
    "kimi_k3": _patch_merger,
    "kimi_vl": _patch_merger,
    "minimax_m3_vl": _twice,
    "step3p7": lambda _, config, hidden: 4 * config.count("hidden_size") * hidden,
    "voxtral": _of_sound,
    "idefics3": _connector,
    "smolvlm": _connector,
    "llama4": lambda _, config, hidden: config.count("vision_output_dim") * hidden,
}
