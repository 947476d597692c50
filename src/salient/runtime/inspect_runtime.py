"""The verb `inspect --runtime`: kernels, fused blocks and memory of a checkpoint, with reasons."""

from typing import Any

from salient.core.report import Report, Table, mebibytes
from salient.formats.checkpoint import Checkpoint
from salient.kernels.registry import NEVER
from salient.runtime.bench.memory_bandwidth import weight_bytes

from .load_engine import EngineOptions, LoadedEngine, load
from .runner import FusedRunner


def inspect_runtime(checkpoint: str, options: EngineOptions) -> tuple[Checkpoint, Report]:
    """Kernels with reasons, what was fused with reasons, memory."""
    opened = load(checkpoint, options)
    data = runtime_to_dict(opened)
    kernels = [(k["kernel"], str(k["linears"]), k["why"]) for k in data["kernels"]]
    findings = [(f["what"], str(f["blocks"]), f["why"]) for f in data["fusion"]]
    rows = [
        ("device", data["device"]),
        ("activations", data["dtype"]),
        ("keys and values", data["kv_dtype"] or "Transformers' cache"),
        ("weights in memory", mebibytes(data["weight_bytes"])),
        ("a token's keys and values", _kibibytes(data["kv_bytes_a_token"])),
        ("context", f"{data['context']} tokens, {data['slots']} sequences at once"),
        ("runs as", data["runs_as"]),
        ("many rows", data["many_rows"]),
    ]
    tables = [
        Table(data["checkpoint"], ("field", "value"), rows),
        Table("Kernels", ("kernel", "linears", "why"), kernels),
        Table("Fusion", ("what", "blocks", "why"), findings),
    ]
    proof = f"Largest difference to Transformers' own blocks: {data['proof_error']:.1e}."
    report = Report(data, tables, [proof] if opened.audit.fused else [])
    return opened.model.checkpoint, report


def runtime_to_dict(opened: LoadedEngine) -> dict[str, Any]:
    """The runtime of `opened` as plain data."""
    model, runner = opened.model, opened.engine.runner
    many, many_dtype = model.crossover
    cache = runner.cache if isinstance(runner, FusedRunner) else None
    findings = [
        {"what": what, "blocks": count, "why": why}
        for (what, why), count in opened.audit.findings.items()
    ]
    findings += [
        {"what": f"{name}: linears not joined", "blocks": 1, "why": why}
        for name, why in model.unmerged.items()
    ]
    return {
        "checkpoint": str(model.checkpoint.folder),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "kv_dtype": str(cache.dtype).removeprefix("torch.") if cache else None,
        "weight_bytes": weight_bytes(model),
        "kv_bytes_a_token": cache.bytes // (cache.slots * cache.capacity) if cache else None,
        "context": runner.capacity,
        "slots": runner.slots,
        "runs_as": runner.how,
        "many_rows": "the same kernel for any number of rows"
        if many == NEVER
        else f"from {many} rows on: dequantized, dense {str(many_dtype).removeprefix('torch.')} "
        "(measured to be faster here)",
        "kernels": [
            {"kernel": name, "linears": count, "why": why}
            for (name, why), count in model.kernels.items()
        ],
        "fused": opened.audit.fused,
        "proof_error": opened.audit.error,
        "fusion": findings,
    }


def _kibibytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1024:.1f} KiB"
