"""The figures of a validation in the checkpoint's model card, between marks of its own."""

from pathlib import Path
from typing import Any

from salient.core.errors import ResourceError
from salient.formats.writer import write_text

BEGIN, END = "<!-- salient validate: begin -->", "<!-- salient validate: end -->"


def update_card(checkpoint: Path, data: dict[str, Any]) -> str:
    """Write the figures into the README.md of a checkpoint that Salient made.

    A second validation takes the place of the first; everything else stays as it is. Returns what
    was done, in words; '' for a checkpoint of another tool, whose card is left alone.
    """
    card = checkpoint / "README.md"
    if not (checkpoint / "salient.json").exists() or not card.exists():
        return ""
    try:
        before = card.read_text(encoding="utf-8")
        write_text(card, with_section(before, section(data)))
    except (OSError, UnicodeDecodeError, ResourceError) as error:
        return f"The model card {card} was not changed ({error})."
    return f"The model card {card} holds the figures."


def with_section(card: str, written: str) -> str:
    """The card with `written` between the marks, in place of what was there, else at its end."""
    begin, end = card.find(BEGIN), card.find(END)
    whole = f"{BEGIN}\n{written}{END}"
    if 0 <= begin < end:
        return card[:begin] + whole + card[end + len(END) :]
    return f"{card.rstrip()}\n\n{whole}\n"


def section(data: dict[str, Any]) -> str:
    """The figures as Markdown; what was not measured is not there."""
    lines = ["## Validation", ""]
    verdict = data.get("verdict")
    if verdict:
        lines += [f"Policy `{verdict['policy']}`: **{verdict['verdict']}**, {data['date']}.", ""]
    rows = [*_likelihood(data), *_tasks(data), *_retrieval(data)]
    if rows:
        lines += ["| | 16-bit model | this checkpoint |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _likelihood(data: dict[str, Any]) -> list[str]:
    found = data.get("likelihood", {}).get("all")
    if not found:
        return []
    return [
        f"| KL (nats a token, {found['tokens']} tokens) | 0 | {found['kl']:.4f} |",
        f"| same most likely next token | 100% | {found['top1']:.1%} |",
        f"| perplexity | {found['perplexity_reference']:.3f} | "
        f"{found['perplexity_quantized']:.3f} |",
    ]


def _tasks(data: dict[str, Any]) -> list[str]:
    return [
        f"| {_cell(kind)} ({row['count']} examples) | {row['accuracy_reference']:.1%} | "
        f"{row['accuracy_quantized']:.1%} |"
        for kind, row in data.get("tasks", {}).get("kinds", {}).items()
    ]


def _retrieval(data: dict[str, Any]) -> list[str]:
    found = data.get("context", {}).get("retrieval", {})
    if not found.get("count"):
        return []
    both = f"{found['reference']} | {found['quantized']}"
    return [f"| facts found in long texts (of {found['count']}) | {both} |"]


def _cell(text: str) -> str:
    """A kind's name, which a user chose, as the text of a table's cell."""
    return "".join(c for c in text if c.isprintable() and c not in "|<>`\\")[:60]
