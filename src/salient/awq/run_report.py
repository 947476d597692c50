"""The reports of `quantize`: what a run will take (--dry-run), and what it did."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from salient.core.evidence import (
    AdapterEvidence,
    AllocationEvidence,
    BlockEvidence,
    HeldoutEvidence,
    LayerEvidence,
    RunEvidence,
    group_totals,
)
from salient.core.records import to_json
from salient.core.report import Report, Table, duration, mebibytes
from salient.models.inspect import dropped_lines, left_out_lines, mtp_lines, sixteen_bit_lines
from salient.models.output_head import MEASURES
from salient.models.tracing import pattern

from .card import kind_shares, missing_metadata
from .export import adapter_evidence, card_subject
from .job import QuantizeJob
from .serve_lines import vllm_lines

CURVE_ROWS = 8  # of the curve of bits, that the terminal shows
LISTED = 8  # of many, how many the terminal lists; salient.json lists all


def cost_line(job: QuantizeJob, seconds: dict[str, float]) -> str:
    """What the run will take, and other efforts: before it starts."""
    own, *others = sorted(seconds, key=lambda name: name != job.effort.name)
    disk = f", {mebibytes(job.stored_bytes)} of disk meanwhile" if job.stored_bytes else ""
    rest = ", ".join(f"{name} about {about(seconds[name])}" for name in others)
    return (
        f"--effort {own} will take about {about(seconds[own])}, {mebibytes(job.estimate.total)} of "
        f"memory{disk} ({rest})."
    )


def about(seconds: float) -> str:
    """An estimate to one figure or two: '40 s', '9 min', '2.5 h'."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan_report(job: QuantizeJob) -> Report:
    """What a run would do and need: the report of --dry-run."""
    estimate = job.estimate
    parts = {**estimate.device, **estimate.main}
    seconds = job.estimate_seconds()
    data = {
        **to_json(job.header),
        "output": str(job.output),
        "scheme_reason": job.layers.reason,
        "linears": len(job.layers.quantized),
        "left_at_16_bits": job.layers.left,
        "left_out": job.leftovers.names,
        "mtp": job.leftovers.mtp_modules,
        "dropped": job.leftovers.dropped,
        "calibration_tokens": job.batch.ids.numel(),
        "dropped_tokens": job.batch.dropped_tokens,
        "memory_bytes": parts,
        "peak_memory_bytes": estimate.total,
        "stored_bytes": job.stored_bytes,
        "seconds_by_effort": {name: round(value) for name, value in seconds.items()},
    }
    rows = [(name, mebibytes(count)) for name, count in parts.items()]
    layers = job.layers
    lines = [
        *dropped_lines(job.leftovers.dropped),
        *adapter_lines(adapter_evidence(job)),
        *dequantized_lines(job.source.format.name if job.source.format else ""),
        f"{len(layers.quantized)} linears in {len(job.skeleton.blocks)} blocks to "
        f"{layers.mixed or layers.scheme} "
        f"({layers.reason}), {len(layers.left)} left unquantized; output {job.output}.",
        *sixteen_bit_lines(layers.left),
        *mtp_lines(job.leftovers, job.source.config),
        *left_out_lines(job.leftovers.names, job.leftovers.dropped),
        cost_line(job, seconds),
        f"{job.batch.ids.numel()} calibration tokens used ({kind_shares(job.batch.kinds)}), "
        f"{job.batch.dropped_tokens} dropped. Nothing was written.",
        "All tensors were read: no value is NaN or infinite."
        if job.values_checked
        else "The values of the tensors were not read: a run reads them block by block and ends at "
        "a NaN.",
    ]
    return Report(
        data,
        [Table("Peak memory", ("part", "bytes"), [*rows, ("sum", mebibytes(estimate.total))])],
        lines,
    )


