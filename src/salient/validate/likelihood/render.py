"""The likelihood stage in the terminal."""

from salient.core.intervals import FEWEST, Interval
from salient.core.report import Table, duration

from .result import LikelihoodResult, TextComparison

COLUMNS = ("text", "tokens", "KL (nats)", "top-1", "perplexity", "of the reference")


def render_likelihood(result: LikelihoodResult, title: str) -> tuple[list[Table], list[str]]:
    """A row for each text, and what a reader has to know of them."""
    summary = result.protocol.summary
    lines = [
        f"{summary[0].upper()}{summary[1:]}; both models in float32; {duration(result.seconds)}.",
        "In brackets 95 % intervals, by the bootstrap over windows.",
    ]
    few = [name for name, text in result.texts.items() if text.windows < FEWEST]
    if few:
        lines[1] = f"Too few windows for intervals: {', '.join(few)}. Give at least {FEWEST}."
    lines += [row.summary for row in result.published]
    if len(result.texts) > 1:
        worst = result.worst_text("kl")
        lines.append(f"Of {len(result.texts)} texts the worst is judged; by KL it is {worst}.")
    rows = [
        (name, str(text.sums.tokens), *comparison_cells(text))
        for name, text in result.texts.items()
    ]
    return [Table(title, COLUMNS, rows)], lines


def comparison_cells(text: TextComparison) -> tuple[str, str, str, str]:
    """KL, top-1 agreement and both perplexities, with their intervals."""
    sums, intervals = text.sums, text.intervals
    return (
        f"{sums.kl:.4f}{bracketed(intervals.get('kl'), '.4f')}",
        f"{sums.top1:.1%}{bracketed(intervals.get('top1'), '.1%')}",
        f"{sums.perplexity_quantized:.3f}{bracketed(intervals.get('perplexity_quantized'), '.3f')}",
        f"{sums.perplexity_reference:.3f}",
    )


def bracketed(interval: Interval | None, form: str) -> str:
    """' [low, high]', or '' without an interval."""
    return f" [{interval.low:{form}}, {interval.high:{form}}]" if interval else ""
