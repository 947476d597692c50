"""One document -> its tokens, by the model's tokenizer and chat template."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer

from salient.core.corpus import BUILTIN_CORPUS, Document
from salient.core.errors import CalibrationError, ModelError, library_errors

from .chat_template import (
    CALIBRATION_DATE,
    REASONING,
    LostText,
    content_text,
    render_conversation,
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
LONGEST_TEXT = 2**22  # letters of a document; a long book has 3 million
LISTED = 5


_exceeded: set[str] = set()  # templates that are not tried on each built-in conversation again


class _LimitExceeded(CalibrationError):
    """A chat template that exceeded a limit of time, memory or output."""


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


def check_vocabulary(ids: Tensor, vocabulary: int, where: str) -> None:
    """Raise CalibrationError if a token id has no row in the model's embedding."""
    largest = int(ids.max())
    if largest >= vocabulary or int(ids.min()) < 0:
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
