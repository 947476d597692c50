"""The verb `inspect`: what is in a checkpoint folder, from its files alone."""

from collections import Counter
from typing import Any

from salient.core.errors import CheckpointError
from salient.core.evidence import RunEvidence, group_totals, read_evidence
from salient.core.model_files import missing_tensors, stored_tensors
from salient.core.records import to_json
from salient.core.report import Report, Table, mebibytes
from salient.formats import load_format
from salient.formats.checkpoint import Checkpoint, open_checkpoint

from .block_map import Progress, map_blocks
from .model_folder import model_folder


def inspect_checkpoint(name: str, progress: Progress) -> Report:
    """Format, scheme, layers by kind, sizes, and evidence; of a 16-bit model the map of its blocks.

    Raises CheckpointError if a quantized layer is incomplete.
    """
    checkpoint = open_checkpoint(model_folder(name))
    tensors = stored_tensors(checkpoint.folder)
    modules = quantized_modules(checkpoint)
    _check_complete(checkpoint, modules)
    packed = sum(t.bytes for n, t in tensors.items() if n.rpartition(".")[0] in modules)
    rest = sum(t.bytes for t in tensors.values()) - packed
    kinds = Counter(module.rpartition(".")[2] for module in modules)
    data: dict[str, Any] = {
        "folder": str(checkpoint.folder),
        "model_type": checkpoint.config.get("model_type"),
        "format": checkpoint.format.name if checkpoint.format else None,
        "scheme": str(checkpoint.scheme) if checkpoint.scheme else None,
        "dtype": checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype"),
        "quantized_linears": len(modules),
        "linears_by_kind": dict(kinds),
        "bytes": {"quantized": packed, "sixteen_bit": rest},
    }
    keys = ("model_type", "format", "scheme", "dtype", "quantized_linears")
    rows = [(key.replace("_", " "), str(data[key])) for key in keys]
    rows += [("quantized tensors", mebibytes(packed)), ("16-bit tensors", mebibytes(rest))]
    tables = [Table(str(checkpoint.folder), ("field", "value"), rows)]
    if kinds:
        counts = [(kind, str(count)) for kind, count in kinds.items()]
        tables.append(Table("Quantized linears", ("kind", "count"), counts))
    if checkpoint.format is None:
        found, maps, lines = map_blocks(checkpoint, progress)
        return Report(data | found, tables + maps, lines)
    evidence = read_evidence(checkpoint.folder)
    lines = ["No salient.json: the checkpoint carries no evidence."]
    if evidence is not None:
        data["evidence"] = to_json(evidence)
        table, lines = _evidence_lines(evidence)
        tables.append(table)
    return Report(data, tables, lines)


def quantized_modules(checkpoint: Checkpoint) -> list[str]:
    """The names of all linears that are stored as codes."""
    if checkpoint.format is None:
        return []
    suffix = f".{checkpoint.format.suffix}"
    return sorted(n.removesuffix(suffix) for n in checkpoint.files if n.endswith(suffix))


def _check_complete(checkpoint: Checkpoint, modules: list[str]) -> None:
    """Complain of a missing tensor: vLLM would load the checkpoint and answer nonsense."""
    if checkpoint.format is None or checkpoint.scheme is None:
        return
    if not modules:
        raise CheckpointError(
            f"{checkpoint.folder} calls itself {checkpoint.format.name}, but holds no "
            f"*.{checkpoint.format.suffix}. Its config.json belongs to another folder; write the "
            "checkpoint again."
        )
    suffixes = load_format(checkpoint.format.name).SUFFIXES
    symmetric = checkpoint.scheme.symmetric
    needed = [s for s in suffixes if not (s == "weight_zero_point" and symmetric)]
    for module, suffix in missing_tensors(dict.fromkeys(modules, needed), checkpoint.files):
        raise CheckpointError(
            f"{checkpoint.folder} has no tensor '{module}.{suffix}': the checkpoint is "
            "incomplete, write it again."
        )


def _evidence_lines(evidence: RunEvidence) -> tuple[Table, list[str]]:
    """The blocks with the largest error, and the held-out figures."""
    rows = []
    for block in sorted(evidence.blocks, key=lambda b: -b.error_awq)[:5]:
        count = group_totals([block])
        errors = (f"{block.error_plain:.2e}", f"{block.error_awq:.2e}")
        rows.append((block.block, *errors, f"{count.kept}/{count.inputs}"))
    awq, plain = evidence.heldout.awq, evidence.heldout.plain
    lines = [
        f"Held-out KL {awq.kl:.4f} (plain rounding {plain.kl:.4f}), top-1 {awq.top1:.1%}, "
        f"perplexity {awq.perplexity_quantized:.3f} (reference {awq.perplexity_reference:.3f}).",
        f"Calibrated on {evidence.calibration.tokens_used} tokens of {evidence.calibration.texts}.",
    ]
    columns = ("block", "error, plain rounding", "error, AWQ", "groups kept")
    return Table("The five blocks with the largest error", columns, rows), lines
