"""A config.json that records which of its keys were read. Imports no torch."""

from collections.abc import Iterator, Mapping
from typing import Any, cast


class RecordedValues(Mapping[str, Any]):
    """A JSON object of a config. Reading a key records its path; objects in it record theirs.

    original: the values in the file
    path: where the object is in the config, "text_config."; "" for the whole
    read: paths of the keys that were read, one set for all objects of a config
    """

    def __init__(
        self, original: Mapping[str, Any], path: str = "", read: set[str] | None = None
    ) -> None:
        self.original = original
        self.path = path
        self.read: set[str] = set() if read is None else read
        self._values = original

    def replaced_by(self, values: Mapping[str, Any]) -> "RecordedValues":
        """The same object with `values` in place of its own, whose keys count as read."""
        self.read.update(f"{self.path}{key}" for key in values)
        replaced = RecordedValues(self.original, self.path, self.read)
        replaced._values = {**self._values, **values}
        return replaced

    def peek(self, key: str) -> Any:
        """The value of `key`, None without it. Records nothing."""
        return self._values.get(key)

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        self.read.add(f"{self.path}{key}")
        if isinstance(value, Mapping):
            return RecordedValues(cast(Mapping[str, Any], value), f"{self.path}{key}.", self.read)
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(dict(self._values))
