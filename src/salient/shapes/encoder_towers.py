"""Parameters of one vision or audio transformer from its config. Imports no torch.

towers.json has the known kinds: one row each, with only what differs from SigLIP, or from the row
that it is "like". They are read from the model classes of Transformers 5.23.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from salient.core.records import is_list

from .blocks import is_true
from .config_reader import MOST_LAYERS, ConfigReader
from .families import Fact


@dataclass(frozen=True)
class Tower:
    """How a transformer differs from SigLIP's for images (arXiv 2303.15343).

    gated: its MLP has a gate; bias: its linears have biases; norm_bias: its norms
    attention_bias, out_bias: whether those of attention have them, None as bias; key_bias: keys
    grouped: heads of a width of their own, and fewer of keys and values
    norms: norms a block; head_norms: vectors of a head's width, wide_norms: of the width, that norm
        queries and keys; scales: vectors that scale the outputs of a block
    patch_bias: whether the embedding of patches has one; frames: how many join in a patch
    positions: a learned vector a patch, one more for a class, as many as the config has, or none
    outer: norms outside the blocks; pooled: an attention over all patches at the end
    merger: Qwen's joining of neighbouring patches; deepstack: one more for some blocks
    adapter: Llama 4's two linears after the blocks
    audio: Whisper's two convolutions in place of patches (arXiv 2212.04356)
    conformer: Gemma's conformer of sound, counted as a whole
    others: further parts, keys of OTHERS
    keys: names under other keys; defaults: values that configs may leave out
    """

    gated: bool = False
    bias: Fact = True
    attention_bias: Fact | None = None
    out_bias: Fact | None = None
    key_bias: bool = True
    grouped: bool = False
    norms: int = 2
    norm_bias: bool = True
    head_norms: int = 0
    wide_norms: str = ""
    scales: int = 0
    patch_bias: bool = True
    frames: int = 1
    positions: Literal["patches", "class", "stated", ""] = "patches"
    outer: int = 1
    pooled: bool = False
    merger: bool = False
    deepstack: bool = False
    adapter: bool = False
    audio: bool = False
    conformer: bool = False
    others: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _towers() -> dict[str, Tower]:
    rows: dict[str, dict[str, Any]] = json.loads(
        Path(__file__).with_name("towers.json").read_text("utf-8")
    )
    known: dict[str, Tower] = {}
    for kind, row in rows.items():
        base = known[row.pop("like")] if "like" in row else Tower()
        known[kind] = replace(base, **{**row, "others": tuple(row.get("others", base.others))})
    return known


TOWERS = _towers()


def linear_parameters(width: int, out: int, *, bias: bool = True) -> int:
    return out * (width + bias)


def tower_parameters(tower: Tower, config: ConfigReader, hidden: int) -> int:
    """Those of the tower that `config` describes, next to a text of width `hidden`."""
    wide = config.count("hidden_size")
    if tower.conformer:
        return _conformer(config, wide)
    inner = config.count("intermediate_size", int(config.factor("mlp_ratio", 4) * wide))
    norm = wide * (2 if tower.norm_bias else 1)
    mlp = _mlp(tower, config, wide, inner)
    block = tower.norms * norm + _attention(tower, config, wide) + mlp + tower.scales * wide
    layers = config.count("num_hidden_layers", most=MOST_LAYERS)
    total = block * layers + tower.outer * norm
    if tower.audio:
        total += _sounds(config, wide, placed=tower.positions != "")
    elif "mel convolutions" not in tower.others:
        total += _patches(tower, config, wide)
    if config.flag("vision_use_head", default=tower.pooled):
        total += wide + norm + 4 * linear_parameters(wide, wide) + mlp
    if tower.merger:
        total += _merger(tower, config, norm, hidden)
    if tower.adapter:
        into, last = config.count("projector_input_dim"), config.count("projector_output_dim")
        total += into * inner + last * last
    return total + sum(OTHERS[name](config, wide, block) for name in tower.others)


def _mlp(tower: Tower, config: ConfigReader, wide: int, inner: int) -> int:
    bias = is_true(tower.bias, config)
    entries = 2 if tower.gated else 1
    down = linear_parameters(inner, wide, bias=bias)
    return down + entries * linear_parameters(wide, inner, bias=bias)


def _attention(tower: Tower, config: ConfigReader, wide: int) -> int:
    queries = keys = config.count("qkv_hidden_size", wide)
    norms = 2 * wide if tower.wide_norms and config.flag(tower.wide_norms) else 0
    if tower.grouped:
        heads = config.count("num_attention_heads")
        head = config.count("head_dim", max(1, wide // heads))
        queries, keys = heads * head, config.count("num_key_value_heads", heads) * head
        norms += tower.head_norms * head
    bias = is_true(tower.bias if tower.attention_bias is None else tower.attention_bias, config)
    out_bias = bias if tower.out_bias is None else is_true(tower.out_bias, config)
    biases = bias * (queries + keys * (2 if tower.key_bias else 1)) + out_bias * wide
    return 2 * wide * (queries + keys) + biases + norms


def _patches(tower: Tower, config: ConfigReader, wide: int) -> int:
    """The embedding of patches, and of their places."""
    patch, frames = _side(config, "patch_size"), tower.frames
    if frames > 1:
        own = config.within("img_token_compression_config").count("temporal_patch_size", frames)
        frames = config.count("temporal_patch_size", own)
    total = wide * (config.count("num_channels") * frames * patch**2 + tower.patch_bias)
    if tower.positions == "stated":
        return total + config.count("num_position_embeddings") * wide
    if tower.positions == "":
        return total
    places = (_side(config, "image_size") // patch) ** 2
    return total + (places + (2 if tower.positions == "class" else 0)) * wide


def _side(config: ConfigReader, name: str) -> int:
    """A number, or the first of two."""
    value = config.value(name)[1]
    return (config.integers(name) or [0])[0] if is_list(value) and value else config.count(name)


def _sounds(config: ConfigReader, wide: int, *, placed: bool) -> int:
    """Two convolutions over three frames, and a vector for each place if it is `placed`."""
    convolutions = wide * (3 * config.count("num_mel_bins", 80) + 1) + wide * (3 * wide + 1)
    return convolutions + (config.count("max_source_positions", 1500) * wide if placed else 0)


def _conformer(config: ConfigReader, wide: int) -> int:
    """Gemma 4's: a convolution between attention and two MLPs in each block (arXiv 2005.08100)."""
    first, second = config.integers("subsampling_conv_channels") or (128, 32)
    head = wide // config.count("num_attention_heads", 8)
    block = 16 * wide**2 + 4 * wide + 5 * wide**2 + head + 3 * wide**2
    block += wide * config.count("conv_kernel_size", 5) + 2 * wide + 3 * wide
    total = block * config.count("num_hidden_layers", most=MOST_LAYERS)
    total += 9 * first * (1 + second) + first + second + first // 4 * second * wide
    return total + linear_parameters(wide, config.count("output_proj_dims", 1536))


