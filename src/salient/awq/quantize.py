"""The verb `quantize`: prepare, run or resume, finish, report."""

import logging
import time
from typing import Any

from salient.core.progress import Progress
from salient.core.report import Report, Table, duration, mebibytes
from salient.core.system import peak_memory
from salient.models.block_map import left_out_lines, sixteen_bit_lines
from salient.plan.serving_warnings import forewarnings

from .export import finish
from .job import QuantizeJob, QuantizeOptions, finished, prepare
from .memory_estimate import check_memory
from .pipeline import quantize_blocks
from .salient_json import totals

_log = logging.getLogger("salient")
NAMED = 8  # of many, how many are named on the terminal; salient.json names all


def quantize_model(
    request: QuantizeOptions, *, fresh: bool, dry_run: bool, progress: Progress
) -> Report:
    """Quantize as `request` says.

    Raises SalientError before any long work if it cannot end well.
    """
    started = time.monotonic()
    job = prepare(request)
    warned = forewarnings(job.source.config, job.layers.scheme, job.format)
    for warning in warned:
        _log.warning("warning: %s", warning)
    report = plan_report(job) if dry_run else _run(job, started, fresh=fresh, progress=progress)
    report.data["warnings"] = warned
    return report


def _run(job: QuantizeJob, started: float, *, fresh: bool, progress: Progress) -> Report:
    evidence = finished(job, fresh=fresh)
    resumed = evidence is not None
    if evidence is None:
        check_memory(job.estimate, job.skeleton.device)
        run = job.run(fresh=fresh, progress=progress)
        resumed = bool(run.journal.done)
        try:
            evidence = finish(job, run, quantize_blocks(run))
        finally:
            run.journal.close()
    cost = {
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_bytes": peak_memory(),
        "resumed": resumed,
    }
    return closing_report(job, evidence, cost)


def plan_report(job: QuantizeJob) -> Report:
    """What a run would do and need: the report of --dry-run."""
    estimate = job.estimate
    parts = {**estimate.device, **estimate.main}
    data = {
        **job.header,
        "output": str(job.output),
        "scheme_reason": job.layers.reason,
        "linears": len(job.layers.quantized),
        "left_at_16_bits": job.layers.left,
        "calibration_tokens": job.batch.ids.numel(),
        "dropped_tokens": job.batch.dropped_tokens,
        "memory_bytes": parts,
        "peak_memory_bytes": estimate.total,
    }
    rows = [(name, mebibytes(count)) for name, count in parts.items()]
    layers = job.layers
    lines = [
        f"{len(layers.quantized)} linears in {len(job.skeleton.blocks)} blocks to {layers.scheme} "
        f"({layers.reason}), {len(layers.left)} left at 16 bits; output {job.output}.",
        *sixteen_bit_lines(layers.left),
        *left_out_lines(job.skeleton.unknown_names()),
        f"{job.batch.ids.numel()} calibration tokens used, {job.batch.dropped_tokens} dropped. "
        "Nothing was written.",
    ]
    return Report(
        data,
        [Table("Peak memory", ("part", "bytes"), [*rows, ("sum", mebibytes(estimate.total))])],
        lines,
    )


def closing_report(job: QuantizeJob, evidence: dict[str, Any], cost: dict[str, Any]) -> Report:
    """The tables at the end of a run."""
    heldout, size = evidence["heldout"], evidence["bytes"]
    blocks = evidence["blocks"]
    count = totals(blocks)
    fallen = sum(b["fell_back"] for b in blocks)
    refused: dict[str, str] = {}
    for group in (g for b in blocks for g in b["groups"] if g["refusal"]):
        refused.setdefault(", ".join(group["readers"]), group["refusal"])
    dropped = evidence["calibration"]["tokens_dropped"]
    lines = [
        f"{count['proven']} of {count['inputs']} shared inputs have a proven scale group; "
        f"{count['kept']} kept AWQ, {count['inputs'] - count['kept']} fell back to plain rounding"
        + (f"; {fallen} whole blocks fell back" if fallen else "")
        + ".",
        *[f"Not scaled: {readers}: {reason}." for readers, reason in refused.items()],
        *sixteen_bit_lines(evidence["left_at_16_bits"]),
        *borrowed_lines(blocks),
        *left_out_lines(evidence["left_out"]),
        f"Calibration: {evidence['calibration']['tokens_used']} tokens used, {dropped} dropped.",
        f"{mebibytes(size['before'])} before, {mebibytes(size['after'])} after; "
        f"{duration(cost['seconds'])}, peak memory {mebibytes(cost['peak_memory_bytes'])}.",
        f"Written to {job.output}. Serve it with:",
        f"  vllm serve {job.output} --model-loader-extra-config "
        f"'{{\"enable_weights_track\": true}}'",
    ]
    tables = [layer_table(evidence["blocks"]), heldout_table(heldout)]
    return Report({**evidence, "output": str(job.output), **cost}, tables, lines)


def borrowed_lines(blocks: list[dict[str, Any]]) -> list[str]:
    """Which experts saw too few tokens: a line a block, the first of many."""
    lines = []
    for block in blocks:
        seen = [f"{name} ({count})" for name, count in block["borrowed_statistics"].items()]
        if seen:
            more = f" and {len(seen) - NAMED} others" if len(seen) > NAMED else ""
            lines.append(
                f"Experts of {block['block']} that saw too few tokens and borrowed the block's: "
                f"{', '.join(seen[:NAMED])}{more}."
            )
    return (
        [*lines[:NAMED], f"... and {len(lines) - NAMED} more blocks."] if lines[NAMED:] else lines
    )


def layer_table(blocks: list[dict[str, Any]]) -> Table:
    """Held-out output error by kind of layer, averaged over the blocks."""
    kinds: dict[str, list[dict[str, float]]] = {}
    for block in blocks:
        for group in block["groups"]:
            for name, layer in group["layers"].items():
                kinds.setdefault(name, []).append(layer)
    rows = []
    for name, layers in kinds.items():
        count = sum(int(layer["count"]) for layer in layers)
        plain, awq = (
            sum(layer[kind] * layer["count"] for layer in layers) / count
            for kind in ("plain", "awq")
        )
        rows.append(
            (name, str(count), f"{plain:.2e}", f"{awq:.2e}", f"{awq / max(plain, 1e-30):.2f}")
        )
    columns = ("layer", "count", "plain rounding", "AWQ", "ratio")
    return Table("Relative output error on held-out tokens", columns, rows)


def heldout_table(heldout: dict[str, Any]) -> Table:
    """The whole model on held-out tokens: reference, plain rounding and AWQ side by side."""
    plain, awq = heldout["plain"], heldout["awq"]
    rows = [
        ("KL (nats a token)", "", f"{plain['kl']:.4f}", f"{awq['kl']:.4f}"),
        ("top-1 agreement", "", f"{plain['top1']:.1%}", f"{awq['top1']:.1%}"),
        (
            "perplexity",
            f"{awq['perplexity_reference']:.3f}",
            f"{plain['perplexity_quantized']:.3f}",
            f"{awq['perplexity_quantized']:.3f}",
        ),
    ]
    title = f"The whole model on {awq['tokens']} held-out calibration tokens"
    return Table(title, ("measure", "reference", "plain rounding", "AWQ"), rows)
