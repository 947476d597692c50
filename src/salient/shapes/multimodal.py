"""Parameters of a model's towers for images and sound. Imports no torch.

They stay unquantized and cache nothing, so that one number each is enough. towers.json has the
known vision transformers; others are estimated, with a note.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from salient.core.errors import ModelError

from .config_reader import MOST_LAYERS, ConfigReader

NAMES = {"vision_config": "vision tower", "audio_config": "audio tower"}


@dataclass(frozen=True)
class Tower:
    """How a vision transformer differs from SigLIP's (arXiv 2303.15343).

    gated: its MLP has a gate; bias: its linears have biases; norm_bias: its norms
    patch_bias: whether the embedding of patches has one
    positions: a learned vector a patch, one more for a class, as many as the config has, or none
    outer: norms outside the blocks; pooled: an attention over all patches at the end
    merger: Qwen's joining of neighbouring patches; deepstack: one more for some blocks
    adapter: Llama 4's two linears after the blocks
    keys: names under other keys
    """

    gated: bool = False
    bias: bool = True
    norm_bias: bool = True
    patch_bias: bool = True
    positions: Literal["patches", "class", "stated", ""] = "patches"
    outer: int = 1
    pooled: bool = False
    merger: bool = False
    deepstack: bool = False
    adapter: bool = False
    keys: Mapping[str, str] = field(default_factory=dict[str, str])


def _towers() -> dict[str, Tower]:
    rows: dict[str, dict[str, Any]] = json.loads(
        Path(__file__).with_name("towers.json").read_text("utf-8")
    )
    known: dict[str, Tower] = {}
    for kind, row in rows.items():
        base = known[row.pop("like")] if "like" in row else Tower()
        known[kind] = replace(base, **row)
    return known


TOWERS = _towers()


def towers(whole: ConfigReader, hidden: int) -> tuple[dict[str, int], list[str]]:
    """Parameters of each tower and of what joins it to a text of width `hidden`, and notes."""
    counts: dict[str, int] = {}
    notes: list[str] = []
    for key, name in NAMES.items():
        part = whole.section(key)
        if not part:
            continue
        kind = tower_kind(part, whole)
        if kind is None:
            counts[name] = _estimate(replace(whole, values=part))
            notes.append(f"its {name} is of an unknown kind: counted roughly, as plain blocks")
            continue
        defaults = {"model_type": kind, "num_channels": 3}
        config = replace(whole, values=part, keys=TOWERS[kind].keys, defaults=defaults)
        counts[name] = _vision(TOWERS[kind], config, hidden)
        if whole.model_type in PROJECTORS:
            counts["projector"] = PROJECTORS[whole.model_type](whole, config, hidden)
    return counts, notes


def tower_kind(part: Mapping[str, Any], whole: ConfigReader) -> str | None:
    """The row of a tower, by its own type or else the whole model's."""
    name = part.get("model_type")
    names = (name.removesuffix("_vision"), name) if isinstance(name, str) else ()
    return next((n for n in (*names, whole.model_type) if n in TOWERS), None)


def _estimate(config: ConfigReader) -> int:
    """12 * width^2 a block, as a plain transformer has."""
    try:
        key = "hidden_size" if config.has("hidden_size") else "d_model"
        deep = next(w for w in ("num_hidden_layers", "depth", "encoder_layers") if config.has(w))
        return 12 * config.count(key) ** 2 * config.count(deep, most=MOST_LAYERS)
    except (ModelError, StopIteration):
        return 0


def _vision(tower: Tower, config: ConfigReader, hidden: int) -> int:
    wide = config.count("hidden_size")
    inner = config.count("intermediate_size", int(config.factor("mlp_ratio", 4) * wide))
    norm = wide * (2 if tower.norm_bias else 1)
    entries, mlp = (2 if tower.gated else 1), _linear(inner, wide, bias=tower.bias)
    mlp += entries * _linear(wide, inner, bias=tower.bias)
    block = 2 * norm + 4 * _linear(wide, wide, bias=tower.bias) + mlp
    total = block * config.count("num_hidden_layers", most=MOST_LAYERS) + tower.outer * norm
    total += _patches(tower, config, wide)
    if config.flag("vision_use_head", default=tower.pooled):
        total += wide + norm + 4 * _linear(wide, wide) + mlp
    if tower.merger:
        total += _merger(tower, config, norm, hidden)
    if tower.adapter:
        into, last = config.count("projector_input_dim"), config.count("projector_output_dim")
        total += _linear(inner, into, bias=False) + _linear(last, last, bias=False)
    return total


def _patches(tower: Tower, config: ConfigReader, wide: int) -> int:
    """The embedding of patches, and of their places."""
    patch, frames = config.count("patch_size"), 1
    if tower.merger:
        frames = config.count("temporal_patch_size", 2)
    total = wide * (config.count("num_channels") * frames * patch**2 + tower.patch_bias)
    if tower.positions == "stated":
        return total + config.count("num_position_embeddings") * wide
    if tower.positions == "":
        return total
    places = (config.count("image_size") // patch) ** 2
    return total + (places + (2 if tower.positions == "class" else 0)) * wide


def _merger(tower: Tower, config: ConfigReader, norm: int, hidden: int) -> int:
    """Neighbouring patches side by side, through two linears to the width of the text."""
    side = config.count("spatial_merge_size", 2) ** 2
    joined = config.count("hidden_size") * side
    two = _linear(joined, joined) + _linear(joined, config.count("out_hidden_size", hidden))
    deep = config.integers("deepstack_visual_indexes") if tower.deepstack else None
    return norm + two + len(deep or ()) * (norm * side + two)


def _linear(width: int, out: int, *, bias: bool = True) -> int:
    return out * (width + bias)


def _llava(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    bias = whole.flag("multimodal_projector_bias", default=True)
    wide = config.count("hidden_size")
    newline = hidden if whole.model_type == "llava_next" else 0
    return _linear(wide, hidden, bias=bias) + _linear(hidden, hidden, bias=bias) + newline


def _mistral3(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    """A norm, a merger of neighbouring patches, two linears."""
    wide, side = config.count("hidden_size"), whole.count("spatial_merge_size", 2)
    bias = whole.flag("multimodal_projector_bias")
    first = wide + _linear(wide * side**2, wide, bias=False)
    return first + _linear(wide, hidden, bias=bias) + _linear(hidden, hidden, bias=bias)


def _connector(whole: ConfigReader, config: ConfigReader, hidden: int) -> int:
    side = whole.count("scale_factor", 2)
    return _linear(config.count("hidden_size") * side**2, hidden, bias=False)


PROJECTORS: dict[str, Callable[[ConfigReader, ConfigReader, int], int]] = {
    "llava": _llava,
    "llava_next": _llava,
    "mistral3": _mistral3,
    "gemma3": lambda _, config, hidden: config.count("hidden_size") * (hidden + 1),
    "paligemma": lambda _, config, hidden: _linear(
        config.count("hidden_size"), config.count("projection_dim", hidden)
    ),
    "idefics3": _connector,
    "smolvlm": _connector,
    "llama4": lambda _, config, hidden: config.count("vision_output_dim") * hidden,
}
