"""The model card's validation section: the figures, between two marks."""

from pathlib import Path

from salient.core.errors import ResourceError
from salient.core.input_files import read_input
from salient.core.markdown import escape_markdown, markdown_table
from salient.core.metrics import LogitsComparison
from salient.core.printable import printable
from salient.core.source_card import MOST_BYTES
from salient.formats.writer import write_text

from .context.result import ContextResult
from .likelihood.result import LikelihoodResult
from .result import ValidationResult
from .tasks.comparison import Tally
from .tasks.result import TaskResult

BEGIN, END = "<!-- salient validate: begin -->", "<!-- salient validate: end -->"


def update_card(checkpoint: Path, result: ValidationResult) -> str:
    """Write the figures into the README.md of a checkpoint written by Salient.

    A second validation replaces the first; the rest of the card stays. Returns a message; '' for
    a checkpoint of another tool, whose card is not changed.
    """
    card = checkpoint / "README.md"
    if not (checkpoint / "salient.json").exists() or not card.exists():
        return ""
    try:
        before = read_input(card, MOST_BYTES).decode("utf-8")
        write_text(card, with_section(before, section(result)))
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


def section(result: ValidationResult) -> str:
    """The figures as Markdown, without what was not measured."""
    lines = ["## Validation", ""]
    if verdict := result.verdict:
        lines += [f"Policy `{verdict.policy}`: **{verdict.word}**, {result.date}.", ""]
    rows = []
    if isinstance(result.likelihood, LikelihoodResult):
        rows += _likelihood(result.likelihood.total.sums)
    if isinstance(result.tasks, TaskResult):
        rows += map(_kind, result.tasks.comparison.kinds)
    if isinstance(result.context, ContextResult) and result.context.retrieval:
        reference, quantized = map(str, result.context.retrieval.totals)
        count = len(result.context.retrieval.probes)
        rows.append((f"facts found in long texts (of {count})", reference, quantized))
    if rows:
        lines += [markdown_table(("", "16-bit model", "this checkpoint"), rows), ""]
    return printable("\n".join(lines))


def _likelihood(sums: LogitsComparison) -> list[tuple[str, ...]]:
    perplexities = f"{sums.perplexity_reference:.3f}", f"{sums.perplexity_quantized:.3f}"
    return [
        (f"KL (nats a token, {sums.tokens} tokens)", "0", f"{sums.kl:.4f}"),
        ("same most likely next token", "100%", f"{sums.top1:.1%}"),
        ("perplexity", *perplexities),
    ]


def _kind(tally: Tally) -> tuple[str, ...]:
    name = f"{escape_markdown(tally.kind[:60])} ({tally.count} examples)"
    return name, f"{tally.accuracy_reference:.1%}", f"{tally.accuracy_quantized:.1%}"
