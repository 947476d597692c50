"""The checkpoint's model card: README.md with front matter for the Hub."""

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from salient.core.evidence import RunEvidence, group_totals
from salient.core.markdown import escape_markdown, markdown_table
from salient.core.report import mebibytes
from salient.core.source_card import SourceCard, join_card
from salient.models.file_check import MTP
from salient.models.inspect import dropped_lines, left_out_lines
from salient.models.output_head import MEASURES
from salient.models.tracing import pattern

from .serve_lines import serve_lines

LISTED = 8  # of many
FEW_TOKENS = 16384  # of a calibration
PIPELINES = {
    "tokens": "text-generation",
    "labels": "text-classification",
    "score": "text-classification",
    "embedding": "feature-extraction",
}
METRICS = {"kl": "kl_divergence", "top1": "top1_agreement", "perplexity_quantized": "perplexity"}


@dataclass(frozen=True)
class CardSubject:
    """What a card describes.

    name: of the checkpoint   model: what the commands call its source
    outer: unquantized parts outside the blocks   warnings: where it serves badly
    """

    name: str
    model: str
    evidence: RunEvidence
    source: SourceCard
    outer: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    architecture: str = ""


def model_card(subject: CardSubject) -> str:
    """The text of the card."""
    sections = [
        f"# {escape_markdown(subject.name)}",
        *_dropped(subject.evidence),
        _introduction(subject),
        *_incomplete(subject.source),
        _figures(subject),
        _contents(subject),
        _calibration(subject.evidence),
        _limits(subject),
        _serving(subject),
        _reproduction(subject),
    ]
    return join_card(front_matter(subject), "\n\n".join(sections) + "\n")


def front_matter(subject: CardSubject) -> dict[str, Any]:
    """The metadata that the Hub reads."""
    source, evidence = subject.source, subject.evidence
    front = dict(source.front or {})
    tags = [tag for tag in _tag_list(front.pop("tags", ())) if ":" not in tag]
    own = [evidence.run.format, "4-bit", "quantized", "salient"]
    vision = "ConditionalGeneration" in subject.architecture
    pipeline = "image-text-to-text" if vision else PIPELINES[evidence.answers]
    base = {"base_model": source.base_model, "base_model_relation": "quantized"}
    return {
        **(base if source.base_model else {}),
        **{key: value for key, value in front.items() if key.startswith("license")},
        "library_name": front.get("library_name", "transformers"),
        "pipeline_tag": front.get("pipeline_tag", pipeline),
        **({"language": front["language"]} if "language" in front else {}),
        "tags": list(dict.fromkeys([*own, *tags])),
        "quantized_by": "salient",
        "model-index": [{"name": subject.name, "results": [_result(evidence, pipeline)]}],
    }


def _result(evidence: RunEvidence, pipeline: str) -> dict[str, Any]:
    """The measured figures, as the Hub's model-index has them."""
    figures, names = evidence.heldout.awq, MEASURES[evidence.answers]
    titles = dict(zip(METRICS, (*names, "perplexity"), strict=True))
    if evidence.answers != "tokens":
        titles.pop("perplexity_quantized")
    values = {key: float(getattr(figures, key)) for key in titles}
    texts = evidence.calibration.texts
    return {
        "task": {"type": pipeline},
        "dataset": {"type": "held-out-calibration", "name": f"held-out tokens of {texts}"},
        "metrics": [
            {"type": METRICS[key], "value": round(value, 6), "name": titles[key]}
            for key, value in values.items()
            if math.isfinite(value)
        ],
    }


def _tag_list(value: object) -> list[str]:
    values: Iterable[Any] = value if isinstance(value, (list, tuple)) else ()
    return [str(word) for word in values]


def code(text: str) -> str:
    """`text` as a code span on one line."""
    return f"`{' '.join(text.replace('`', '').split())}`"


def _dropped(evidence: RunEvidence) -> list[str]:
    """What `--drop` took, as a warning."""
    lines = dropped_lines(evidence.dropped)
    return ["> **Warning**\n" + "\n".join(f"> {escape_markdown(line)}" for line in lines)][
        : len(lines)
    ]


