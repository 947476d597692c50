"""Serving settings as they were read: values by name, where each stands, how it is spelled."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from salient.core.errors import RequestError
from salient.diagnose.env_vars import LONGEST, masked, matters, plain, shown
from salient.diagnose.finding import Evidence, Finding, Level

from .argument_table import SGLANG
from .argument_values import full_name

Form = Literal["yaml", "command", "python", "json"]
Engine = Literal["vllm", "sglang"]
UNKNOWN = "unknown"  # a value that only running the file could tell
_MOST_ARGUMENTS = 1000
_MOST_NOTES = 50
_RELEASE = re.compile(r"vllm(?:-openai|-cpu)?(?::v?|==)(\d+)\.(\d+)")


@dataclass(frozen=True)
class ServingSettings:
    """What a file tells an engine.

    kind: how the file is written
    values: arguments by vLLM's names, with underscores; UNKNOWN where they are no literals
    environment: variables that it sets for the engine
    lines: where each argument and variable stands, from 1
    names: how each argument is spelled there
    engine, version: for which engine, and which release if an image or a pin in the file says so
    notes: what the reader itself found
    """

    path: Path
    kind: Form
    values: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    engine: Engine = "vllm"
    version: tuple[int, int] | None = None
    notes: tuple[Finding, ...] = ()

    def spelled(self, key: str, value: Any) -> str:
        """`key` with `value` as this file would write it: "--dtype half", 'dtype="half"'."""
        if key.isupper():
            return f"{key}={value}"
        name = self.names.get(key) or (
            key if self.kind in ("python", "json") else key.replace("_", "-")
        )
        return _spell(self.kind, name, value)

    def evidence(self, key: str) -> Evidence:
        """Where `key` stands, and the words there."""
        line = self.lines.get(key)
        where = plain(self.path.name) + (f":{line}" if line else "")
        if key not in self.values and key not in self.environment:
            return Evidence(where, f"{key} is not set")
        held = self.environment if key in self.environment else self.values
        return Evidence(where, self.spelled(key, held[key]))


def _spell(kind: Form, name: str, value: Any) -> str:
    if name.lstrip("-").startswith(("no-", "no_")) and isinstance(value, bool):
        value = not value
    if kind == "command":
        dashed = name if name.startswith("-") else f"--{name}"
        if name == "model" or value is True:
            return _short(value) if name == "model" else dashed
        if value is False:
            return f"--no-{dashed.lstrip('-')}"
        return f"{dashed} {_short(value)}"
    if kind == "python":
        return f"{name}={_short(value) if value == UNKNOWN else _short(value, quoted=True)}"
    if kind == "json":
        return f'"{name}": {_short(value, quoted=True, worded=True)}'
    return f"{name}: {_short(value, worded=True)}"


def _short(value: Any, *, quoted: bool = False, worded: bool = False) -> str:
    """`value` in a few letters; text in quotes if `quoted`, true and null as words if `worded`."""
    if isinstance(value, str) and not quoted:
        text = value
    elif isinstance(value, dict | list) or (worded and isinstance(value, bool | None)):
        text = json.dumps(value, default=str)
    else:
        text = f'"{value}"' if isinstance(value, str) else str(value)
    return plain(text[: 2 * LONGEST])


@dataclass
class SettingsBuilder:
    """Settings while a file is read: the readers put what they find, one call an argument."""

    path: Path
    kind: Form
    engine: Engine = "vllm"
    values: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    notes: list[Finding] = field(default_factory=list)

    def name_of(self, written: str) -> str:
        """The argument that `written` names, in vLLM's words."""
        bare = written.lstrip("-").replace("-", "_")
        if self.engine == "sglang":
            return SGLANG.get(bare, bare)
        return full_name(written, whole=self.kind in ("python", "json"))

    def put(self, key: str, value: Any, line: int, written: str = "") -> None:
        """Keep `value` under `key`; a second one wins, as it does in vLLM, and is told.

        Raises RequestError for more arguments than any engine has.
        """
        if len(self.values) >= _MOST_ARGUMENTS:
            raise RequestError(
                f"{self.path} has more than {_MOST_ARGUMENTS:,} arguments; no engine takes so many."
                " Give the file that starts the server."
            )
        key, written = plain(key), plain(written)
        if key in self.values and self.values[key] != masked(key, value):
            self.note(
                "given-twice",
                "warning",
                f"{written or key} is given twice; the last one counts",
                line,
                f"first on line {self.lines.get(key)}",
            )
        self.values[key] = masked(key, value)
        self.lines[key] = line
        self.names[key] = written or key

    def put_variable(self, name: str, value: str, line: int) -> None:
        """Keep an environment variable, if it matters to an engine."""
        if matters(name):
            self.environment[name] = shown(name, value)
            self.lines[name] = line

    def note(self, name: str, level: Level, title: str, line: int, text: str = "") -> None:
        """Keep a finding of the reader's own."""
        evidence = (Evidence(f"{plain(self.path.name)}:{line}", plain(text or title)),)
        if len(self.notes) < _MOST_NOTES:
            self.notes.append(Finding(name, level, plain(title), evidence=evidence, rank=5))

    def finished(self, text: str) -> ServingSettings:
        """The settings; `text` is the whole file, which may name a release."""
        found = _RELEASE.search(text) if self.engine == "vllm" else None
        return ServingSettings(
            self.path,
            self.kind,
            self.values,
            self.environment,
            self.lines,
            self.names,
            self.engine,
            (int(found[1]), int(found[2])) if found else None,
            tuple(self.notes),
        )