def closing_report(job: QuantizeJob, evidence: RunEvidence, cost: dict[str, Any]) -> Report:
    """The tables at the end of a run."""
    blocks, size, calibration = evidence.blocks, evidence.bytes, evidence.calibration
    count = group_totals(blocks)
    plain_blocks = sum(block.fell_back for block in blocks)
    refused: dict[str, str] = {}
    for group in (g for block in blocks for g in block.groups if g.refusal):
        refused.setdefault(", ".join(group.readers), group.refusal)
    lines = [
        *dropped_lines(evidence.dropped),
        *adapter_lines(evidence.adapter),
        *dequantized_lines(evidence.dequantized_source),
        f"{count.proven} of {count.inputs} shared inputs have a proven scale group; "
        f"{count.improved} kept AWQ, {count.inputs - count.improved} fell back to plain rounding"
        + (f"; {plain_blocks} whole blocks fell back" if plain_blocks else "")
        + ".",
        *[f"Not scaled: {readers}: {reason}." for readers, reason in refused.items()],
        *sixteen_bit_lines(evidence.left_at_16_bits),
        *allocation_lines(evidence.allocation),
        *borrowed_lines(blocks),
        *no_gradient_lines(blocks),
        *dtype_lines(evidence),
        *mtp_lines(job.leftovers, job.source.config),
        *left_out_lines(evidence.left_out, evidence.dropped),
        f"Calibration: {calibration.tokens_used} tokens used "
        f"({kind_shares(calibration.tokens_by_kind)}), {calibration.tokens_dropped} dropped.",
        f"{mebibytes(size.before)} before, {mebibytes(size.after)} after; "
        f"{duration(cost['seconds'])}, peak memory {mebibytes(cost['peak_memory_bytes'])}.",
        *missing_metadata(card_subject(job, evidence).source),
        f"Written to {job.output}. Serve it with:",
        *(f"  {line}" for line in vllm_lines(str(job.output), evidence)),
    ]
    tables = [layer_table(blocks), heldout_table(evidence.heldout, evidence.answers)]
    tables += [allocation_table(evidence.allocation)] if evidence.allocation else []
    return Report({**to_json(evidence), "output": str(job.output), **cost}, tables, lines)


def no_gradient_lines(blocks: Sequence[BlockEvidence]) -> list[str]:
    """Blocks that were rounded without gradients in a run with them, and why."""
    faults: dict[str, list[str]] = {}
    for block in blocks:
        if block.no_gradients:
            faults.setdefault(block.no_gradients, []).append(block.block)
    return [f"Rounded without gradients: {_some(names)} ({why})." for why, names in faults.items()]


def dtype_lines(evidence: RunEvidence) -> list[str]:
    """The written dtype, the activations that it must hold, and what is not written in it."""
    peaks = [b.largest_activation for b in evidence.blocks if b.largest_activation is not None]
    lines = [
        f"Written in {evidence.run.dtype} ({evidence.dtype_reason}); largest activation on the "
        f"calibration tokens {max(peaks, default=0.0):.3g} (float16 holds 65504).",
        *([f"Left in float32: {_some(evidence.float32)}."] if evidence.float32 else []),
    ]
    if evidence.untied:
        source = "the adapter gives it" if evidence.adapter else "the files store"
        lines.append(
            f"config.json ties {', '.join(evidence.untied)}, but {source} other values: "
            "untied in the checkpoint."
        )
    return lines


def allocation_lines(allocation: AllocationEvidence | None) -> list[str]:
    """The formats that `--bits-per-weight` gave, by their number of linears."""
    if allocation is None:
        return []
    counts = Counter(allocation.formats.values()).most_common()
    formats = ", ".join(f"{count} {name}" for name, count in counts)
    return [f"Formats at {allocation.bits_per_weight:.3f} bits a weight: {formats}."]


