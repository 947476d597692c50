"""Keys of a config.json that nothing read although they look like a shape. Imports no torch.

A family may have a part that its row in families.json lacks; its key is the only sign of it. Which
keys say nothing of a shape is a table, unread_keys.json, by reason.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import translate
from pathlib import Path
from typing import Any

from salient.core.records import is_list, is_object

from .config_reader import KEYS

_TABLE: dict[str, Any] = json.loads(
    Path(__file__).with_name("unread_keys.json").read_text(encoding="utf-8")
)
# Reason -> patterns of keys that say nothing of a shape.
HARMLESS: dict[str, list[str]] = _TABLE["harmless"]
# A key that was read -> those that say the same in another way.
COVERED: dict[str, list[str]] = _TABLE["covered"]
# Keys of a known vision tower that change no count.
TOWER: frozenset[str] = frozenset(_TABLE["tower"])

_HARMLESS = re.compile(
    "|".join(translate(pattern) for patterns in HARMLESS.values() for pattern in patterns)
)
# Parts of the names of counts and widths, of fractions of a width, of flags that change one.
_COUNTS = re.compile(
    r"size|dim|rank|head|expert|layer|block|pattern|latent|ratio|share|width|inner|hidden|intermed|"
    r"ffn|embd|embed|channel|kernel|conv|window|group|mtp|nextn|indic|index|idx|freq|period|interval|"
    r"altup|depth|expan|multi|compress|lora|replace|interleave|every|step|top_?k|per_tok|_types?$|"
    r"(^|_)(n|d|k|num|kv|mlp|moe|ssm)(_|$)"
)
_FRACTIONS = re.compile(r"ratio|(ffn|mlp|inner|hidden|head).*mult|expan")
_FLAGS = re.compile(
    r"k_eq_v|double_wide|cross_attention|output_gate|moe_block|multi_query|tie_word|latent|decoder_arch"
)
_STEPS = re.compile(r"(freq|step|interval|period|every\w*)$")
_MOST_NAMED = 6


def unread_keys(
    config: Mapping[str, Any],
    read: set[str],
    text: str,
    towers: Mapping[str, bool],
    unused: Iterable[str] = (),
) -> list[str]:
    """Paths of the keys of `config` outside `read` that look like a shape.

    text: path of the language model's object, "" if it is the whole config
    towers: the objects of towers -> whether their kind is known; others are not looked into
    unused: keys without a meaning in this model
    """
    covered = {key for path in read for key in COVERED.get(path.rpartition(".")[2], ())}
    covered.update(unused)
    unread: list[str] = []
    for path, value in _left(config, read):
        home, _, key = path.rpartition(".")
        if home in towers:
            known = not towers[home] or key in TOWER
        else:
            known = key in covered or (not home and f"{text}{key}" in read)
            known = known or _repeats(config, path, value, read)
        if not known and looks_like_shape(key, value):
            unread.append(path)
    return unread


def _repeats(config: Mapping[str, Any], path: str, value: object, read: set[str]) -> bool:
    """Whether another key for the same thing, with the same value, was read next to it."""
    *homes, key = path.split(".")
    place: Any = config
    for home in homes:
        place = place.get(home, {})  # a key may itself have a dot
    names = {name for group in KEYS.values() if key in group for name in group if name != key}
    return any(".".join([*homes, name]) in read and place.get(name) == value for name in names)


def summary(paths: list[str]) -> str:
    """The first of `paths`, for a message."""
    more = len(paths) - _MOST_NAMED
    return ", ".join(paths[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def looks_like_shape(key: str, value: object) -> bool:
    """Whether a key says how many or how wide: by its name, and a value that is not off."""
    key = key.lower()
    if _HARMLESS.match(key) or not value:
        return False
    if is_object(value):
        return any(looks_like_shape(inner, part) for inner, part in value.items())
    if is_list(value):
        return _is_list_of_shapes(key, value)
    if isinstance(value, bool):
        return _FLAGS.search(key) is not None
    if isinstance(value, int):
        off = value < 0 or (value == 1 and _STEPS.search(key))
        return not off and _COUNTS.search(key) is not None
    if isinstance(value, float):
        return value not in (0.0, 1.0) and _FRACTIONS.search(key) is not None
    return isinstance(value, str) and "pattern" in key


def _is_list_of_shapes(key: str, values: list[Any]) -> bool:
    """A list of objects with shapes, of counts or of kinds, unless it says the same everywhere."""
    first = values[0]
    if is_object(first):
        return any(looks_like_shape(key, value) for value in values)
    if all(value == first for value in values) and first in (0, 1, "full", "full_attention"):
        return False
    return type(first) in (int, str) and _COUNTS.search(key) is not None


def _left(values: Mapping[str, Any], read: set[str], path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of the keys that were not read, in the objects that were."""
    for key, value in values.items():
        here = f"{path}{key}"
        if here not in read:
            yield here, value
        elif is_object(value) and not _HARMLESS.match(key):
            yield from _left(value, read, f"{here}.")
