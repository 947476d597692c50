"""Texts -> token batches, with counts of used and dropped tokens.

Documents are tokenized one by one, joined with the end-of-text token between them, and cut into
samples of equal length: short ones are packed together, long ones cut. What is left over when
enough samples are filled is counted as dropped.
"""

import hashlib
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from salient.core.corpus import BUILTIN_CORPUS, Document
from salient.core.errors import CalibrationError, ModelError, library_errors

from .chat_template import (
    CALIBRATION_DATE,
    REASONING,
    LostText,
    content_text,
    message_fields,
    render_conversation,
    without_media,
)
from .pretrained import from_folder
from .template_process import TemplateFault
from .tokenizer_check import check_tokenizer

# File -> what to do if no tokenizer can be made of it and of the files above
TOKENIZER_FILES = {
    "tokenizer.json": "tokenizer.json is there, but damaged or written for another version: pip "
    "install -U tokenizers transformers, or fetch it and its config again.",
    "tekken.json": "Its only tokenizer is tekken.json, which needs mistral-common: pip install "
    "mistral-common, or fetch a tokenizer.json (of the model's version for Transformers).",
    "tokenizer.model": "Its only tokenizer is tokenizer.model, which needs sentencepiece or "
    "tiktoken: pip install sentencepiece tiktoken, or fetch a tokenizer.json.",
    "spiece.model": "Its only tokenizer is spiece.model, which needs sentencepiece: pip install "
    "sentencepiece, or fetch a tokenizer.json.",
    "tiktoken.model": "Its only tokenizer is of tiktoken: pip install tiktoken, or fetch a "
    "tokenizer.json. Tokenizers with code of their own are not run.",
    "vocab.json": "vocab.json needs merges.txt, too. Fetch tokenizer.json and its config.",
}
# A part of what templates demand, in lower case -> what to change in the row
DEMANDS = {
    "system": "Move the system text to the beginning of the first user message.",
    "alternat": "Merge neighbouring messages of one role into one.",
    "tool call id": "Give each tool call and its answer the same id, in the form that it demands.",
    "": "Write the conversation as the model was trained on it, or leave the row out.",
}
MOST_TOKENS = 2**24  # of a whole text
LONGEST_TEXT = 2**22  # letters of a document; a long book has 3 million
FEWEST_TOKENS = 64  # shorter samples say nothing about attention
FEWEST_DISTINCT = 8  # different tokens of a text that means something
LONGEST_REPEAT = 64  # characters that may be one or two, repeated: a ruled line
CHECKED = 2**16  # characters of a document whose kind is checked
CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufffd]")
MOST_CONTROLS = 0.05  # share of a text's characters; more are bytes and no text
LISTED = 5
# Rendering of all conversations: seconds, and more for each
RENDER_SECONDS, RENDER_EACH = 60.0, 0.05


_exceeded: set[str] = set()  # templates that are not tried on each built-in conversation again


class _LimitExceeded(CalibrationError):
    """A chat template that exceeded a limit of time, memory or output."""


