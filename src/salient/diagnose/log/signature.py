"""Signatures: lines that engines print, and what they mean.

The rows are in signatures/*.toml, one file a subject:

    [memory-taken]
    level = "error"
    title = "Only {free} GiB are free"                    # braces: groups of `pattern`, and facts
    do = ["Lower --gpu-memory-utilization.", "$less-at-once"]     # $name: a step of steps.toml
    anchor = "Free memory on device "
    pattern = 'Free memory on device \\((?P<free>[\\d.]+)'
    example = "Free memory on device (6.9/8.0 GiB) on startup is less than desired"

The other keys are those of `Signature` and `FindingTemplate`. Of the rows with one anchor the first
that matches takes the line: special rows precede general ones.
"""

import re
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from salient.diagnose.rule import FindingTemplate
from salient.diagnose.tables import read_rows
from salient.diagnose.toml_file import read_toml

from .line_prefix import LogLine

FOLDER = Path(__file__).with_name("signatures")
_LEAD = r"""(?:time=\S+ level=\w+ source=\S+ .*?|\{"error": ?"[^"]*?|[^'"]*?)"""
# The order of findings of one rank.
SUBJECTS = (
    "arguments",
    "operators",
    "compressed_tensors",
    "float_formats",
    "gptq",
    "experts",
    "kernels",
    "formats",
    "quantization",
    "drafts",
    "tensor_names",
    "tensors",
    "transformers",
    "multimodal",
    "tokenizers",
    "hub",
    "loading",
    "adapters",
    "sglang",
    "llama_cpp",
    "tgi",
    "memory",
    "cluster",
    "cuda",
    "install",
    "host",
    "serving",
    "slow_starts",
    "pytorch",
    "failures",
)


@dataclass(frozen=True)
class Signature(FindingTemplate):
    """A line of a log as the condition of a finding.

    anchor: literal text that the line contains; without a pattern, the message starts with it
    pattern: a regular expression that the message matches from its start. A message quoted by
        another (a user's prompt about an error) must not match: [^'"]* where something precedes,
        <lead> where it may be a field of llama.cpp's or Ollama's log
    example: such a line
    consequence: it follows from an earlier error; a note where that error is in the log
    companions: ids of rows that the same line also matches
    """

    _: KW_ONLY
    anchor: str
    example: str
    pattern: str = ""
    consequence: bool = False
    companions: tuple[str, ...] = ()

    @cached_property
    def regex(self) -> re.Pattern[str]:
        pattern = self.pattern.replace("<lead>", _LEAD)
        return re.compile(pattern or re.escape(self.anchor))

    def match(self, line: LogLine) -> dict[str, str] | None:
        """The named groups ("unknown" if unmatched) where the line matches, else None."""
        match = self.regex.match(line.message) or self.regex.match(line.text)
        return {k: v or "unknown" for k, v in match.groupdict().items()} if match else None


def read_signatures(folder: Path = FOLDER) -> tuple[Signature, ...]:
    """All rows. Raises TypeError for a key that `Signature` does not have."""
    steps = read_toml(folder / "steps.toml")
    tables = (read_rows(folder / f"{subject}.toml", steps) for subject in SUBJECTS)
    return tuple(_signature(**row) for rows in tables for row in rows.values())


def _signature(
    *,
    why: str = "",
    versions: str = "",
    engine: str = "vLLM",
    companions: list[str] | None = None,
    **row: Any,
) -> Signature:
    """versions: the releases of `engine` that print the line, where not all do"""
    if versions:
        why = f"{why} Printed by {engine} {versions}.".strip()
    try:
        return Signature(why=why, companions=tuple(companions or ()), **row)
    except TypeError as error:
        raise TypeError(f"[{row['id']}]: {error}") from error


SIGNATURES = read_signatures()
