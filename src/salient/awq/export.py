"""The end of a run: shards, config, tokenizer, model card and evidence; then the final rename.

Nothing here depends on the time or speed of the run, so that a resumed run writes the same bytes as
an uninterrupted one.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from salient.core.carried_files import find_carried
from salient.core.evidence import (
    EVIDENCE_FILE,
    AdapterEvidence,
    CalibrationEvidence,
    HeldoutEvidence,
    RunEvidence,
    SizeEvidence,
    group_totals,
)
from salient.core.metrics import LogitsComparison
from salient.core.records import from_json, to_json
from salient.formats import load_format
from salient.formats.folder import copy_metadata, quantized_config, with_present_code
from salient.formats.writer import disk_full_errors, merge, write_json, write_text
from salient.models.mtp import without_mtp
from salient.models.ties import resized_config, untied_config

from .job import QuantizeJob
from .output_folder import model_name, publish
from .pipeline import QuantizeRun


def export_checkpoint(
    job: QuantizeJob, run: QuantizeRun, measured: dict[str, LogitsComparison]
) -> RunEvidence:
    """Assemble the checkpoint, rename it to its final name, and return its evidence."""
    run.pieces.write_outer()
    folder = job.partial / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    with disk_full_errors(job.partial):
        folder.mkdir()
    mtp = run.pieces.write_mtp(job.leftovers.mtp)
    merge([*(run.pieces.path(i) for i in range(-1, len(run.skeleton.blocks))), *mtp], folder)
    skipped = [*unquantized_linears(job, run), *run.skeleton.tower_modules()]
    names = sorted(map(run.skeleton.files.module, skipped))
    quantization = load_format(job.format).config(
        job.target.scheme, names, job.leftovers.mtp_modules
    )
    omitted = find_carried(job.source.folder).omitted | copy_metadata(job.companions.folder, folder)
    config = with_present_code(model_config(job), folder)
    write_json(folder / "config.json", quantized_config(config, quantization, job.header.dtype))
    evidence = replace(collect_evidence(job, run, measured, folder), not_copied=omitted)
    write_text(folder / "README.md", model_card(job, evidence))
    write_json(folder / EVIDENCE_FILE, to_json(evidence))  # last: it marks the folder as complete
    publish(folder, job.output, job.partial)
    run.journal.close()
    shutil.rmtree(job.partial)
    return evidence


def model_config(job: QuantizeJob) -> dict[str, Any]:
    """The source's config.json, true of the tensors that are written."""
    config = job.source.config
    config = untied_config(config) if job.skeleton.ties.untied else config
    rows = job.skeleton.resized
    config = config if rows is None else resized_config(config, rows)
    return config if job.leftovers.mtp else without_mtp(config)


def collect_evidence(
    job: QuantizeJob, run: QuantizeRun, measured: dict[str, LogitsComparison], folder: Path
) -> RunEvidence:
    """The contents of salient.json."""
    return RunEvidence(
        run=job.header,
        model=model_name(job.source.folder),
        scheme_reason=job.layers.reason,
        bits_per_weight=job.target.scheme.bits_per_weight,
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
        blocks=tuple(run.journal.blocks),
        dtype_reason=job.dtype_reason,
        float32=tuple(sorted(job.target.float32)),
        untied=job.skeleton.ties.untied,
        mtp=job.leftovers.mtp_modules,
        answers=job.skeleton.head.kind,
        adapter=adapter_evidence(job),
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
        for block in run.journal.blocks
        for name, reason in block.left_at_16_bits.items()
    }
    return job.layers.left | uncalled


def model_card(job: QuantizeJob, evidence: RunEvidence) -> str:
    """The checkpoint's README.md."""
    plain, awq = evidence.heldout.plain, evidence.heldout.awq
    count, calibration = group_totals(evidence.blocks), evidence.calibration
    before, after = (f"{n / 2**20:,.0f} MiB" for n in (evidence.bytes.before, evidence.bytes.after))
    name = job.output.name
    return f"""---
library_name: transformers
tags: [awq, 4-bit, salient]
---

# {name}

{evidence.model} at 4 bits: AWQ, scheme `{job.target.scheme}` ({evidence.bits_per_weight:.3f} bits a quantized weight), format
`{job.format}`, everything else in {job.header.dtype}. Made with Salient {job.header.salient}.

| | plain rounding | this checkpoint |
|---|---|---|
| KL to the 16-bit model (nats a token) | {plain.kl:.4f} | {awq.kl:.4f} |
| same most likely next token | {plain.top1:.1%} | {awq.top1:.1%} |
| perplexity (16-bit model: {awq.perplexity_reference:.2f}) | {plain.perplexity_quantized:.2f} | {awq.perplexity_quantized:.2f} |

Measured on {awq.tokens} calibration tokens that the search did not see. On your own texts:
`salient evaluate {name} --reference MODEL --text FILE`.

Size: {before} before, {after} after. Calibration: {calibration.tokens_used} tokens of
{calibration.texts}. {count.improved} of {count.inputs} inputs kept their AWQ scales and grids, the others fell
back to plain rounding. `salient.json` holds the evidence, block by block.

```
vllm serve {name} --model-loader-extra-config '{{"enable_weights_track": true}}'
```
"""
