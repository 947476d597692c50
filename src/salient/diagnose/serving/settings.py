"""Serving settings as written: values by name, the line of each, and its spelling."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from salient.core.errors import RequestError
from salient.diagnose.env_vars import LONGEST, masked, matters, plain, shown
from salient.diagnose.finding import Evidence, Finding, Level
from salient.plan.engine_options import Release, accepts

from .server_arguments import SGLANG, full_name

Form = Literal["yaml", "command", "python", "json", "toml"]
Engine = Literal["vllm", "sglang"]
UNKNOWN = "unknown"  # a value that is known only when the file runs
_MOST_ARGUMENTS = 1000
_MOST_NOTES = 50
_RELEASES: dict[Engine, re.Pattern[str]] = {
    "vllm": re.compile(r"vllm(?:-openai|-cpu)?[\w-]*(?:\[[\w,]+\])?(?::v?|[=~]=)(\d+(?:\.\d+)+)"),
    "sglang": re.compile(r"sglang(?:\[[\w,]+\])?(?::v?|[=~]=)(\d+(?:\.\d+)+)"),
}


@dataclass
class ServingSettings:
    """The settings of an engine in a file; readers fill it, one call an argument.

    kind: the file's form
    values: arguments by vLLM's names, with underscores; UNKNOWN where they are no literals
    environment: variables that it sets for the engine
    lines: the line of each argument and variable, from 1
    names: the spelling of each argument
    engine, release: the engine, and its release if an image or a pin in the file names one
    notes: findings of the reader
    entry: the deployment's name, where the file has several
    sources: the text of values that are written otherwise, Quantization.AWQ
    """

    path: Path
    kind: Form
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    environment: dict[str, str] = field(default_factory=dict[str, str])
    lines: dict[str, int] = field(default_factory=dict[str, int])
    names: dict[str, str] = field(default_factory=dict[str, str])
    engine: Engine = "vllm"
    release: Release | None = None
    notes: list[Finding] = field(default_factory=list[Finding])
    entry: str = ""
    sources: dict[str, str] = field(default_factory=dict[str, str])

    def name_of(self, written: str) -> str:
        """The argument `written`, by vLLM's name."""
        if self.engine == "sglang":
            bare = written.lstrip("-").replace("-", "_")
            return SGLANG.get(bare, bare)
        return full_name(written, exact=self.kind in ("python", "json"))

    def put(self, key: str, value: Any, line: int, written: str = "") -> None:
        """Set `key`. The last of several values wins, as in vLLM, with a note.

        Raises RequestError for more arguments than any engine has.
        """
        if len(self.values) >= _MOST_ARGUMENTS:
            raise RequestError(
                f"{self.path} has more than {_MOST_ARGUMENTS:,} arguments; no engine takes so many."
                " Give the file that starts the server."
            )
        key, written, value = plain(key), plain(written), masked(key, value)
        if key in self.values and self.values[key] != value:
            title = f"{written or key} is set twice; the last one counts"
            self.note("given-twice", "warning", title, line, f"first on line {self.lines.get(key)}")
        self.values[key] = value
        self.lines[key] = line
        self.names[key] = written or key

    def put_variable(self, name: str, value: str, line: int) -> None:
        """Set an environment variable, if it matters to an engine."""
        if matters(name):
            self.environment[name] = shown(name, value)
            self.lines[name] = line

    def note(self, name: str, level: Level, title: str, line: int, text: str = "") -> None:
        """Add a finding of the reader."""
        evidence = (Evidence(f"{plain(self.path.name)}:{line}", plain(text or title)),)
        if len(self.notes) < _MOST_NOTES:
            self.notes.append(Finding(name, level, plain(title), evidence=evidence, rank=5))

    @property
    def version(self) -> tuple[int, int] | None:
        """The release of vLLM."""
        release = self.release if self.engine == "vllm" else None
        return (release[0], release[1]) if release else None

    def read_release(self, text: str) -> None:
        """Set the release that `text` names."""
        match = _RELEASES[self.engine].search(text)
        self.release = tuple(int(part) for part in match[1].split(".")[:3]) if match else None

    def has_option(self, key: str) -> bool:
        """Whether the engine's release has the argument `key`; some release, if it is unknown."""
        name = self.names.get(key, "").lstrip("-").replace("-", "_")
        spelled = name if self.engine == "sglang" and name else key
        return any(accepts(self.engine, one, self.release) for one in {key, spelled})

    def has(self, key: str) -> bool:
        """Whether `key` is an argument or variable of the file."""
        return key in self.values or key in self.environment

    def spelled(self, key: str, value: Any) -> str:
        """`key` with `value` as this file would write it: "--dtype half", 'dtype="half"'."""
        if key.isupper():
            return f"{key}={value}"
        name = self.names.get(key) or (
            key if self.kind in ("python", "json", "toml") else key.replace("_", "-")
        )
        if name.lstrip("-").startswith(("no-", "no_")) and isinstance(value, bool):
            value = not value
        if self.kind == "command":
            return _spelled_in_command(name, value)
        if self.kind == "python":
            return f"{name}={_short(value, quoted=value != UNKNOWN)}"
        if self.kind == "json":
            return f'"{name}": {_short(value, quoted=True, literals=True)}'
        if self.kind == "toml":
            return f"{name} = {_short(value, quoted=True, literals=True)}"
        return f"{name}: {_short(value, literals=True)}"

    def current(self, key: str) -> str:
        """`key` with its value, as the file writes it."""
        if key in self.sources:
            form = '"{}": {}' if self.kind == "json" else "{}={}"
            return form.format(self.names[key], plain(self.sources[key]))
        values = self.environment if key in self.environment else self.values
        return self.spelled(key, values[key]) if self.has(key) else f"{key} is not set"

    def place(self, key: str) -> tuple[str, str]:
        """The line of `key`, and its text."""
        line = self.lines.get(key)
        return plain(self.path.name) + (f":{line}" if line else ""), self.current(key)


def _spelled_in_command(name: str, value: Any) -> str:
    if name == "model":
        return _short(value)
    dashed = name if name.startswith("-") else f"--{name}"
    if value is False:
        return f"--no-{dashed.lstrip('-')}"
    return dashed if value is True else f"{dashed} {_short(value)}"


def _short(value: Any, *, quoted: bool = False, literals: bool = False) -> str:
    """`value` shortened; text in quotes if `quoted`, true and null as in JSON if `literals`."""
    if isinstance(value, dict | list) or (literals and isinstance(value, bool | None)):
        text = json.dumps(value, default=str)
    else:
        text = f'"{value}"' if quoted and isinstance(value, str) else str(value)
    return plain(text[: 2 * LONGEST])