@dataclass(frozen=True)
class TokenBatch:
    """Calibration tokens and where they came from.

    ids: int64 [samples, tokens]
    notes: what was left out of the texts
    """

    ids: Tensor
    documents: int
    dropped_tokens: int
    kinds: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

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
    *,
    shares: Mapping[str, float] | None = None,
) -> TokenBatch:
    """Pack `documents` into `samples` samples of `length` tokens; None: as many as they fill.

    `where` names the texts and `options` the two numbers, for messages. `shares` of the kinds
    decide the order, so that any number of tokens has the same mixture.

    Raises CalibrationError if there is too little text, or some that means nothing.
    """
    if length < FEWEST_TOKENS or (samples is not None and samples < 1):
        raise CalibrationError(
            f"{options[0]} {samples} of {options[1]} {length}: use at least 1 of {FEWEST_TOKENS} "
            "tokens."
        )
    wanted, stream = (MOST_TOKENS if samples is None else samples * length), list[int]()
    kinds: dict[str, int] = {}
    separator = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    encoded, notes = _encoded(documents, tokenizer, where)
    total = sum(len(ids) + len(separator) for _, ids in encoded)
    used = 0
    for kind, tokens in _by_share(encoded, shares, wanted) if shares else encoded:
        if len(stream) >= wanted:
            break
        used += 1
        ids = [*tokens, *separator][: wanted - len(stream)]
        kinds[kind] = kinds.get(kind, 0) + len(ids)
        stream += ids
    if samples is None:
        samples = max(1, len(stream) // length)
        wanted = samples * length
    if len(stream) < wanted:
        raise CalibrationError(
            f"{where} has {len(stream)} tokens, but {samples} samples of {length} need {wanted}. "
            f"{_advice(len(stream), samples, length, options)} more text."
        )
    ids = torch.tensor(stream[:wanted])
    if reason := _meaningless(ids, set(tokenizer.all_special_ids)):
        raise CalibrationError(
            f"{where} {reason}: it repeats itself and says nothing about the model. Use text like "
            "your model's use."
        )
    return TokenBatch(ids.reshape(samples, length), used, total - wanted, kinds, notes)


def _meaningless(ids: Tensor, special: set[int]) -> str:
    """Why the tokens `ids` [tokens] say nothing about a model; '' if they do."""
    tokens, counts = ids.unique(return_counts=True)
    distinct = len(set(tokens.tolist()) - special)
    if distinct < FEWEST_DISTINCT:
        return f"has only {distinct} different tokens in {len(ids)}"
    if 2 * int(counts.max()) > len(ids):
        return f"is one token in {int(counts.max())} of {len(ids)} places"
    return ""


def _encoded(
    documents: list[Document], tokenizer: Any, where: str
) -> tuple[list[tuple[str, list[int]]], tuple[str, ...]]:
    """(kind, tokens) of each document with tokens of its own, and notes on what was left out.

    Raises CalibrationError if most documents have none.
    """
    special, encoded = set(tokenizer.all_special_ids), list[tuple[str, list[int]]]()
    empty, media, media_rows, started = list[str](), 0, 0, time.monotonic()
    for number, document in enumerate(documents, 1):
        label = document.where.rpartition(", ")[2] or f"document {number}"
        document, parts = without_media(document)
        media, media_rows = media + parts, media_rows + bool(parts)
        ids = token_ids(document, tokenizer) if _has_meaning(document) else []
        if set(ids) <= special:
            empty.append(label)
            continue
        encoded.append((document.kind, ids))
        spent = time.monotonic() - started
        if document.messages and spent > RENDER_SECONDS + RENDER_EACH * len(documents):
            raise CalibrationError(
                f"{where}: the model's chat template took {spent:.0f} seconds for {number} of "
                f"{len(documents)} conversations. Fix the template, or give fewer rows."
            )
    notes = []
    if empty:
        more = f" and {len(empty) - LISTED} more" if len(empty) > LISTED else ""
        reason = (
            f"{len(empty)} of {len(documents)} documents have no token of their own: they are "
            "empty, one letter repeated, control characters, or only special tokens "
            f"({', '.join(empty[:LISTED])}{more})"
        )
        if 2 * len(empty) > len(documents):
            raise CalibrationError(f"{where}: {reason}. Use text like your model's use.")
        notes.append(f"{where}: {reason}. They were left out.")
    if media:
        notes.append(
            f"{where}: {media} parts that are not text, such as images, in {media_rows} "
            "conversations were left out; the text part is calibrated with text."
        )
    return encoded, tuple(notes)


def _has_meaning(document: Document) -> bool:
    """Whether a document has visible text, not bytes, nor one or two characters repeated."""
    text = document.text
    if document.messages:
        text = " ".join(value for _, fields in message_fields(document) for _, value in fields)
    if len(CONTROLS.findall(text, 0, CHECKED)) > MOST_CONTROLS * min(len(text), CHECKED):
        return False
    start = "".join(text[: 16 * LONGEST_REPEAT].split())
    if len(start) >= LONGEST_REPEAT and len(set(start)) <= 2:
        return len(set(text)) > FEWEST_DISTINCT
    return any(letter.isprintable() and not letter.isspace() for letter in text)


def _by_share(
    encoded: list[tuple[str, list[int]]], shares: Mapping[str, float], wanted: int
) -> Iterator[tuple[str, list[int]]]:
    """The documents, always one of the kind that is furthest below its share; others last.

    Of a document at most its kind's share of the `wanted` tokens is taken.
    """
    queues: dict[str, deque[list[int]]] = {kind: deque() for kind in shares}
    for kind, ids in encoded:
        queues.setdefault(kind, deque()).append(ids)
    taken = dict.fromkeys(queues, 0)
    while waiting := [kind for kind, queue in queues.items() if queue]:
        kind = min(waiting, key=lambda kind: taken[kind] / shares.get(kind, 1e-9))
        most = max(FEWEST_TOKENS, round(shares.get(kind, 1) * wanted))
        ids = queues[kind].popleft()[:most]
        taken[kind] += len(ids) + 1
        yield kind, ids


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
    """The tokens of one document; a conversation goes through the model's chat template.

    Raises CalibrationError naming the row that does not become tokens.
    """
    ours = document.where.startswith(BUILTIN_CORPUS)
    text, template = document.text, bool(document.messages and tokenizer.chat_template)
    template = template and not (ours and str(tokenizer.chat_template) in _exceeded)
    if template:
        try:
            text = conversation_text(document, tokenizer)
        except CalibrationError as error:
            if not ours:
                raise  # the user's own text; ours serves as plain text
            if isinstance(error, _LimitExceeded):
                _exceeded.add(str(tokenizer.chat_template))
            template, text = False, plain_conversation(document)
    elif document.messages:
        text = plain_conversation(document)
    try:
        return encode(tokenizer, text, special=not template)
    except ModelError as error:
        raise CalibrationError(f"{document.where or 'A text'}: {error}") from error


def encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """The tokens of `text`, with the tokenizer's special tokens or without.

    Raises ModelError if the tokenizer fails.
    """
    if len(text) > LONGEST_TEXT:  # a tokenizer takes 60 bytes and more for each letter
        raise ModelError(
            f"A text has {len(text):,} letters; at most {LONGEST_TEXT:,} are read at once. Split "
            "it into paragraphs or rows."
        )
    advice = "Check it for characters that are no text, and the model's tokenizer files."
    with library_errors("The tokenizer cannot read the text", advice):
        return tokenizer(text, add_special_tokens=special, verbose=False).input_ids


def plain_conversation(document: Document) -> str:
    """A conversation for a model without a chat template.

    Raises CalibrationError for what only a template can write.
    """
    lost = next(
        (name for m in document.messages for name in ("tool_calls", *REASONING) if m.get(name)),
        "tools" if document.tools else "documents" if document.documents else None,
    )
    if lost is not None:
        raise CalibrationError(
            f"{document.where or 'A conversation'}: the model has no chat template, so {lost!r} "
            "cannot be written. Add chat_template.jinja to the model's folder, or write the "
            "conversation as the model reads it into a row with 'text'."
        )
    turns = ((str(m["role"]), content_text(m.get("content"))) for m in document.messages)
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)


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
        kind = CalibrationError if fault.kind in ("demand", "fault") else _LimitExceeded
        raise kind(
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
    """The tokenizer in `folder`; code of the folder runs only where the user allowed it.

    Raises ModelError if Transformers cannot read one there.
    """
    check_tokenizer(folder)
    with library_errors(f"{folder} has no tokenizer that can be read", _tokenizer_advice(folder)):
        return from_folder(AutoTokenizer, folder)


def _tokenizer_advice(folder: Path) -> str:
    """What to do about a folder whose tokenizer does not load."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    for name, advice in TOKENIZER_FILES.items():
        if name in names:
            return advice
    if any(name.endswith(".tiktoken") for name in names):
        return TOKENIZER_FILES["tiktoken.model"]
    return "It has no tokenizer file. Fetch tokenizer.json and its config."


def tokenizer_note(tokenizer: Any, vocabulary: int) -> str | None:
    """A warning if the tokenizer has ids beyond the `vocabulary` rows of the embedding."""
    beyond = {id: token for token, id in tokenizer.get_vocab().items() if id >= vocabulary}
    if not beyond:
        return None
    tokens = ", ".join(repr(beyond[id]) for id in sorted(beyond)[:LISTED])
    return (
        f"The tokenizer has {len(beyond)} tokens beyond the {vocabulary} rows of the model's "
        f"embedding (ids up to {max(beyond)}: {tokens}). The calibration has none of them, but a "
        "prompt with one cannot run: use the tokenizer that belongs to the model, or a model whose "
        "embedding was resized for it."
    )
