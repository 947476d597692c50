"""Prompts and conversations -> token ids; EOS ids.

An invalid prompt raises RequestError before the model runs; a server returns its message.
"""

from collections.abc import Sequence
from functools import lru_cache
from reprlib import repr as short
from typing import Any, cast

from salient.core.corpus import Document, Message
from salient.core.errors import ModelError, RequestError
from salient.core.printable import half_pair
from salient.models.chat_template import render_conversation
from salient.models.template_process import TemplateFault
from salient.models.tokens import encode

ROLES = ("system", "user", "assistant", "tool")
USUAL_CHARACTERS = 4  # of a token
PIECE = 2**15  # characters tokenized at once, to see whether a text fits


def prompt_ids(tokenizer: Any, text: str, context: int | None = None) -> list[int]:
    """The tokens of `text`, with the tokenizer's special tokens.

    context: refuse a text that is longer, before all of it is tokenized

    Raises RequestError for a prompt without tokens.
    """
    _check_text(text, "The prompt")
    check_fits(tokenizer, text, context)
    ids = encode(tokenizer, text, special=True)
    if not ids:
        raise RequestError(
            f"The prompt {text!r} has no tokens: nothing to continue from. Give at least one "
            "character of text."
        )
    return ids


def chat_ids(tokenizer: Any, messages: Sequence[Message], context: int | None = None) -> list[int]:
    """The tokens of a conversation up to where the assistant's next turn begins.

    messages: objects with 'role' and 'content'; the model's chat template writes them
    context: refuse a text that is longer, before all of it is tokenized

    Raises RequestError without a template, or if it rejects the conversation or exceeds a limit,
    and ResourceError if too many others are rendered.
    """
    if not tokenizer.chat_template:
        raise RequestError(
            "The model has no chat template: it is not a chat model, or its folder lacks "
            "chat_template.jinja. Use a plain prompt (completions), or add the template's file to "
            "the folder."
        )
    _check_messages(messages)
    try:
        text = render_conversation(
            tokenizer, Document(messages=tuple(messages)), strict=False, add_generation_prompt=True
        )
    except TemplateFault as fault:
        if fault.kind != "demand":
            raise RequestError(
                f"The model's chat template does not render: {fault.reason}. Use a plain prompt "
                "(completions), or fix the template."
            ) from None
        raise RequestError(
            f"The model's chat template rejects the conversation: {fault.reason}. Its roles are "
            f"{', '.join(m['role'] for m in messages)}; give the ones that the model was trained "
            "on, usually a system message, then user and assistant in turn."
        ) from None
    check_fits(tokenizer, text, context)
    ids = encode(tokenizer, text, special=False)
    if not ids:
        raise RequestError(
            "The model's chat template makes no tokens of the conversation. Use a plain prompt "
            "(completions), or fix the template."
        )
    return ids


@lru_cache(maxsize=8)
def longest_token(tokenizer: Any) -> int:
    """Characters of the longest token, at most."""
    return max(map(len, tokenizer.get_vocab()), default=1)


def check_fits(tokenizer: Any, text: str, context: int | None) -> None:
    """Raise RequestError for a text of more tokens than `context`, before all of it is tokenized.

    A text that may fit is not refused here.
    """
    if context is not None and not _may_fit(tokenizer, text, context):
        raise RequestError(
            f"A prompt of {len(text)} characters, the context is {context} tokens: no room for an "
            "answer. Shorten the prompt."
        )


def _may_fit(tokenizer: Any, text: str, context: int) -> bool:
    if len(text) <= context * USUAL_CHARACTERS:
        return True
    if len(text) > context * longest_token(tokenizer):
        return False
    # cut at any character, a piece has a few tokens more than in the whole text
    most, count = context + context // 8 + 64, 0
    for start in range(0, len(text), PIECE):
        count += len(encode(tokenizer, text[start : start + PIECE], special=False))
        if count > most:
            return False
    return True


def eos_ids(config: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: those of `config`, and the tokenizer's.

    `config` is the model's generation config, or its config where it has none; its `eos_token_id`
    is None, one id, or a list. A chat model whose turns end with another token says so there.
    Raises ModelError for anything else.
    """
    named: object = getattr(config, "eos_token_id", None)
    declared = list(cast("Sequence[object]", named) if isinstance(named, list | tuple) else [named])
    ids = [i for i in [*declared, tokenizer.eos_token_id] if i is not None]
    if odd := [i for i in ids if type(i) is not int]:
        raise ModelError(
            f"eos_token_id in generation_config.json or config.json has {str(odd[0])[:80]!r}, "
            "which is no token id: a whole number or a list of them fits. Correct the file, or "
            "fetch it again."
        )
    return frozenset(cast("list[int]", ids))


def check_length(ids: Sequence[int], max_new_tokens: int, context: int) -> int:
    """The token limit of the answer: `max_new_tokens`, or the rest of the context.

    Raises RequestError if the prompt leaves no room.
    """
    room = context - len(ids)
    if room < 1:
        raise RequestError(
            f"A prompt of {len(ids)} tokens, the context is {context}: no room for an answer. "
            f"Shorten the prompt by {1 - room} tokens or more, or run the model with a longer "
            "context, if it was trained for one."
        )
    return min(max_new_tokens, room)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, (list, tuple)) or not messages:
        raise RequestError(
            f"messages={short(messages)} is not a conversation. Give a list with at least one "
            "{'role': 'user', 'content': '...'}."
        )
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise RequestError(
                f"Message {number} is {short(message)}. Give an object with 'role' and 'content'."
            )
        if message["role"] not in ROLES:
            raise RequestError(
                f"Message {number} has the role {short(message['role'])}. Give one of "
                f"{', '.join(ROLES)}."
            )
        _check_text(message["content"], f"The content of message {number}")


def _check_text(text: Any, where: str) -> None:
    """Raise RequestError unless `text` is a string that has UTF-8."""
    if not isinstance(text, str):
        raise RequestError(f"{where} is {short(text)}. Give a string.")
    if half := half_pair(text):  # JSON can spell it; no tokenizer can read it
        raise RequestError(f"{where} holds {half}. Give whole Unicode characters.")
