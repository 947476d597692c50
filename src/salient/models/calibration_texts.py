"""The tokens of a run's calibration: the built-in corpus, and the user's texts mixed with it.

The built-in corpus is mixed in fixed shares of tokens, so that few samples have the same mixture as
many. For a chat model its texts become conversations: what is asked of such a model is in its chat
template.
"""

from dataclasses import replace
from typing import Any

from salient.core.corpus import BUILTIN, Document, builtin, read_texts
from salient.core.text_places import texts_label

from .token_packing import TokenBatch, merge_batches, pack_kinds, pack_tokens

SHARES = {
    "prose": 0.2,
    "code": 0.22,
    "maths": 0.16,
    "dialogue": 0.18,
    "multilingual": 0.12,
    "structured": 0.07,
    "long": 0.05,
}


def calibration_tokens(
    name: str, tokenizer: Any, samples: int, length: int, *, mix: float = 1.0, label: str = ""
) -> TokenBatch:
    """`samples` samples of `length` tokens of the texts called `name`; the last ones are held out.

    mix: share of the samples that are of these texts, as far as they suffice; the others are of the
        built-in corpus
    label: of the texts, for messages

    Raises CalibrationError, MissingExtra.
    """
    if name == BUILTIN:
        return _builtin_tokens(tokenizer, samples, length)
    documents, where = read_texts(name), label or name
    own = samples if mix == 1 else max(1, min(samples - 1, round(mix * samples)))
    alone = own >= samples
    batch = pack_tokens(documents, tokenizer, own, length, where, hold_out=True, fewer=not alone)
    if alone:
        return batch
    label, notes, count = texts_label(where), batch.notes, len(batch.ids)
    if count < own:
        notes += (
            f"{label} fills {count} of {samples} samples, {count / samples:.0%} of the calibration "
            f"instead of {mix:.0%}; the others are of the built-in corpus. Give more text, or "
            "fewer --samples.",
        )
    batch = replace(batch, kinds={label: batch.ids.numel()}, notes=notes)
    return merge_batches([batch, _builtin_tokens(tokenizer, samples - count, length)])


def _builtin_tokens(tokenizer: Any, samples: int, length: int) -> TokenBatch:
    documents = builtin("calibration")
    if tokenizer.chat_template:
        documents = [d if d.messages else as_conversation(d) for d in documents]
    return pack_kinds(documents, tokenizer, samples, length, BUILTIN, shares=SHARES)


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
