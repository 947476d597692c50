"""The verb `inspect --runtime`: kernels, fused blocks and memory of a checkpoint, with reasons."""

from dataclasses import dataclass

from salient.core.records import to_json
from salient.core.report import Report, Table, mebibytes
from salient.formats.checkpoint import Checkpoint
from salient.kernels.registry import NEVER

from .load_engine import EngineOptions, LoadedEngine, load
from .model_loader import weight_bytes
from .runner import FusedRunner


@dataclass(frozen=True)
class KernelUse:
    """A kernel, how many linears it computes, and why."""

    kernel: str
    linears: int
    why: str


@dataclass(frozen=True)
class FusionFinding:
    """What was fused or not, in how many blocks, and how or why not."""

    what: str
    blocks: int
    why: str


@dataclass(frozen=True)
class RuntimeDetails:
    """How a checkpoint runs. kv_dtype, kv_bytes_a_token: None for Transformers' cache"""

    checkpoint: str
    device: str
    dtype: str
    kv_dtype: str | None
    weight_bytes: int
    kv_bytes_a_token: int | None
    context: int
    slots: int
    runs_as: str
    many_rows: str
    kernels: list[KernelUse]
    fused: bool
    proof_error: float
    fusion: list[FusionFinding]


def inspect_runtime(checkpoint: str, options: EngineOptions) -> tuple[Checkpoint, Report]:
    """Kernels with reasons, what was fused with reasons, memory."""
    opened = load(checkpoint, options)
    details = runtime_details(opened)
    kv_bytes = details.kv_bytes_a_token
    rows = [
        ("device", details.device),
        ("activations", details.dtype),
        ("keys and values", details.kv_dtype or "Transformers' cache"),
        ("weights in memory", mebibytes(details.weight_bytes)),
        ("a token's keys and values", "" if kv_bytes is None else f"{kv_bytes / 1024:.1f} KiB"),
        ("context", f"{details.context} tokens, {details.slots} sequences at once"),
        ("runs as", details.runs_as),
        ("many rows", details.many_rows),
    ]
    kernels = [(k.kernel, str(k.linears), k.why) for k in details.kernels]
    findings = [(f.what, str(f.blocks), f.why) for f in details.fusion]
    tables = [
        Table(details.checkpoint, ("field", "value"), rows),
        Table("Kernels", ("kernel", "linears", "why"), kernels),
        Table("Fusion", ("what", "blocks", "why"), findings),
    ]
    proof = f"Largest difference to Transformers' own blocks: {details.proof_error:.1e}."
    report = Report(to_json(details), tables, [proof] if details.fused else [])
    return opened.model.checkpoint, report


def runtime_details(opened: LoadedEngine) -> RuntimeDetails:
    model, runner, audit = opened.model, opened.engine.runner, opened.audit
    many, many_dtype = model.crossover
    cache = runner.cache if isinstance(runner, FusedRunner) else None
    many_rows = "the same kernel for any number of rows"
    if many != NEVER:
        name = str(many_dtype).removeprefix("torch.")
        many_rows = f"from {many} rows on: dequantized, dense {name} (measured to be faster here)"
    apart = [FusionFinding(f"{n}: linears not joined", 1, why) for n, why in model.unmerged.items()]
    return RuntimeDetails(
        checkpoint=str(model.checkpoint.folder),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        kv_dtype=str(cache.dtype).removeprefix("torch.") if cache else None,
        weight_bytes=weight_bytes(model.module),
        kv_bytes_a_token=cache.bytes // (cache.slots * cache.capacity) if cache else None,
        context=runner.capacity,
        slots=runner.slots,
        runs_as=runner.how,
        many_rows=many_rows,
        kernels=[KernelUse(name, count, why) for (name, why), count in model.kernels.items()],
        fused=audit.fused,
        proof_error=audit.error,
        fusion=[FusionFinding(what, n, why) for (what, why), n in audit.findings.items()] + apart,
    )
