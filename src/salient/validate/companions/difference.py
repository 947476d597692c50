"""A difference between what is served with the checkpoint and with its reference."""

from dataclasses import dataclass
from typing import Literal

Subject = Literal[
    "tokenizer", "chat_template", "stop_tokens", "rope", "generation_config", "config", "evidence",
    "files",
]  # fmt: skip


@dataclass(frozen=True)
class FileDifference:
    """One difference, as a sentence.

    judged: it changes what is answered to the same request, so that the figures of the codes are
        not those of what is served; a policy's verdict is "fail"
    count: how many settings, tokens or texts differ
    """

    subject: Subject
    message: str
    judged: bool = False
    count: int = 1

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        return f"{'DIFFERENT' if self.judged else 'Note'} ({self.subject}): {self.message}"


def listed(names: list[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shown(value: object) -> str:
    """A foreign value, short and without control characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
