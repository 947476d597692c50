"""Findings of a diagnosis: a cause, its evidence and the fix. Imports no torch."""

from dataclasses import asdict, dataclass
from typing import Literal

# error: does not run, or runs wrong; slow: runs slower than it could; warning: may cause trouble;
# note: harmless, worth knowing; good: what is right
Level = Literal["error", "slow", "warning", "note", "good"]
LEVELS: tuple[Level, ...] = ("error", "slow", "warning", "note", "good")
# findings about security, which come last: nothing of them stops or slows a server
SECURITY = frozenset(
    {"remote-code", "open-to-network", "open-by-default", "secret-in-settings", "key-set"}
)
# levels that make a command fail (exit code 1)
BAD = ("error", "slow")

Certainty = Literal["certain", "likely", "possible"]
CERTAINTIES: tuple[Certainty, ...] = ("certain", "likely", "possible")


@dataclass(frozen=True)
class Evidence:
    """A place, and its text.

    where: "vllm.log:123", "config.json: quantization_config.group_size", or a tensor with its file
    """

    where: str
    text: str


@dataclass(frozen=True)
class Finding:
    """A cause, what it costs, and what to do.

    id: a stable name for programs, such as "awq-forced-slow"
    title: what it means, one line
    why: why it matters, with the expected factor where one is known; "matters" in JSON
    do: steps: exact commands, settings or diffs
    evidence: its first places   count: how often it occurs, at least len(evidence)
    rank: among findings of one level, smaller ones come first: causes before their consequences
    """

    id: str
    level: Level
    title: str
    certainty: Certainty = "certain"
    why: str = ""
    do: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    count: int = 1
    rank: int = 50

    def to_dict(self) -> dict[str, object]:
        return {"matters" if key == "why" else key: value for key, value in asdict(self).items()}


def ranked(findings: list[Finding]) -> list[Finding]:
    """Worst level first, then causes before consequences, then the surest and most frequent; those
    about security last."""

    def key(f: Finding) -> tuple[bool, int, int, int, int]:
        certainty = CERTAINTIES.index(f.certainty)
        return f.id in SECURITY, LEVELS.index(f.level), f.rank, certainty, -f.count

    return sorted(findings, key=key)
