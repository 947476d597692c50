"""The values of a config.json under Llama's names, each checked as it is read. Imports no torch.

Families have the same values under other keys. Invalid numbers, flags and lists are refused with
the key, the value and what fits.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

from salient.core.errors import ModelError, brief

from .recorded_values import RecordedValues

MOST_LAYERS = 10_000
LARGEST = 1_000_000_000
REMEDY = (
    "Correct config.json; if it is as its makers published it, its layout is not known: give a "
    "folder with its safetensors, whose headers are counted."
)
# Keys of layouts that no family shares: of blocks one by one, of code that comes with the model.
OWN_LAYOUT = {"block_configs": "block_configs", "auto_map": "code of its own in auto_map"}

_TABLE: dict[str, Any] = json.loads(
    Path(__file__).with_name("config_keys.json").read_text(encoding="utf-8")
)
# Llama's name -> the keys of other families; the first that is present counts.
KEYS: dict[str, list[str]] = _TABLE["keys"]
# Values that a text part inside another config may leave out: those of the configuration classes of
# Transformers 5.23. LLaVA's and Gemma 3's published configs need them.
CLASS_DEFAULTS: dict[str, dict[str, Any]] = _TABLE["class_defaults"]
ENCODERS: list[str] = _TABLE["encoders"]


Item = TypeVar("Item", int, str)


def list_of(value: Any, kind: type[Item]) -> list[Item] | None:
    """`value` if it is a list of `kind` (no booleans for int), else None."""
    if not isinstance(value, list):
        return None
    items = cast(list[Any], value)
    return items if all(type(item) is kind for item in items) else None


@dataclass(frozen=True)
class ConfigReader:
    """A config and the keys of its family.

    values: of the config.json, which record what was read
    source: the file's name, for errors
    keys: the family's own keys, name -> key, "" for a name that it does not read
    defaults: values that the family's configs may leave out
    assumed: filled while it reads: the keys whose default was taken, with its value
    guesses: filled while it reads: values that are not known, and what stands in for them
    """

    values: RecordedValues
    source: str
    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    assumed: dict[str, object] = field(default_factory=dict[str, object], compare=False)
    guesses: list[str] = field(default_factory=list[str], compare=False)

    def replaced(self, values: Mapping[str, Any]) -> "ConfigReader":
        """The reader of the same config with some values replaced."""
        return replace(self, values=self.values.replaced_by(values))

    def within(self, name: str) -> "ConfigReader":
        """The reader of the object under `name`, without the family's keys and defaults."""
        return replace(self, values=self.section(name), keys={}, defaults={})

    @property
    def model_type(self) -> str:
        model_type = self.values.get("model_type")
        if not isinstance(model_type, str) or not model_type:
            self.refuse("model_type", "the name of a model family, such as 'llama'")
        return model_type

    def value(self, name: str) -> tuple[str, Any]:
        """The key of `name` and its value, the default where it is null.

        Another key for `name` counts as read if it has the same value.
        """
        own = self.keys.get(name)
        keys = KEYS.get(name, [name]) if own is None else ([own] if own else [])
        present = [key for key in keys if self.values.peek(key) is not None]
        same = [key for key in present if self.values.peek(key) == self.values.peek(present[0])]
        if same:
            for other in same[1:]:
                self.values.get(other)
            return same[0], self.values[same[0]]
        return self.assume(keys[0] if keys else name, self.defaults.get(name))

    def assume(self, key: str, value: Any) -> tuple[str, Any]:
        """`key` and its default, which is recorded."""
        if value is not None:
            self.assumed.setdefault(f"{self.values.path}{key}", value)
        return key, value

    def has(self, name: str) -> bool:
        return self.value(name)[1] is not None

    def count(
        self, name: str, default: int | None = None, least: int = 1, most: int = LARGEST
    ) -> int:
        """A whole number from `least` to `most`. Raises ModelError for anything else."""
        key, value = self.value(name)
        if value is None:
            if default is None:
                self.missing(key)
            self.assume(key, default)
            return default
        if type(value) is not int or not least <= value <= most:
            self.refuse(key, f"a whole number from {least} to {most}", value)
        return value

    def factor(self, name: str, default: float) -> float:
        """A number above 0 and below a million. Raises ModelError for anything else."""
        key, value = self.value(name)
        if value is None:
            self.assume(key, default)
            return default
        if type(value) not in (int, float) or not 0 < value < 1e6:
            self.refuse(key, "a number above 0", value)
        return float(value)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """True or false. Raises ModelError for anything else."""
        key, value = self.value(name)
        if value is None:
            return default
        if type(value) is not bool:
            self.refuse(key, "true or false", value)
        return value

    def strings(self, name: str, length: int) -> list[str] | None:
        """A list of `length` strings, None where there is none. Raises ModelError otherwise."""
        key, value = self.value(name)
        if value is None:
            return None
        names = list_of(value, str)
        if names is None:
            self.refuse(key, "a list of names", value)
        if len(names) != length:
            self.refuse(key, f"a list of {length} names, one for each layer", value)
        return names

    def integers(self, name: str) -> list[int] | None:
        """A list of whole numbers, None where there is none. Raises ModelError otherwise."""
        key, value = self.value(name)
        if value is None:
            return None
        numbers = list_of(value, int)
        if numbers is None:
            self.refuse(key, "a list of whole numbers", value)
        return numbers

    def section(self, name: str) -> RecordedValues:
        """A JSON object, empty where there is none. Raises ModelError for anything else."""
        key, value = self.value(name)
        if value is not None and not isinstance(value, RecordedValues):
            self.refuse(key, "a JSON object", value)
        return RecordedValues({}) if value is None else value

    def missing(self, key: str) -> NoReturn:
        """Raise ModelError for a missing key."""
        kind = self.values.get("model_type")
        raise ModelError(
            f"{self.source} has no {key!r}, which a model of type {brief(kind)} needs. "
            f"{self.remedy}"
        )

    def refuse(self, key: str, fits: str, value: Any = None) -> NoReturn:
        """Raise ModelError for an invalid value, with what `fits`."""
        value = self.values.get(key) if value is None else value
        raise ModelError(
            f"{self.source}: {key} is {brief(value)}, but only {fits} fits. {self.remedy}"
        )

    @property
    def remedy(self) -> str:
        """What to do about a config that cannot be read."""
        signs = [text for key, text in OWN_LAYOUT.items() if key in self.values]
        if not signs:
            return REMEDY
        return (
            f"It describes a layout of its own ({', '.join(signs)}): give a folder with its "
            "safetensors, whose headers are counted."
        )
