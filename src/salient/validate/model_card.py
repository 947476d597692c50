"""The model card's validation section: the figures, between two marks."""

from pathlib import Path
from typing import Any

from salient.core.errors import ResourceError
from salient.core.markdown import escape_markdown, markdown_table
from salient.formats.writer import write_text

BEGIN, END = "<!-- salient validate: begin -->", "<!-- salient validate: end -->"


def update_card(checkpoint: Path, data: dict[str, Any]) -> str:
    """Write the figures into the README.md of a checkpoint written by Salient.

    A second validation replaces the first; the rest of the card stays. Returns a message; '' for
    a checkpoint of another tool, whose card is not changed.
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


def with_section(card: str, text: str) -> str:
    """The card with `text` between the marks; without marks, at its end."""
    begin, end = card.find(BEGIN), card.find(END)
    marked = f"{BEGIN}\n{text}{END}"
    if 0 <= begin < end:
        return card[:begin] + marked + card[end + len(END) :]
    return f"{card.rstrip()}\n\n{marked}\n"


def section(data: dict[str, Any]) -> str:
    """The figures as Markdown, without what was not measured."""
    lines = ["## Validation", ""]
    verdict = data.get("verdict")
    if verdict:
        lines += [f"Policy `{verdict['policy']}`: **{verdict['verdict']}**, {data['date']}.", ""]
    rows = [*_likelihood(data), *_tasks(data), *_retrieval(data)]
    if rows:
        lines += [markdown_table(("", "16-bit model", "this checkpoint"), rows), ""]
    return "\n".join(lines)


def _likelihood(data: dict[str, Any]) -> list[tuple[str, ...]]:
    total = data.get("likelihood", {}).get("all")
    if not total:
        return []
    return [
        (f"KL (nats a token, {total['tokens']} tokens)", "0", f"{total['kl']:.4f}"),
        ("same most likely next token", "100%", f"{total['top1']:.1%}"),
        (
            "perplexity",
            f"{total['perplexity_reference']:.3f}",
            f"{total['perplexity_quantized']:.3f}",
        ),
    ]


def _tasks(data: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            f"{escape_markdown(kind[:60])} ({row['count']} examples)",
            f"{row['accuracy_reference']:.1%}",
            f"{row['accuracy_quantized']:.1%}",
        )
        for kind, row in data.get("tasks", {}).get("kinds", {}).items()
    ]


def _retrieval(data: dict[str, Any]) -> list[tuple[str, ...]]:
    retrieval = data.get("context", {}).get("retrieval", {})
    count = retrieval.get("count")
    if not count:
        return []
    label = f"facts found in long texts (of {count})"
    return [(label, str(retrieval["reference"]), str(retrieval["quantized"]))]
