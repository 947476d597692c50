"""Texts -> token batches, with counts of used and dropped tokens.

Documents are tokenized one by one, joined with the end-of-text token between them, and cut into
samples of equal length: short ones are packed together, long ones cut. What is left over when
enough samples are filled is counted as dropped.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from salient.core.corpus import Document
from salient.core.errors import CalibrationError, ModelError

MOST_TOKENS = 2**24  # of a whole text
FEWEST_TOKENS = 64  # shorter samples say nothing about attention


@dataclass(frozen=True)
class TokenBatch:
    """Calibration tokens and where they came from.

    ids: int64 [samples, tokens]
    """

    ids: Tensor
    documents: int
    dropped_tokens: int
    kinds: dict[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of shape and ids."""
        shape = f"{self.ids.shape[0]}x{self.ids.shape[1]}:".encode()
        return hashlib.sha256(shape + self.ids.numpy().tobytes()).hexdigest()


def pack_tokens(
    documents: list[Document],
    tokenizer: Any,
    samples: int | None,
    length: int,
    where: str,
    options: tuple[str, str] = ("--samples", "--sequence-length"),
) -> TokenBatch:
    """Pack `documents` into `samples` samples of `length` tokens; None: as many as they fill.

    `where` names the texts and `options` the two numbers, for messages. Raises CalibrationError if
    there is too little text.
    """
    if length < FEWEST_TOKENS or (samples is not None and samples < 1):
        raise CalibrationError(
            f"{options[0]} {samples} of {options[1]} {length}: use at least 1 of {FEWEST_TOKENS} "
            "tokens."
        )
    wanted, stream, dropped = (MOST_TOKENS if samples is None else samples * length), [], 0
    kinds: dict[str, int] = {}
    separator = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    used = 0
    for document in documents:
        ids = token_ids(document, tokenizer) + separator
        if len(stream) >= wanted:
            dropped += len(ids)
            continue
        used += 1
        taken = min(len(ids), wanted - len(stream))
        kinds[document.kind] = kinds.get(document.kind, 0) + taken
        stream += ids[:taken]
        dropped += len(ids) - taken
    if samples is None:
        samples = max(1, len(stream) // length)
        dropped += max(0, len(stream) - samples * length)
        wanted = samples * length
    if len(stream) < wanted:
        raise CalibrationError(
            f"{where} has {len(stream)} tokens, but {samples} samples of {length} need {wanted}. "
            f"{_advice(len(stream), samples, length, options)} more text."
        )
    return TokenBatch(torch.tensor(stream[:wanted]).reshape(samples, length), used, dropped, kinds)


def _advice(tokens: int, samples: int, length: int, options: tuple[str, str]) -> str:
    """Advice for a text of only `tokens` tokens."""
    fits, longest = tokens // length, tokens // samples
    if fits:
        return f"Use {options[0]} {fits}, or"
    if longest >= FEWEST_TOKENS:
        return f"Use a shorter {options[1]} (up to {longest}), or"
    if tokens >= FEWEST_TOKENS:
        return f"Use {options[0]} 1 and a {options[1]} of up to {tokens}, or"
    return "Use"


def token_ids(document: Document, tokenizer: Any) -> list[int]:
    """The tokens of one document; a conversation goes through the model's chat template."""
    if not document.messages:
        return tokenizer(document.text, add_special_tokens=True, verbose=False).input_ids
    if not tokenizer.chat_template:
        plain = "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in document.messages)
        return tokenizer(plain, add_special_tokens=True, verbose=False).input_ids
    return tokenizer.apply_chat_template(
        list(document.messages), tokenize=True, return_dict=True
    ).input_ids


def check_vocabulary(batch: TokenBatch, vocabulary: int, where: str) -> None:
    """Raise CalibrationError if a token id has no row in the model's embedding."""
    largest = int(batch.ids.max())
    if largest >= vocabulary or int(batch.ids.min()) < 0:
        raise CalibrationError(
            f"The tokenizer turned {where} into token ids up to {largest}, but the model's "
            f"vocabulary has {vocabulary}. The tokenizer files in the model folder belong to "
            "another model: fetch the folder again."
        )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`. Raises ModelError if Transformers cannot read one there."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{folder} has no tokenizer that can be read ({reason}). Fetch tokenizer.json and its "
            "config."
        ) from error
