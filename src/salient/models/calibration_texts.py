"""The tokens of a run's calibration: a file's texts, or the built-in corpus.

The built-in corpus is mixed in fixed shares of tokens, so that few samples have the same mixture as
many. For a chat model its texts become conversations: what is asked of such a model is in its chat
template.
"""

from dataclasses import replace
from typing import Any

from salient.core.corpus import BUILTIN, Document, builtin, read_texts

from .tokens import TokenBatch, pack_tokens

SHARES = {"prose": 0.22, "code": 0.24, "maths": 0.24, "dialogue": 0.24, "multilingual": 0.06}


def calibration_tokens(
    name: str, tokenizer: Any, samples: int, length: int, label: str = ""
) -> TokenBatch:
    """`samples` samples of `length` tokens of the texts called `name`.

    label: for messages. Raises CalibrationError, MissingExtra.
    """
    if name != BUILTIN:
        return pack_tokens(read_texts(name), tokenizer, samples, length, label or name)
    documents = builtin("calibration")
    if tokenizer.chat_template:
        documents = [d if d.messages else as_conversation(d) for d in documents]
    return pack_tokens(documents, tokenizer, samples, length, BUILTIN, shares=SHARES)


def as_conversation(document: Document) -> Document:
    """A text as a user's turn and the assistant's continuation of it, cut at the end of a line."""
    text = document.text
    third = len(text) // 3
    cut = next((i for mark in "\n " if third < (i := text.find(mark, third)) < 2 * third), third)
    question, answer = text[:cut].strip(), text[cut:].strip()
    if not question or not answer:
        return document
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return replace(document, text="", messages=turns)
