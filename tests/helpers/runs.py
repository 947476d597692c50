"""Quantizing a toy with small settings, and looking at what came out."""

from pathlib import Path

import torch

from salient import api
from salient.awq.journal import Journal
from salient.core.errors import CheckpointError
from salient.core.evidence import RunHeader

SMALL = {"scheme": "w4-g32", "samples": 6, "sequence_length": 64, "effort": "fast"}


def run(model: Path, out: Path, text: Path, **changes):
    options = {**SMALL, "calibration": str(text), "calibration_mix": 1.0, **changes}
    return api.quantize(model, out, **options).report


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model, _ = api.load(str(folder))
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def resume_report(folder: Path, header: RunHeader) -> str:
    """What a run that resumes in `folder` reports: its warnings, or why it does not start."""
    try:
        journal = Journal(folder, header, fresh=False)
    except CheckpointError as error:
        return str(error)
    journal.close()
    return " ".join(journal.warnings)
