"""Keys that a config lacks: which defaults stand in for them, and which leave the count open.

Transformers writes no key whose value is its class's default, so that most defaults are right.
absent_keys.json has the keys that every published config of a family states. Imports no torch.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from salient.core.records import is_object

from .config_reader import KEYS, ConfigReader
from .families import Family

_TABLE: dict[str, Any] = json.loads(
    Path(__file__).with_name("absent_keys.json").read_text(encoding="utf-8")
)
# Family -> keys that its published configs state; "a|b": one of them, "a>b": b where a is.
STATED: dict[str, list[str]] = _TABLE["stated"]
# Keys whose default is shown wherever it is taken.
TIED = "tie_word_embeddings"
SHOWN: frozenset[str] = frozenset(_TABLE["shown"])


def absent_keys(
    kind: str, family: Family, text: ConfigReader, whole: ConfigReader, *, attends: bool
) -> Iterator[str]:
    """The keys without which the shape of a model of the family `kind` is a guess.

    attends: whether some of its blocks have attention
    """
    expected = list(STATED.get(kind, ()))
    grouped = attends and not (family.attention.latent or family.attention.compressed)
    grouped = grouped and _is_stated("num_attention_heads", text, whole)  # not of class defaults
    if grouped and text.keys.get("num_key_value_heads") != "":
        expected.append("num_key_value_heads")
    if family.attention.latent:
        expected.append("q_lora_rank")
    for entry in dict.fromkeys(expected):
        other, _, key = entry.rpartition(">")
        if other and other not in text.values:
            continue
        if not any(_is_stated(name, text, whole) for name in key.split("|")):
            yield key.partition("|")[0]


def _is_stated(name: str, text: ConfigReader, whole: ConfigReader) -> bool:
    """Whether the config has a key for `name`, be it null; "vision_config.x" is one of a tower."""
    home, _, inner = name.rpartition(".")
    if home:
        section = (whole if home == "vision_config" else text).values.peek(home)
        return not is_object(section) or inner in section
    own = text.keys.get(name)
    keys = [own] if own else KEYS.get(name, [name])
    return any(key in text.values for key in keys)


def has_no_experts_key(family: Family, text: ConfigReader) -> bool:
    """Whether a mixture of experts has no number of experts, although it chooses some."""
    chooses = family.experts is not None and text.has("num_experts_per_tok")
    return chooses and not _is_stated("num_experts", text, text)


def assumed_lines(text: ConfigReader, family: Family | None) -> tuple[str, ...]:
    """The defaults that were taken for keys of a shape, "head_dim = 128"."""
    own: Mapping[str, object] = family.defaults if family else {}
    lines: list[str] = []
    for path, value in text.assumed.items():
        key = path.rpartition(".")[2]
        plain = (key in SHOWN and value not in (0, 1)) or key == TIED
        if (key in own and not isinstance(value, bool)) or (plain and text.keys.get(key) != ""):
            lines += [] if path in text.values.read else [f"{path} = {json.dumps(value)}"]
    return tuple(lines)
