"""One row of the table of signatures: a line that a program prints, and what it means.

The rows themselves are in `signatures.py` and the modules that it joins.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from salient.diagnose.finding import Certainty, Evidence, Finding, Level

from .line_prefix import LogLine

# What may stand before a text that is no message's beginning. No quotes: requests are quoted in
# logs, and what a user asks about an error is none.
BEFORE = r"[^'\"]*"


@dataclass(frozen=True)
class Signature:
    """A line, what it means and what to do about it.

    anchor: literal text that the line holds; where there is no pattern, the message begins with it
    pattern: a regular expression that the message matches from its start; its named groups may be
        used in `title`, `matters` and `do`, like the facts of the log ({model}, {version}, ...)
    example: such a line
    versions: those that print it, where not all do
    consequence: it only tells that something went wrong before; a note where that is known
    companions: ids of rows that the same line also gives
    """

    id: str
    level: Level
    anchor: str
    title: str
    example: str
    do: tuple[str, ...] = ()
    pattern: str = ""
    matters: str = ""
    certainty: Certainty = "certain"
    rank: int = 50
    versions: str = ""
    consequence: bool = False
    companions: tuple[str, ...] = ()

    def match(self, line: LogLine) -> dict[str, str] | None:
        """The named groups where the line is such a one, else None; what it lacks is "unknown"."""
        pattern = _compiled(self.pattern or re.escape(self.anchor))
        found = pattern.match(line.message) or pattern.match(line.text)
        return {k: v or "unknown" for k, v in found.groupdict().items()} if found else None

    def finding(
        self, words: Mapping[str, str], evidence: tuple[Evidence, ...], count: int
    ) -> Finding:
        """What the log's lines of this kind amount to. words: for the braces of the texts."""
        matters = self.matters.format_map(words)
        if self.versions:
            matters = f"{matters} Printed by vLLM {self.versions}.".strip()
        return Finding(
            id=self.id,
            level=self.level,
            title=self.title.format_map(words),
            certainty=self.certainty,
            matters=matters,
            do=tuple(step.format_map(words) for step in self.do),
            evidence=evidence,
            count=max(count, len(evidence)),
            rank=self.rank,
        )


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
