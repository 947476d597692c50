"""What a diagnosis says: one finding is one cause, with its evidence and its mend.

Imports no torch.
"""

from dataclasses import dataclass
from typing import Literal

# error: it does not run, or runs wrong; slow: it runs slower than it could; warning: it may bite;
# note: worth knowing, harmless; good: what is right
Level = Literal["error", "slow", "warning", "note", "good"]
LEVELS: tuple[Level, ...] = ("error", "slow", "warning", "note", "good")
# levels that make a command say no (exit code 1)
BAD = ("error", "slow")

Certainty = Literal["certain", "likely", "possible"]
CERTAINTIES: tuple[Certainty, ...] = ("certain", "likely", "possible")


@dataclass(frozen=True)
class Evidence:
    """Where a finding was seen, and the words that stand there.

    where: "vllm.log:123", "config.json: quantization_config.group_size", or a tensor with its file
    """

    where: str
    text: str


@dataclass(frozen=True)
class Finding:
    """A cause, what it costs, and what to do.

    id: a stable name for programs, such as "awq-forced-slow"
    title: what it means, one line
    certainty: how sure
    matters: why it matters, with the expected factor where one is known
    do: what to do, one step a line: exact commands, settings or diffs
    evidence: the first places where it was seen
    count: how often it was seen, at least len(evidence)
    rank: among findings of one level, the smaller is told first: causes before their consequences
    """

    id: str
    level: Level
    title: str
    certainty: Certainty = "certain"
    matters: str = ""
    do: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    count: int = 1
    rank: int = 50


def ranked(findings: list[Finding]) -> list[Finding]:
    """Worst level first, then causes before consequences, then the surest and most frequent."""

    def key(f: Finding) -> tuple[int, int, int, int]:
        return LEVELS.index(f.level), f.rank, CERTAINTIES.index(f.certainty), -f.count

    return sorted(findings, key=key)
