"""The end of a run: shards, config, tokenizer, model card and evidence; then the final rename.

Nothing here depends on the time or speed of the run, so that a resumed run writes the same bytes as
an uninterrupted one.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from salient.core.carried_files import find_carried
from salient.core.evidence import (
    AdapterEvidence,
    CalibrationEvidence,
    HeldoutEvidence,
    RunEvidence,
    SizeEvidence,
)
from salient.core.metrics import LogitsComparison
from salient.core.model_files import as_list, as_object
from salient.core.records import from_json
from salient.core.source_card import CARD, SourceCard, read_source_card
from salient.core.system import cache_folder
from salient.formats.folder import copy_metadata, quantized_config, with_present_code
from salient.formats.output_folder import model_name, publish, write_evidence
from salient.formats.writer import disk_full_errors, merge, write_json, write_text
from salient.models.demo import DEMO_FRONT, DEMO_SOURCE
from salient.models.mtp import without_mtp
from salient.models.ties import resized_config, untied_config
from salient.plan.serving_warnings import serving_warnings
from salient.shapes.resolve import DEMO_NAME

from .card import CardSubject, model_card
from .job import QuantizeJob
from .run_state import QuantizeRun


def export_checkpoint(
    job: QuantizeJob, run: QuantizeRun, measured: dict[str, LogitsComparison]
) -> RunEvidence:
    """Assemble the checkpoint, rename it to its final name, and return its evidence."""
    mtp = write_outer(run, job.leftovers.mtp)
    run.journal.check_files()
    folder = job.partial / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    with disk_full_errors(job.partial):
        folder.mkdir()
    merge([*(run.pieces.final_path(i) for i in range(-1, len(run.skeleton.blocks))), *mtp], folder)
    skipped = [*unquantized_linears(job, run), *run.skeleton.tower_modules()]
    quantization = run.pieces.quantization_config(skipped, job.leftovers.mtp_modules)
    omitted = find_carried(job.source.folder).omitted | copy_metadata(job.companions.folder, folder)
    config = with_present_code(model_config(job), folder)
    write_json(folder / "config.json", quantized_config(config, quantization, job.header.dtype))
    evidence = replace(collect_evidence(job, run, measured, folder), not_copied=omitted)
    write_text(folder / CARD, model_card(card_subject(job, evidence)))
    evidence = write_evidence(evidence, folder)  # last: it marks it as complete
    run.watch.check()
    publish(folder, job.output, job.partial)
    run.journal.close()
    shutil.rmtree(job.partial)
    return evidence


def write_outer(run: QuantizeRun, mtp: Sequence[str]) -> list[Path]:
    """Write the tensors outside the blocks that the journal lacks; the files of those of `mtp`."""
    pieces = run.pieces
    portions = pieces.mtp_portions(mtp)
    for path in (pieces.path(-1), *portions):
        if path.name in run.journal.files:
            continue
        if path in portions:
            run.watch.begin(pieces.source.headers[name] for name in portions[path])
            pieces.write_mtp(path, portions[path])
        else:
            run.watch.begin(pieces.source_tensors(-1))
            pieces.write_outer()
        run.finish([path], None)
    return list(portions)


def model_config(job: QuantizeJob) -> dict[str, Any]:
    """The source's config.json, true of the tensors that are written."""
    config = without_quantization(job.source.config)
    config = untied_config(config) if job.skeleton.ties.untied else config
    rows = job.skeleton.resized
    config = config if rows is None else resized_config(config, rows)
    return config if job.leftovers.mtp else without_mtp(config)


def without_quantization(config: dict[str, Any]) -> dict[str, Any]:
    """`config` without the quantization that a source declares, of which nothing is left."""
    text = as_object(config.get("text_config"))
    if "quantization_config" in text:
        rest = {key: value for key, value in text.items() if key != "quantization_config"}
        config = config | {"text_config": rest}
    return {key: value for key, value in config.items() if key != "quantization_config"}


def collect_evidence(
    job: QuantizeJob, run: QuantizeRun, measured: dict[str, LogitsComparison], folder: Path
) -> RunEvidence:
    """The contents of salient.json."""
    return RunEvidence(
        run=job.header,
        model=model_name(job.source.folder),
        scheme_reason=job.layers.reason,
        bits_per_weight=job.allocation.bits_per_weight
        if job.allocation
        else job.target.scheme.bits_per_weight,
        left_at_16_bits=unquantized_linears(job, run),
        left_out=job.leftovers.names,
        dropped=job.leftovers.dropped,
        calibration=CalibrationEvidence(
            texts=job.header.calibration_texts,
            tokens_used=job.batch.ids.numel(),
            tokens_dropped=job.batch.dropped_tokens,
            tokens_by_kind=job.batch.kinds,
            heldout_samples=len(run.heldout),
        ),
        heldout=from_json(
            HeldoutEvidence, {kind: logits.figures() for kind, logits in measured.items()}
        ),
        bytes=SizeEvidence(
            before=job.source.bytes_on_disk,
            after=sum(p.stat().st_size for p in folder.glob("*.safetensors")),
        ),
        blocks=tuple(run.evidence),
        dtype_reason=job.dtype_reason,
        float32=tuple(sorted(job.target.float32)),
        untied=job.skeleton.ties.untied,
        mtp=job.leftovers.mtp_modules,
        answers=job.skeleton.head.kind,
        adapter=adapter_evidence(job),
        dequantized_source=job.source.format.name if job.source.format else "",
        allocation=job.allocation,
    )


def adapter_evidence(job: QuantizeJob) -> AdapterEvidence | None:
    """The adapter's part of salient.json."""
    adapter, files = job.skeleton.adapter, job.companions.taken
    if adapter is None:
        return None
    return AdapterEvidence(adapter.name, adapter.digest, files, job.skeleton.resized)


def unquantized_linears(job: QuantizeJob, run: QuantizeRun) -> dict[str, str]:
    """Unquantized linears of the blocks -> why: by the selection, and by the run."""
    uncalled = {
        f"{block.block}.{name}": reason
        for block in run.evidence
        for name, reason in block.left_at_16_bits.items()
    }
    return job.layers.left | uncalled


def card_subject(job: QuantizeJob, evidence: RunEvidence) -> CardSubject:
    """What the card describes."""
    folder, config = job.source.folder, job.source.config
    source = read_source_card(folder, config)
    model = source.base_model if source.certain else model_name(folder)
    if folder == cache_folder() / DEMO_NAME:
        source = SourceCard(DEMO_SOURCE, certain=True, front=DEMO_FRONT)
        model = DEMO_NAME
    towers = dict.fromkeys(".".join(n.split(".")[:2]) for n in job.skeleton.outer_modules())
    return CardSubject(
        name=job.output.absolute().name,
        model=model,
        evidence=evidence,
        source=source,
        outer=tuple(towers),
        warnings=tuple(serving_warnings(config, job.layers.scheme, job.format)),
        architecture=str(next(iter(as_list(config.get("architectures"))), "")),
    )
