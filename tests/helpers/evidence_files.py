"""A small salient.json, and ways to write it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from salient.core.content_digest import seal_of
from salient.core.evidence import (
    EVIDENCE_FILE,
    CalibrationEvidence,
    HeldoutEvidence,
    LogitsFigures,
    RunEvidence,
    RunHeader,
    SizeEvidence,
    evidence_text,
)


def sample_header(**fields: Any) -> RunHeader:
    """The header of a run to w4-g32 in the format awq, without digests; `fields` differ."""
    header = RunHeader(
        salient="0.1.0",
        model="digest",
        adapter=None,
        scheme="w4-g32",
        format="awq",
        dtype="float16",
        skip=(),
        calibration_texts="builtin",
        samples=1,
        sequence_length=64,
        calibration="digest",
    )
    return replace(header, **fields)


def sample_evidence(kl: float = 0.5, **run: Any) -> RunEvidence:
    """The evidence of a run to w4-g32 in the format awq; without digests and a seal."""
    figures = LogitsFigures(64, kl, 0.9, 10.0, 11.0, 0.1)
    return RunEvidence(
        run=sample_header(**run),
        model="toy",
        scheme_reason="as asked",
        bits_per_weight=4.6,
        left_at_16_bits={},
        left_out=(),
        calibration=CalibrationEvidence("builtin", 64, 0, {}, 1),
        heldout=HeldoutEvidence(figures, figures),
        bytes=SizeEvidence(2, 1),
        blocks=(),
    )


def write_evidence(folder: Path, kl: float = 0.5, **run: Any) -> None:
    """A salient.json of a run on `folder`, whose tensors are w4-g32 in the format awq."""
    (folder / EVIDENCE_FILE).write_text(evidence_text(sample_evidence(kl, **run)))


def rewrite_evidence(folder: Path, **changes: Any) -> None:
    """Change fields of the salient.json in `folder`, and seal it again."""
    path = folder / EVIDENCE_FILE
    path.write_text(sealed_text(json.loads(path.read_text()) | changes))


def sealed_text(value: dict[str, Any]) -> str:
    """The JSON text of `value`, with the seal of a salient.json."""
    value = value | {"seal": ""}
    return json.dumps(value | {"seal": seal_of(json.dumps(value))})
