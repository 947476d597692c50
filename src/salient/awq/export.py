"""The end of a run: shards, config, tokenizer, model card, evidence, then the rename to its name.

Nothing here depends on when or how fast the run went, so that a resumed run ends byte-equal to an
undisturbed one.
"""

import shutil
from pathlib import Path
from typing import Any

from salient.core.metrics import LogitsComparison
from salient.formats import load_format
from salient.formats.folder import carry_over, quantized_config
from salient.formats.writer import disk_full_errors, merge, sync, write_json, write_text

from .job import QuantizeJob
from .pipeline import QuantizeRun
from .salient_json import totals


def finish(
    job: QuantizeJob, run: QuantizeRun, measured: dict[str, LogitsComparison]
) -> dict[str, Any]:
    """Assemble the checkpoint under its final name and return its evidence (salient.json)."""
    run.pieces.write_outer()
    folder = job.partial / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    with disk_full_errors(job.partial):
        folder.mkdir()
    merge([run.pieces.path(i) for i in range(-1, len(run.skeleton.blocks))], folder)
    left = left_at_16_bits(job, run)
    names = sorted(map(run.skeleton.files.module, [*left, *run.skeleton.tower_modules()]))
    quantization = load_format(job.format).config(job.target.scheme, names)
    config = quantized_config(job.source.config, quantization, job.header["dtype"])
    write_json(folder / "config.json", config)
    carry_over(job.source.folder, folder)
    evidence = collect_evidence(job, run, measured, folder)
    write_text(folder / "README.md", model_card(job, evidence))
    write_json(folder / "salient.json", evidence)  # last: its presence means that all is there
    if job.output.exists():
        shutil.rmtree(job.output)
    folder.rename(job.output)
    sync(job.output.parent)
    run.journal.close()
    shutil.rmtree(job.partial)
    return evidence


def collect_evidence(
    job: QuantizeJob, run: QuantizeRun, measured: dict[str, LogitsComparison], folder: Path
) -> dict[str, Any]:
    """Everything that backs the checkpoint: what was run, on what, what it cost, block by block."""
    return {
        "run": job.header,
        "model": job.source.folder.name,
        "scheme_reason": job.layers.reason,
        "bits_per_weight": job.target.scheme.bits_per_weight,
        "left_at_16_bits": left_at_16_bits(job, run),
        "left_out": run.skeleton.unknown_names(),
        "calibration": {
            "texts": Path(job.header["calibration_texts"]).name,
            "tokens_used": job.batch.ids.numel(),
            "tokens_dropped": job.batch.dropped_tokens,
            "tokens_by_kind": job.batch.kinds,
            "samples_held_out": len(run.heldout),
        },
        "heldout": {kind: comparison.figures() for kind, comparison in measured.items()},
        "bytes": {
            "before": job.source.bytes_on_disk,
            "after": sum(p.stat().st_size for p in folder.glob("*.safetensors")),
        },
        "blocks": run.journal.done,
    }


def left_at_16_bits(job: QuantizeJob, run: QuantizeRun) -> dict[str, str]:
    """Matrices of the blocks that are not codes -> why; as planned, and as the run found."""
    found = {
        f"{entry['block']}.{name}": reason
        for entry in run.journal.done
        for name, reason in entry["left_at_16_bits"].items()
    }
    return job.layers.left | found


def model_card(job: QuantizeJob, evidence: dict[str, Any]) -> str:
    """The checkpoint's README.md."""
    plain, awq = evidence["heldout"]["plain"], evidence["heldout"]["awq"]
    blocks = evidence["blocks"]
    count = totals(blocks)
    size = {k: f"{v / 2**20:,.0f} MiB" for k, v in evidence["bytes"].items()}
    name = job.output.name
    return f"""---
library_name: transformers
tags: [awq, 4-bit, salient]
---

# {name}

{evidence["model"]} at 4 bits: AWQ, scheme `{job.target.scheme}` ({evidence["bits_per_weight"]:.3f} bits a quantized weight), format
`{job.format}`, everything else in {job.header["dtype"]}. Made with Salient {job.header["salient"]}.

| | plain rounding | this checkpoint |
|---|---|---|
| KL to the 16-bit model (nats a token) | {plain["kl"]:.4f} | {awq["kl"]:.4f} |
| same most likely next token | {plain["top1"]:.1%} | {awq["top1"]:.1%} |
| perplexity (16-bit model: {awq["perplexity_reference"]:.2f}) | {plain["perplexity_quantized"]:.2f} | {awq["perplexity_quantized"]:.2f} |

Measured on {awq["tokens"]} calibration tokens that the search did not see. On your own texts:
`salient evaluate {name} --reference MODEL --text FILE`.

Size: {size["before"]} before, {size["after"]} after. Calibration: {evidence["calibration"]["tokens_used"]} tokens of
{evidence["calibration"]["texts"]}. {count["kept"]} of {count["inputs"]} inputs kept their AWQ scales and grids, the others fell
back to plain rounding. `salient.json` holds the evidence, block by block.

```
vllm serve {name} --model-loader-extra-config '{{"enable_weights_track": true}}'
```
"""