def _introduction(subject: CardSubject) -> str:
    source, evidence = subject.source, subject.evidence
    base = source.base_model
    model = f"[{base}](https://huggingface.co/{base})" if base else code(evidence.model)
    adapter = f" with the adapter {_adapter(evidence)} merged in" if evidence.run.adapter else ""
    if evidence.dequantized_source:
        adapter += f" (its {evidence.dequantized_source} weights dequantized, with their error)"
    bits = "mixed precision" if evidence.allocation else "4 bits"
    before, after = map(mebibytes, (evidence.bytes.before, evidence.bytes.after))
    return (
        f"{model}{adapter}, quantized to {bits}: AWQ, scheme `{evidence.run.scheme}` "
        f"({evidence.bits_per_weight:.3f} bits a quantized weight), format "
        f"`{evidence.run.format}`, everything else in {evidence.run.dtype}. The weights "
        f"take {after}, {before} before. "
        f"Written by Salient {evidence.run.salient}; `salient.json` has the evidence, block by "
        "block."
    )


def _adapter(evidence: RunEvidence) -> str:
    name = evidence.adapter.name if evidence.adapter else "ADAPTER"
    return f"{code(name)} (SHA-256 `{(evidence.run.adapter or '')[:12]}`)"


def _incomplete(source: SourceCard) -> list[str]:
    """Comments to the owner, which the Hub does not show."""
    notes = missing_metadata(source)
    return [f"<!-- Before publishing: {' '.join(notes)} -->"] if notes else []


def missing_metadata(source: SourceCard) -> list[str]:
    """What the owner should add to the card's front matter, or check."""
    notes = []
    if not source.base_model:
        notes.append("Add base_model: the source's folder names no Hub id.")
    elif not source.certain:
        notes.append(
            f"Check base_model {source.base_model}: config.json or the source's card names it, and "
            "it may be the model that the source was trained from."
        )
    if not source.license:
        notes.append("Add license: the source's folder has none.")
    return notes


def _figures(subject: CardSubject) -> str:
    evidence = subject.evidence
    plain, awq = evidence.heldout.plain, evidence.heldout.awq
    kl, top1 = MEASURES[evidence.answers]
    rows = [
        (f"{kl}, lower is better", f"{plain.kl:.4f}", f"{awq.kl:.4f}"),
        (top1, f"{plain.top1:.1%}", f"{awq.top1:.1%}"),
    ]
    if evidence.answers == "tokens":
        title = f"perplexity (16-bit model: {awq.perplexity_reference:.2f})"
        plain_value, awq_value = plain.perplexity_quantized, awq.perplexity_quantized
        rows.append((title, f"{plain_value:.2f}", f"{awq_value:.2f}"))
    if plain.cosine is not None and awq.cosine is not None:
        rows.append(("cosine to the 16-bit model", f"{plain.cosine:.5f}", f"{awq.cosine:.5f}"))
    table = markdown_table(("against the 16-bit model", "plain rounding", "this checkpoint"), rows)
    count = group_totals(evidence.blocks)
    rest = count.inputs - count.improved
    same = (
        "all of them use AWQ"
        if not rest
        else f"{count.improved} use AWQ, and {rest} plain rounding, which measured better there"
    )
    return (
        f"## Quality\n\n{table}\n\nMeasured on {awq.tokens:,} calibration tokens that the search "
        f"did not see. Of {count.inputs} inputs that layers share, {same}; for {count.proven} of "
        "them it was proven that the scales leave the 16-bit model unchanged. On your own texts:"
        f"\n\n```\n{shlex.join(_evaluation(subject))}\n```"
    )


def _evaluation(subject: CardSubject) -> list[str]:
    return [
        *("salient", "evaluate", subject.name, "--reference", subject.model),
        *_adapter_option(subject.evidence),
        *("--text", "FILE.txt"),
    ]


def _adapter_option(evidence: RunEvidence) -> list[str]:
    if not evidence.run.adapter:
        return []
    return ["--adapter", evidence.adapter.name if evidence.adapter else "ADAPTER"]


