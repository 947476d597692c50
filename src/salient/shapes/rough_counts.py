"""Doubts about a count of parameters, and the range that they leave. Imports no torch.

A doubt is a key that was not read, a family or a tower that is not known, a name or an index that
says another number.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .absent_keys import TIED, absent_keys, has_no_experts_key
from .config_reader import KEYS, ConfigReader
from .families import Family
from .model_shape import ModelShape
from .multimodal import FIXED, NAMES, tower_kind, towers_home
from .unread_keys import summary, unread_keys

UNREAD, ABSENT = "not read: ", "config.json has no "
# Shares of the count: released models of unknown families, counted as a Llama, are up to 5 % off;
# those with unread keys have between a fourth and twice of it (Nemotron 3 Super, Gemma 3n).
UNKNOWN_FAMILY = 0.1
UNREAD_DOWN, UNREAD_UP = 0.8, 1.0
ABSENT_SHARE = 0.2
LARGE_HEAD = 0.1
OUTSIDE_TEXT = 0.05  # of parts that are not the language model
LARGEST_TOWER = 6_000_000_000  # InternViT-6B
SMALL_TOWER = 1_000_000_000
# Shares of the cache: without num_key_value_heads it is that of all heads, an unknown family may
# have windows that are not known.
ABSENT_CACHE, UNKNOWN_CACHE, UNREAD_CACHE = (0.05, 6.0), (0.1, 2.0), (0.0, 2.0)
# Keys of the tokens that stand for an image or a sound.
TOWER_TOKEN = re.compile(r"^(image|vision|video|audio)_(start_)?token_(id|index)$")
TOWER_SENSES = {"vision_config": ("image", "vision", "video"), "audio_config": ("audio",)}
# A part -> a key that decides whether there is any of it, and what its keys contain.
PART_KEYS = {
    "experts": ("num_experts", "moe|expert"),
    "attention": ("num_attention_heads", "num_attention_heads|num_key_value_heads|head_dim"),
    "mixer": ("layer_types", "^(mamba|linear|conv|ssm)_"),
}
# Keys of windows, which a known family that has none leaves unread.
WINDOWS = ("sliding_window", "sliding_window_size", "attention_chunk_size", "max_window_layers")


@dataclass(frozen=True)
class Doubt:
    """A reason, and by how many parameters the count may be too high (down) or too low (up).

    cache: the least and the most of the cache, in shares of the one that is counted
    """

    reason: str
    down: float = 0
    up: float = 0
    cache: tuple[float, float] = (1.0, 1.0)


def doubted(shape: ModelShape, doubts: Iterable[Doubt]) -> ModelShape:
    """`shape` with its doubts and the range that they leave."""
    doubts = tuple(doubts)
    if not doubts:
        return shape
    count = shape.parameters
    low = max(count - sum(doubt.down for doubt in doubts), count * (1 - UNREAD_DOWN))
    high = count + sum(doubt.up for doubt in doubts)
    return replace(
        shape,
        rough=tuple(doubt.reason for doubt in doubts),
        low=round(low),
        high=round(high),
        cache_low=min(doubt.cache[0] for doubt in doubts),
        cache_high=max(doubt.cache[1] for doubt in doubts),
    )


def doubts_of_config(
    shape: ModelShape, whole: ConfigReader, text: ConfigReader, family: Family | None, kind: str
) -> Iterator[Doubt]:
    """What leaves the count of `shape` rough; `family`, called `kind`: None where it is unknown.

    `whole` and `text` have read all that they read.
    """
    count, home = shape.parameters, text.values.path
    if family is None:
        share = UNKNOWN_FAMILY * count
        reason = f"model type {kind!r} is unknown, counted as a decoder like Llama"
        yield Doubt(reason, share, share, UNKNOWN_CACHE)
    elif has_no_experts_key(family, text):
        text.missing(text.value("num_experts")[0])
    else:
        share = ABSENT_SHARE * count
        attends = any(linear.part == "attention" for linear in shape.linears)
        for key in absent_keys(kind, family, text, whole, attends=attends):
            yield Doubt(f"{ABSENT}{key}", share, share, ABSENT_CACHE)
        if f"{home}{TIED}" in text.assumed and shape.head > LARGE_HEAD * count:
            yield Doubt(f"{ABSENT}{TIED}: its head may be its embedding", shape.head)
    for guess in text.guesses:
        yield Doubt(guess, ABSENT_SHARE * count, ABSENT_SHARE * count, UNREAD_CACHE)
    outer = towers_home(whole)
    towers = {
        f"{outer.values.path}{key}": tower_kind(section, outer) is not None
        for key in NAMES
        if (section := outer.section(key))
    }
    config, read = whole.values.original, whole.values.read
    unread = unread_keys(config, read, home, towers, _unused(shape, text, family))
    own = [path for path in unread if path.startswith(home)]
    if own:
        down, up = UNREAD_DOWN * count, UNREAD_UP * count
        yield Doubt(f"{UNREAD}{summary(own)}", down, up, UNREAD_CACHE)
    elif unread:
        yield Doubt(f"{UNREAD}{summary(unread)}", 0, OUTSIDE_TEXT * count)
    if whole.model_type not in FIXED:
        yield from _tower_doubts(shape, outer, towers, nested=bool(home))


def _tower_doubts(
    shape: ModelShape, outer: ConfigReader, towers: Mapping[str, bool], *, nested: bool
) -> Iterator[Doubt]:
    """Towers of an unknown kind, and those without a config.

    `towers`: those that have one -> whether their kind is known; `nested`: whether the language
    model is an object of the config
    """
    count = shape.parameters
    most = max(OUTSIDE_TEXT * count, min(SMALL_TOWER, 0.5 * count))
    for path, known in towers.items():
        if not known:
            name = NAMES[path.rpartition(".")[2]]
            tower = shape.towers.get(name, 0)
            reason = f"its {name} is of an unknown kind, counted as plain blocks"
            yield Doubt(reason, tower, max(tower, min(LARGEST_TOWER, OUTSIDE_TEXT * count)))
    tokens = [key.partition("_")[0] for key in outer.values if TOWER_TOKEN.search(key)]
    for key, senses in TOWER_SENSES.items():
        has_tokens = any(sense in tokens for sense in senses)
        if key not in outer.values and (
            has_tokens or (nested and not towers and key == "vision_config")
        ):
            yield Doubt(f"{ABSENT}{key}: counted without its {NAMES[key]}", 0, most)


def _unused(shape: ModelShape, text: ConfigReader, family: Family | None) -> list[str]:
    """Keys without a meaning in this model: of MLPs where all blocks have experts, of experts,
    attention or mixers where there are none, of windows, and those that the family leaves out."""
    parts = {linear.part for linear in shape.linears}
    unused = [key for name, own in text.keys.items() if not own for key in KEYS.get(name, [name])]
    if family:
        unused += WINDOWS
    if family and family.attention.gated:
        unused.append("attn_output_gate")
    if "mlp" not in parts:
        wide = "intermediate_size_mlp"
        unused += [*KEYS["intermediate_size"], text.keys.get(wide, wide)]
    for part, (needed, pattern) in PART_KEYS.items():
        if part not in parts and any(key in text.values for key in KEYS.get(needed, [needed])):
            unused += [key for key in text.values if re.search(pattern, key)]
    return unused
