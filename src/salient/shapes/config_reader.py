"""A config.json's facts by one set of words, each checked as it is read. Imports no torch.

Families call the same things by other names; the words here are Llama's. Numbers, flags and lists
that cannot be are refused with the key, the value and what fits.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from salient.core.errors import ModelError

MOST_LAYERS = 10_000
LARGEST = 1_000_000_000
MEND = "Fetch the file again; for a layout of its own, give a folder with its safetensors."

# Our word -> the keys under which configs have it, the first that is there counts.
KEYS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "intermediate_size": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "max_position_embeddings": (
        "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx",
    ),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": (
        "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts",
    ),
    "n_shared_experts": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "first_k_dense_replace": ("first_k_dense_replace", "num_dense_layers"),
    "dtype": ("dtype", "torch_dtype"),
}  # fmt: skip


def shown(value: Any) -> str:
    """`value` in a few characters, whatever it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"a {type(value).__name__} too long to show"


@dataclass(frozen=True)
class ConfigReader:
    """What a config says.

    found: its keys and values
    source: the file's name, for errors
    keys: where a family has a word under a key of its own: word -> key, "" for not at all
    defaults: what a family's configs leave out where it is as usual
    """

    found: Mapping[str, Any]
    source: str
    keys: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        name = self.found.get("model_type")
        if not isinstance(name, str) or not name:
            self.refuse("model_type", "the name of a model family, such as 'llama'")
        return name

    def value(self, word: str) -> tuple[str, Any]:
        """The key under which `word` stands and its value, the default's where it is null."""
        own = self.keys.get(word)
        names = KEYS.get(word, (word,)) if own is None else ((own,) if own else ())
        for name in names:
            if self.found.get(name) is not None:
                return name, self.found[name]
        return (names[0] if names else word), self.defaults.get(word)

    def has(self, word: str) -> bool:
        return self.value(word)[1] is not None

    def count(
        self, word: str, default: int | None = None, least: int = 1, most: int = LARGEST
    ) -> int:
        """A whole number from `least` to `most`. Raises ModelError for anything else."""
        key, value = self.value(word)
        if value is None:
            if default is None:
                self.missing(key)
            return default
        if type(value) is not int or not least <= value <= most:
            self.refuse(key, f"a whole number from {least} to {most}", value)
        return value

    def factor(self, word: str, default: float) -> float:
        """A number above 0 and below a million. Raises ModelError for anything else."""
        key, value = self.value(word)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 < value < 1e6:
            self.refuse(key, "a number above 0", value)
        return float(value)

    def flag(self, word: str, *, default: bool = False) -> bool:
        """True or false. Raises ModelError for anything else."""
        key, value = self.value(word)
        if value is None:
            return default
        if type(value) is not bool:
            self.refuse(key, "true or false", value)
        return value

    def words(self, word: str, length: int) -> list[str] | None:
        """A list of `length` strings, None where there is none. Raises ModelError otherwise."""
        key, value = self.value(word)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self.refuse(key, "a list of names", value)
        if len(value) != length:
            self.refuse(key, f"a list of {length} names, one for each layer", value)
        return value

    def numbers(self, word: str) -> list[int] | None:
        """A list of whole numbers, None where there is none. Raises ModelError otherwise."""
        key, value = self.value(word)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(one) is int for one in value):
            self.refuse(key, "a list of whole numbers", value)
        return value

    def part(self, word: str) -> dict[str, Any]:
        """A JSON object, {} where there is none. Raises ModelError for anything else."""
        key, value = self.value(word)
        if value is not None and not isinstance(value, Mapping):
            self.refuse(key, "a JSON object", value)
        return dict(value or {})

    def missing(self, key: str) -> NoReturn:
        """Raise ModelError for a key that is not there."""
        kind = self.found.get("model_type")
        raise ModelError(
            f"{self.source} has no {key!r}, which a model of type {shown(kind)} needs. {MEND}"
        )

    def refuse(self, key: str, fits: str, value: Any = None) -> NoReturn:
        """Raise ModelError for a value that cannot be, saying what `fits`."""
        value = self.found.get(key) if value is None else value
        raise ModelError(f"{self.source}: {key} is {shown(value)}, but only {fits} fits. {MEND}")
