"""Whether text of the panel stands in the calibration text: runs of RUN_LENGTH words in both.

Thirteen or fewer words in a row are the usual measure of contamination (Brown et al. 2020, GPT-3,
appendix C; Dodge et al. 2021). The panel's text is decoded from its tokens, so that the check needs
nothing but the panel. Text that the model generated is left out: it is nobody's document.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from salient.core.conversations import Document
from salient.core.corpus import BUILTIN, read_texts
from salient.core.errors import CheckpointError, SalientError
from salient.core.evidence import read_evidence
from salient.core.text_places import locate_texts
from salient.validate.likelihood.panel_making import OWN_TEXT
from salient.validate.likelihood.token_panel import TokenPanel

from .receipt_record import OverlapCheck

RUN_LENGTH = 12
LISTED = 10
_WORD = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)


def shingles(text: str) -> set[int]:
    """Hashes of each RUN_LENGTH words in a row, without case and punctuation."""
    terms = _WORD.findall(text.lower())
    return {hash(tuple(terms[i : i + RUN_LENGTH])) for i in range(len(terms) - RUN_LENGTH + 1)}


def document_text(document: Document) -> str:
    """All that a document says."""
    contents = (str(message.get("content") or "") for message in document.messages)
    return "\n".join([document.text, *contents])


def panel_shingles(panel: TokenPanel, tokenizer: Any) -> dict[int, int]:
    """Shingle -> the document of the panel that has it."""
    owners: dict[int, int] = {}
    ids, documents = panel.ids.flatten(), panel.documents.flatten()
    places = documents.diff().nonzero().flatten() + 1
    for part, owner in zip(ids.tensor_split(places), documents.tensor_split(places), strict=True):
        number = int(owner[0])
        if panel.head.strata[number] != OWN_TEXT:
            text = tokenizer.decode(part.tolist(), skip_special_tokens=True)
            owners |= dict.fromkeys(shingles(text), number)
    return owners


def check_overlap(
    panel: TokenPanel, tokenizer: Any, folder: Path, calibration: str | None
) -> OverlapCheck:
    """The check for the checkpoint in `folder`; `calibration`: its text, as the user named it.

    Raises CalibrationError for a `calibration` that cannot be read.
    """
    label, names, reason = _calibration_of(folder) if calibration is None else (
        calibration, [calibration], "")  # fmt: skip
    owners = panel_shingles(panel, tokenizer)
    shared: dict[int, None] = {}
    for name in names:
        try:
            documents: Iterable[Document] = read_texts(name)
        except SalientError as error:
            if calibration is not None:
                raise
            reason = str(error)
            continue
        for document in documents:
            shared |= dict.fromkeys(shingles(document_text(document)) & owners.keys())
    of = sorted({owners[shingle] for shingle in shared})
    places = tuple(f"document {number} ({panel.head.strata[number]})" for number in of[:LISTED])
    status = "overlap" if shared else "unknown" if reason else "apart"
    return OverlapCheck(status, label, RUN_LENGTH, len(owners), len(shared), places, reason[:4000])


def _calibration_of(folder: Path) -> tuple[str, list[str], str]:
    """The calibration of a checkpoint: its label, the texts that can be read, what is unknown."""
    try:
        evidence = read_evidence(folder)
    except CheckpointError as error:
        return "unknown", [], str(error)
    if evidence is None:
        return "unknown", [], "the checkpoint has no salient.json; --calibration TEXT names it"
    run = evidence.run
    names = [BUILTIN] if run.calibration_texts == BUILTIN or run.calibration_mix < 1 else []
    if run.calibration_texts == BUILTIN:
        return BUILTIN, names, ""
    place = locate_texts(run.calibration_texts, run.calibration)
    if place is None:
        return (
            run.calibration_texts,
            names,
            (f"{run.calibration_texts} is not on this machine; give it as --calibration FILE"),
        )
    return run.calibration_texts, [*names, place], ""
