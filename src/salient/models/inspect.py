"""The verb `inspect`: a checkpoint folder's format and evidence; the blocks of a 16-bit model.

The first block of each kind of a 16-bit model is read and traced on random tokens, and its scale
groups are proven, as in a run.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from salient.core.errors import CheckpointError, ShapeError
from salient.core.evidence import RunEvidence, find_changed, group_totals, read_evidence
from salient.core.model_files import missing_tensors, stored_tensors
from salient.core.progress import Progress
from salient.core.records import to_json
from salient.core.report import Report, Table, mebibytes
from salient.core.scheme import largest_scheme
from salient.formats import load_format
from salient.formats.checkpoint import Checkpoint, open_checkpoint

from .file_check import MTP, Leftovers
from .model_folder import model_folder
from .mtp import promised_layers
from .proof import ScaleGroup, kind_of
from .scale_groups import PROBE, GroupProver, shape_of
from .skeleton import Skeleton
from .source_model import SourceModel, source_model
from .tracing import pattern

pass


def inspect_checkpoint(name: str, progress: Progress) -> tuple[Checkpoint, Report]:
    """Format, scheme, layers by kind, sizes, and evidence; of a 16-bit model the map of its blocks.

    Raises CheckpointError if a quantized layer is incomplete.
    """
    checkpoint = open_checkpoint(model_folder(name))
    tensors = stored_tensors(checkpoint.folder)
    modules = quantized_modules(checkpoint)
    _check_complete(checkpoint, modules)
    stored = {name for parts in checkpoint.parts.values() for name in parts.values()}
    packed = sum(t.bytes for n, t in tensors.items() if n in stored)
    rest = sum(t.bytes for t in tensors.values()) - packed
    kinds = Counter(module.rpartition(".")[2] for module in modules)
    data: dict[str, Any] = {
        "folder": str(checkpoint.folder),
        "model_type": checkpoint.config.get("model_type"),
        "format": checkpoint.format.name if checkpoint.format else None,
        "scheme": str(checkpoint.schemes) if checkpoint.schemes else None,
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
        blocks, maps, lines = map_blocks(checkpoint, progress)
        return checkpoint, Report(data | blocks, tables + maps, lines)
    evidence = read_evidence(checkpoint.folder)
    lines = ["No salient.json: the checkpoint carries no evidence."]
    if evidence is not None:
        progress(0, 0, f"comparing {len(evidence.files)} files with salient.json")
        changed = find_changed(checkpoint.folder)
        lines = [changed.note] if changed.note else []
        if not evidence.files:
            lines = ["salient.json is of an older version without digests: it cannot be verified."]
        if not changed.measured:
            data["evidence"] = to_json(evidence)
            table, more = _evidence_lines(evidence)
            tables.append(table)
            lines += more
    return checkpoint, Report(data, tables, lines)


def quantized_modules(checkpoint: Checkpoint) -> list[str]:
    """The names of all linears that are stored quantized."""
    return sorted(name.removesuffix(".weight") for name in checkpoint.parts)


def _check_complete(checkpoint: Checkpoint, modules: list[str]) -> None:
    """Refuse a missing tensor: vLLM would load the checkpoint and produce nonsense."""
    if checkpoint.format is None:
        return
    if not modules:
        raise CheckpointError(
            f"{checkpoint.folder} declares the format {checkpoint.format.name}, but has no "
            f"*.{checkpoint.format.suffix}. Its config.json belongs to another folder; write the "
            "checkpoint again."
        )
    if checkpoint.schemes is None:
        return
    code, schemes = load_format(checkpoint.format.name), checkpoint.schemes
    always = [s for s in code.SUFFIXES if s not in getattr(code, "OPTIONAL", ())]
    optional = {name: "weight_zero_point" if schemes.of(name).symmetric else "" for name in modules}
    needed = {name: [s for s in always if s != optional[name]] for name in modules}
    for module, suffix in missing_tensors(needed, checkpoint.files):
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
        rows.append((block.block, *errors, f"{count.improved}/{count.inputs}"))
    awq, plain = evidence.heldout.awq, evidence.heldout.plain
    lines = [
        f"Held-out KL {awq.kl:.4f} (plain rounding {plain.kl:.4f}), top-1 {awq.top1:.1%}, "
        f"perplexity {awq.perplexity_quantized:.3f} (reference {awq.perplexity_reference:.3f}).",
        f"Calibrated on {evidence.calibration.tokens_used} tokens of {evidence.calibration.texts}.",
    ]
    columns = ("block", "error, plain rounding", "error, AWQ", "groups kept")
    return Table("The five blocks with the largest error", columns, rows), lines


@dataclass(frozen=True)
class BlockKind:
    """Blocks of one shape, the groups of the first, and its unquantized linears with reasons."""

    blocks: list[str]
    groups: list[ScaleGroup]
    unfit: dict[str, str]


def map_blocks(
    source: Checkpoint, progress: Progress
) -> tuple[dict[str, Any], list[Table], list[str]]:
    """The kinds of blocks of the 16-bit model `source`, as data, tables and lines."""
    model = source_model(source)
    skeleton = model.skeleton
    kinds = _kinds(skeleton, progress)
    widths = {
        f"{kind.blocks[0]}.{name}": linear.in_features
        for kind in kinds
        for name, linear in skeleton.linears(skeleton.blocks.index(kind.blocks[0])).items()
        if name not in kind.unfit
    }
    data = {
        "kinds_of_blocks": [_data(kind) for kind in kinds],
        "outside_blocks_at_16_bits": skeleton.outer_modules(),
        "left_out": list(model.leftovers.names),
    }
    unfit = {
        f"{b}.{n}": why for kind in kinds for b in kind.blocks for n, why in kind.unfit.items()
    }
    lines = [*sixteen_bit_lines(unfit), *_outer_lines(model), _scheme_line(widths)]
    return data, [_table(kind) for kind in kinds], lines


def _kinds(skeleton: Skeleton, progress: Progress) -> list[BlockKind]:
    homes: dict[str, list[int]] = {}
    for index in range(len(skeleton.blocks)):
        homes.setdefault(shape_of(skeleton.bare(index)), []).append(index)
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(skeleton.vocabulary, PROBE, generator=random)
    hidden, _ = skeleton.calls(ids)
    prober = GroupProver(skeleton, ids)
    skeleton.forget_outer()
    kinds = []
    for number, indices in enumerate(homes.values()):
        first = indices[0]
        progress(number, len(homes), f"{skeleton.blocks[first]}: tracing, proving", "")
        groups = prober.groups(first, skeleton.block(first), hidden)
        unfit = skeleton.unfit(first)
        unfit |= {n: g.refusal for g in groups if not g.called for n in g.readers}
        kinds.append(BlockKind([skeleton.blocks[i] for i in indices], groups, unfit))
    progress(len(homes), len(homes), "", "")
    return kinds


def _alike(kind: BlockKind) -> list[list[ScaleGroup]]:
    """The groups of a kind, those of like experts together."""
    alike: dict[Any, list[ScaleGroup]] = {}
    for group in kind.groups:
        alike.setdefault(kind_of(group), []).append(group)
    return list(alike.values())


def _data(kind: BlockKind) -> dict[str, Any]:
    groups = []
    for first, *others in _alike(kind):
        readers, absorber, refusal = kind_of(first)
        groups.append(
            {
                "absorber": absorber or None,
                "readers": list(readers),
                "count": 1 + len(others),
                "proven": first.proven,
                "proof_error": first.proof_error,
                "refusal": refusal,
            }
        )
    return {"blocks": kind.blocks, "groups": groups, "at_16_bits": kind.unfit}


def _table(kind: BlockKind) -> Table:
    rows = []
    for first, *others in _alike(kind):
        readers, absorber, refusal = kind_of(first)
        times = f"{1 + len(others)} x " if others else ""
        error = (
            "" if first.proof_error is None else f"{first.proof_error:.0e}".replace("0e+00", "0")
        )
        rows.append((", ".join(readers), times + (absorber or "none"), error, refusal or "scaled"))
    many = f" and {len(kind.blocks) - 1} like it" if len(kind.blocks) > 1 else ""
    columns = ("readers", "absorber", "proof error", "verdict")
    return Table(f"{kind.blocks[0]}{many}", columns, rows)


def sixteen_bit_lines(left: dict[str, str]) -> list[str]:
    """The unquantized linears by kind: one line, or none. `left`: name -> reason."""
    kinds: dict[tuple[str, str], int] = {}
    for name, reason in left.items():
        key = pattern(name), reason
        kinds[key] = kinds.get(key, 0) + 1
    kinds_text = [f"{count} x {name} ({reason})" for (name, reason), count in kinds.items()]
    return [f"Unquantized: {', '.join(kinds_text)}."] if kinds_text else []


def dropped_lines(dropped: dict[str, tuple[str, ...]]) -> list[str]:
    """What `--drop` took from the model: a line for each pattern."""
    return [
        f"Dropped by --drop {pattern!r}: {len(names)} tensors of the source "
        f"({', '.join(names[:3])}{' ...' if names[3:] else ''}). "
        + ("Engines cannot draft with it." if pattern == MTP else "This is not the whole model.")
        for pattern, names in dropped.items()
    ]


def mtp_lines(leftovers: Leftovers, config: dict[str, Any]) -> list[str]:
    """The layers that predict further tokens: what becomes of them, or nothing."""
    promised = promised_layers(config)
    if leftovers.mtp:
        return [
            f"Layers that predict further tokens (MTP): {len(leftovers.mtp)} tensors stay in 16 "
            f"bits ({', '.join(leftovers.mtp_modules)}); engines may draft with them."
        ]
    if promised:
        return [
            f"config.json counts {promised} layers that predict further tokens (MTP), of which the "
            "checkpoint has no tensor: its config.json counts 0."
        ]
    return []


def left_out_lines(left_out: Iterable[str], dropped: dict[str, tuple[str, ...]]) -> list[str]:
    """The other tensors of the source that the checkpoint omits: one line, or none."""
    lost = {name for names in dropped.values() for name in names}
    names = [name for name in left_out if name not in lost]
    if not names:
        return []
    named = ", ".join(names[:3]) + (" ..." if names[3:] else "")
    return [
        "Left out, because the model that Transformers builds has no place for them: "
        f"{len(names)} tensors ({named})."
    ]


def _outer_lines(model: SourceModel) -> list[str]:
    towers = dict.fromkeys(".".join(n.split(".")[:2]) for n in model.skeleton.tower_modules())
    outside = ", ".join(["embedding", "norms", "head", *towers])
    line = f"Unquantized outside the blocks: {outside}."
    return [
        line,
        *mtp_lines(model.leftovers, model.source.config),
        *left_out_lines(model.leftovers.names, {}),
    ]


def _scheme_line(widths: dict[str, int]) -> str:
    try:
        scheme, reason = largest_scheme(widths)
    except ShapeError as error:
        return str(error)
    return f"The largest group size that fits: --scheme {scheme} ({reason})."