def allocation_table(allocation: AllocationEvidence) -> Table:
    """Bits against the KL that rounding without feedback would cost: uniform, mixed, the curve."""
    points = [(name, *point) for name, point in allocation.uniform.items()]
    points.append(("mixed (chosen)", allocation.bits_per_weight, allocation.predicted_kl))
    step = max(1, len(allocation.curve) // CURVE_ROWS)
    points += [("mixed", *point) for point in allocation.curve[::step]]
    rows = [(name, f"{bits:.3f}", f"{kl:.4f}") for name, bits, kl in points]
    columns = ("formats", "bits a weight", "predicted KL")
    return Table("Bits against predicted KL, without feedback", columns, rows)


def dequantized_lines(form: str) -> list[str]:
    """That the source was quantized, and what that means for the figures."""
    if not form:
        return []
    return [
        f"The source is quantized ({form}): its weights are dequantized block by block, and every "
        "figure compares with them, not with the 16-bit model that they were made from."
    ]


def adapter_lines(adapter: AdapterEvidence | None) -> list[str]:
    """The adapter that is merged, and what of it is not weights."""
    if adapter is None:
        return []
    files = ", ".join(adapter.files)
    return [
        f"The adapter {adapter.name} ({adapter.digest[:12]}) is merged"
        + (f"; its vocabulary has {adapter.vocabulary} rows" if adapter.vocabulary else "")
        + (f"; its own {files} are used and written." if files else "."),
    ]


def _some(names: Sequence[str]) -> str:
    kinds = sorted({pattern(name) for name in names})
    more = f" and {len(kinds) - LISTED} others" if len(kinds) > LISTED else ""
    return ", ".join(kinds[:LISTED]) + more


def borrowed_lines(blocks: Sequence[BlockEvidence]) -> list[str]:
    """Experts with too few tokens: a line a block, the first few of many."""
    lines = []
    for block in blocks:
        experts = [f"{name} ({count})" for name, count in block.borrowed_statistics.items()]
        if experts:
            more = f" and {len(experts) - LISTED} others" if len(experts) > LISTED else ""
            lines.append(
                f"Experts of {block.block} that too few tokens reached, so that they borrowed the "
                f"block's: {', '.join(experts[:LISTED])}{more}."
            )
    rest = len(lines) - LISTED
    return [*lines[:LISTED], f"... and {rest} more blocks."] if rest > 0 else lines


def layer_table(blocks: Sequence[BlockEvidence]) -> Table:
    """Held-out output error by kind of layer, averaged over the blocks."""
    kinds: dict[str, list[LayerEvidence]] = {}
    for group in (group for block in blocks for group in block.groups):
        for name, layer in group.layers.items():
            kinds.setdefault(name, []).append(layer)
    rows = []
    for name, layers in kinds.items():
        count = sum(layer.count for layer in layers)
        plain = sum(layer.plain * layer.count for layer in layers) / count
        awq = sum(layer.awq * layer.count for layer in layers) / count
        ratio = awq / max(plain, 1e-30)
        rows.append((name, str(count), f"{plain:.2e}", f"{awq:.2e}", f"{ratio:.2f}"))
    columns = ("layer", "count", "plain rounding", "AWQ", "ratio")
    return Table("Relative output error on held-out tokens", columns, rows)


def heldout_table(heldout: HeldoutEvidence, answers: str = "tokens") -> Table:
    """The whole model on held-out tokens: reference, plain rounding and AWQ side by side."""
    plain, awq = heldout.plain, heldout.awq
    kl, top1 = MEASURES[answers]
    rows = [
        (kl, "", f"{plain.kl:.4f}", f"{awq.kl:.4f}"),
        (top1, "", f"{plain.top1:.1%}", f"{awq.top1:.1%}"),
    ]
    if answers == "tokens":
        reference, quantized = f"{awq.perplexity_reference:.3f}", f"{awq.perplexity_quantized:.3f}"
        rows.append(("perplexity", reference, f"{plain.perplexity_quantized:.3f}", quantized))
    if plain.cosine is not None and awq.cosine is not None:
        rows.append(("cosine to the reference", "", f"{plain.cosine:.5f}", f"{awq.cosine:.5f}"))
    title = f"The whole model on {awq.tokens} held-out calibration tokens"
    return Table(title, ("measure", "reference", "plain rounding", "AWQ"), rows)
