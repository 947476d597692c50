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

from .chat_template import CALIBRATION_DATE, LostText, render_conversation
from .template_process import TemplateFault

# A part of what templates demand, in lower case -> what to change in the row
DEMANDS = {
    "system": "Move the system text to the beginning of the first user message.",
    "alternat": "Merge neighbouring messages of one role into one.",
    "tool call id": "Give each tool call and its answer the same id, in the form that it demands.",
    "": "Write the conversation as the model was trained on it, or leave the row out.",
}
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
    text = conversation_text(document, tokenizer)
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def conversation_text(document: Document, tokenizer: Any) -> str:
    """A conversation by the chat template. Raises CalibrationError naming the row and the fault."""
    where = document.where or "A conversation"
    try:
        return render_conversation(tokenizer, document, strict=True, now=CALIBRATION_DATE)
    except TemplateFault as fault:
        if fault.kind == "demand":
            roles = ", ".join(str(message.get("role")) for message in document.messages)
            raise CalibrationError(
                f"{where}: the model's chat template rejects the conversation: {fault.reason}. "
                f"Its roles are {roles[:200]}. {_demand_advice(fault.reason)}"
            ) from None
        raise CalibrationError(
            f"{where}: the model's chat template does not render: {fault.reason}. Fix the "
            "template, or write the conversation as the model reads it into a row with 'text'."
        ) from None
    except LostText as lost:
        raise CalibrationError(
            f"{where}: the model's chat template does not write {lost.field}: {lost.term!r} is "
            "not in its text, so the model would be calibrated on another conversation. Remove "
            "the field, or write the conversation as the model reads it into a row with 'text'."
        ) from None


def _demand_advice(reason: str) -> str:
    """What to change in a row that a template rejects for `reason`."""
    return next((advice for part, advice in DEMANDS.items() if part in reason.lower()), DEMANDS[""])


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