def _merger(tower: Tower, config: ConfigReader, norm: int, hidden: int) -> int:
    """Neighbouring patches next to each other, through two linears to the width of the text."""
    side = config.count("spatial_merge_size", 2) ** 2
    joined = config.count("hidden_size") * side
    two = linear_parameters(joined, joined)
    two += linear_parameters(joined, config.count("out_hidden_size", hidden))
    deep = config.integers("deepstack_visual_indexes") if tower.deepstack else None
    return norm + two + len(deep or ()) * (norm * side + two)


def _tiles(config: ConfigReader, wide: int, block: int) -> int:
    """Llama 3.2's gated blocks over all tiles, its class, and the embeddings of tiles."""
    patches = (config.count("image_size") // config.count("patch_size")) ** 2 + 1
    ratios = config.value("supported_aspect_ratios")[1]
    known = 1 + (len(ratios) if is_list(ratios) else 8)
    tiles = config.count("max_num_tiles", 4)
    embeddings = patches * wide + known * tiles * wide * (patches + 2) + 3 + wide
    return config.count("num_global_layers", 8) * (block + 2) + embeddings


def _downsampling(config: ConfigReader, wide: int, block: int) -> int:
    """Step's two convolutions, each to twice the channels."""
    return 2 * wide * (9 * wide + 1) + 4 * wide * (9 * 2 * wide + 1)


def _grid(config: ConfigReader, wide: int, block: int) -> int:
    """Kimi's learned places."""
    return config.count("pos_emb_height", 64) * config.count("pos_emb_width", 64) * wide


def _glm_merger(config: ConfigReader, wide: int, block: int) -> int:
    """GLM's convolution over neighbouring patches, a linear with a norm, and an MLP with a gate."""
    out, inner = config.count("out_hidden_size"), config.count("merged_size")
    side = config.count("spatial_merge_size", 2)
    return out * (wide * side**2 + 1) + out**2 + 2 * out + 3 * out * inner


def _marked_output(config: ConfigReader, wide: int, block: int) -> int:
    """Qwen2.5-Omni's linear to the text's width, and vectors for the begin and end of sound."""
    out = config.count("output_dim")
    return linear_parameters(wide, out) + 2 * out


def _mel_convolutions(config: ConfigReader, wide: int, block: int) -> int:
    """Qwen3-Omni's three convolutions over mel and time, and three linears."""
    channels, bins = config.count("downsample_hidden_size", 480), config.count("num_mel_bins", 128)
    for _ in range(3):
        bins = (bins + 1) // 2
    convolutions = channels * (9 + 1) + 2 * channels * (9 * channels + 1)
    linears = channels * bins * wide + linear_parameters(wide, wide)
    return convolutions + linears + linear_parameters(wide, config.count("output_dim"))


OTHERS: dict[str, Callable[[ConfigReader, int, int], int]] = {
    "tiles": _tiles,
    "downsampling": _downsampling,
    "grid": _grid,
    "glm merger": _glm_merger,
    "marked output": _marked_output,
    "mel convolutions": _mel_convolutions,
    "both axes": lambda config, wide, block: 2 * config.count("position_embedding_size") * wide,
}