def _contents(subject: CardSubject) -> str:
    """What is quantized and what is not."""
    evidence = subject.evidence
    kinds: dict[tuple[str, str], int] = {}
    for name, reason in evidence.left_at_16_bits.items():
        key = pattern(name), reason
        kinds[key] = kinds.get(key, 0) + 1
    outer = ", ".join(["embedding", "norms", *(map(code, subject.outer) or ["head"])])
    items = [
        f"Not quantized outside the blocks: {outer}.",
        *(
            f"Not quantized: {count} x {code(name)} ({escape_markdown(reason)})."
            for (name, reason), count in kinds.items()
        ),
        *(
            [f"In float32, as in the source: {_some(evidence.float32)}."]
            if evidence.float32
            else []
        ),
    ]
    if evidence.untied:
        items.append(f"Stored with values of their own (untied): {_some(evidence.untied)}.")
    if evidence.mtp:
        items.append(
            f"Layers that predict further tokens (MTP), in {evidence.run.dtype}: "
            f"{_some(evidence.mtp)}."
        )
    elif MTP in evidence.dropped:
        items.append("No layers that predict further tokens (MTP): engines cannot draft with it.")
    items += map(escape_markdown, left_out_lines(evidence.left_out, evidence.dropped))
    items += [
        f"Not copied from the source: {code(name)} ({escape_markdown(why)})."
        for name, why in list(evidence.not_copied.items())[:LISTED]
    ]
    listing = "\n".join(f"- {item}" for item in items)
    return f"## What is in 16 bits\n\nThe linears of the blocks are quantized.\n\n{listing}"


def _some(names: Sequence[str]) -> str:
    kinds = sorted({pattern(name) for name in names})
    more = f" and {len(kinds) - LISTED} others" if len(kinds) > LISTED else ""
    return ", ".join(map(code, kinds[:LISTED])) + more


def _calibration(evidence: RunEvidence) -> str:
    calibration = evidence.calibration
    kinds = kind_shares(calibration.tokens_by_kind)
    return (
        f"## Calibration\n\n{calibration.tokens_used:,} tokens of {code(calibration.texts)}"
        f"{f' ({escape_markdown(kinds)})' if kinds else ''}, {evidence.run.samples} samples of "
        f"{evidence.run.sequence_length}; {calibration.heldout_samples} held out to measure with."
    )


def kind_shares(kinds: dict[str, int]) -> str:
    """The kinds of text with their shares of the tokens, the largest first."""
    total = max(1, sum(kinds.values()))
    ordered = sorted(kinds.items(), key=lambda item: -item[1])
    more = f", and {len(ordered) - LISTED} other kinds" if len(ordered) > LISTED else ""
    return ", ".join(f"{kind} {n / total:.0%}" for kind, n in ordered[:LISTED]) + more


def _limits(subject: CardSubject) -> str:
    calibration = subject.evidence.calibration
    items = [
        "The figures are of held-out calibration text. Other languages, long contexts and tasks "
        "may lose more: measure them before use.",
        "Limits, biases and terms of use of the source model apply unchanged.",
    ]
    if calibration.tokens_used < FEW_TOKENS:
        items.append(f"Calibrated on few tokens ({calibration.tokens_used:,}).")
    borrowed = sum(bool(block.borrowed_statistics) for block in subject.evidence.blocks)
    if borrowed:
        items.append(f"In {borrowed} blocks too few calibration tokens reached some experts.")
    items += map(escape_markdown, subject.warnings)
    return "## Limits\n\n" + "\n".join(f"- {item}" for item in items)


def _serving(subject: CardSubject) -> str:
    lines = "\n".join(serve_lines(subject.name, subject.evidence))
    return f"## Use\n\n```\n{lines}\n```"


def _scheme_options(subject: CardSubject) -> list[str]:
    allocation = subject.evidence.allocation
    if allocation is None:
        return ["--scheme", subject.evidence.run.scheme]
    options = [
        "--bits-per-weight",
        f"{allocation.budget:g}",
        "--allow",
        ",".join(allocation.allowed),
    ]
    return [*options, *(["--scheme", "w4-g128-sym"] if allocation.symmetric else [])]


def _reproduction(subject: CardSubject) -> str:
    run = subject.evidence.run
    argv = ["salient", "quantize", subject.model, "-o", subject.name, *_scheme_options(subject)]
    argv += ["--format", run.format, "--samples", str(run.samples)]
    argv += ["--sequence-length", str(run.sequence_length)]
    if run.calibration_texts != "builtin":
        argv += ["--calibration", run.calibration_texts]
        argv += ["--calibration-mix", f"{run.calibration_mix:g}"]
    argv += ["--self-text"] if run.self_text else []
    argv += [word for skip in run.skip for word in ("--skip", skip)]
    argv += [word for drop in subject.evidence.dropped for word in ("--drop", drop)]
    argv += _adapter_option(subject.evidence)
    argv += ["--dequantize-source"] if subject.evidence.dequantized_source else []
    if subject.evidence.dtype_reason == "as asked":
        argv += ["--dtype", run.dtype]
    return f"## Reproduce\n\nWith Salient {run.salient}:\n\n```\n{shlex.join(argv)}\n```"
