"""The tokens that the page's statistics are measured on: the checkpoint's own calibration."""

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from salient.core.corpus import read_texts
from salient.core.errors import SalientError
from salient.core.evidence import RunEvidence
from salient.models.tokens import TokenBatch, check_vocabulary, load_tokenizer, pack_tokens

BUILTIN = "builtin"
WINDOWS, WINDOW = 8, 128  # 1024 tokens: mean |x| is settled within a few per cent


@dataclass(frozen=True)
class CalibrationWindows:
    """ids: int64 [windows, tokens]   words: which texts they are"""

    ids: Tensor
    words: str


def find_tokens(source: Path, vocabulary: int, evidence: RunEvidence | str) -> CalibrationWindows:
    """A few windows of the checkpoint's calibration, evenly taken, or of the built-in corpus.

    Raises SalientError where neither can be tokenized.
    """
    tokenizer = load_tokenizer(source)
    batch = None if isinstance(evidence, str) else _calibration(tokenizer, evidence)
    words = "of the checkpoint's own calibration texts"
    if batch is None:
        batch = pack_tokens(read_texts(BUILTIN), tokenizer, WINDOWS, 4 * WINDOW, BUILTIN)
        words = "of the built-in corpus (the checkpoint's own calibration cannot be had again)"
    check_vocabulary(batch, vocabulary, "the calibration texts")
    length = min(WINDOW, batch.ids.shape[1])
    pool = batch.ids[:, : batch.ids.shape[1] // length * length].reshape(-1, length)
    count = min(WINDOWS, len(pool))
    ids = pool[[number * len(pool) // count for number in range(count)]]
    return CalibrationWindows(ids, f"{ids.numel()} tokens {words}")


def _calibration(tokenizer: object, evidence: RunEvidence) -> TokenBatch | None:
    """The very tokens that the run counted, None if they cannot be had."""
    run = evidence.run
    name = run.calibration_texts
    if name != BUILTIN and not os.path.isfile(name):  # no error for names that no file can have
        return None
    try:
        batch = pack_tokens(read_texts(name), tokenizer, run.samples, run.sequence_length, name)
    except SalientError:
        return None
    return batch if batch.digest == run.calibration else None
