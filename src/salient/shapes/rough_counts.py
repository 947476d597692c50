"""Doubts about a count of parameters, and the range that they leave. Imports no torch.

A doubt is a key that was not read, a family or a tower that is not known, a name or an index that
says another number.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .config_reader import KEYS, ConfigReader
from .families import Family
from .model_shape import ModelShape
from .multimodal import NAMES, tower_kind
from .unread_keys import summary, unread_keys

UNREAD = "not read: "
# Shares of the count: released models of unknown families, counted as a Llama, are up to 5 % off;
# those with unread keys have between a fourth and twice of it (Nemotron 3 Super, Gemma 3n).
UNKNOWN_FAMILY = 0.1
UNREAD_DOWN, UNREAD_UP = 0.8, 1.0
OUTSIDE_TEXT = 0.05  # of parts that are not the language model
LARGEST_TOWER = 6_000_000_000  # InternViT-6B
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
    """A reason, and by how many parameters the count may be too high (down) or too low (up)."""

    reason: str
    down: float = 0
    up: float = 0


def doubted(shape: ModelShape, doubts: Iterable[Doubt]) -> ModelShape:
    """`shape` with its doubts and the range that they leave."""
    doubts = tuple(doubts)
    if not doubts:
        return shape
    count = shape.parameters
    low = max(count - sum(doubt.down for doubt in doubts), count * (1 - UNREAD_DOWN))
    high = count + sum(doubt.up for doubt in doubts)
    reasons = tuple(doubt.reason for doubt in doubts)
    return replace(shape, rough=reasons, low=round(low), high=round(high))


def doubts_of_config(
    shape: ModelShape, whole: ConfigReader, text: ConfigReader, family: Family | None
) -> Iterator[Doubt]:
    """What leaves the count of `shape` rough; `family`: None where it is unknown.

    `whole` and `text` have read all that they read.
    """
    count = shape.parameters
    if family is None:
        kind = text.values.peek("model_type")
        yield Doubt(
            f"model type {kind!r} is unknown, counted as a decoder like Llama",
            UNKNOWN_FAMILY * count,
            UNKNOWN_FAMILY * count,
        )
    towers = {
        key: tower_kind(section, whole) is not None
        for key in NAMES
        if (section := whole.section(key))
    }
    config, read, home = whole.values.original, whole.values.read, text.values.path
    unread = unread_keys(config, read, home, towers, _unused(shape, text, family))
    own = [path for path in unread if path.startswith(home)]
    if unread:
        down, up = (UNREAD_DOWN, UNREAD_UP) if own else (0.0, OUTSIDE_TEXT)
        yield Doubt(f"{UNREAD}{summary(own or unread)}", down * count, up * count)
    for key, is_known in towers.items():
        if not is_known:
            tower = shape.towers.get(NAMES[key], 0)
            yield Doubt(
                f"its {NAMES[key]} is of an unknown kind, counted as plain blocks",
                tower,
                max(tower, min(LARGEST_TOWER, OUTSIDE_TEXT * count)),
            )


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
    for part, (needed, words) in PART_KEYS.items():
        if part not in parts and any(key in text.values for key in KEYS.get(needed, [needed])):
            unused += [key for key in text.values if re.search(words, key)]
    return unused
