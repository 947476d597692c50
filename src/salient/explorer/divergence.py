"""KL(reference || quantized) of the next token at each position of an answer.

The tokens of an answer, the reference's, are forced through both models, so that both predict the
same positions.
"""

import asyncio
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from salient.core.errors import ModelError, RequestError
from salient.runtime.engine import CHUNK, Engine
from salient.runtime.sampler import NO_NUMBERS
from salient.runtime.tokenization import chat_ids, prompt_ids
from salient.serve.bounded_threads import BoundedThreads
from salient.serve.openai_format import token_text
from salient.serve.protocol import ChatMessages, Text
from salient.serve.worker import Worker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOP = 5
MAX_CHARACTERS = 2**16  # of an answer
MAX_TOKENS = 512  # of an answer
MAX_LOGITS = 2**25  # of each model, in memory at once
ROWS = 64  # compared at once


class ForcedAnswer(BaseModel):
    """A conversation, or a plain prompt, and the answer whose tokens are forced."""

    messages: ChatMessages | None = None
    prompt: Text | None = None
    answer: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]

    @model_validator(mode="after")
    def _one_of_both(self) -> "ForcedAnswer":
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("give either messages or a prompt")
        return self


@dataclass(frozen=True)
class ForcedText:
    """Token ids of a prompt and its answer; `cut` tokens of the answer were left out."""

    prompt: list[int]
    answer: list[int]
    cut: int


def forced_text(body: ForcedAnswer, engine: Engine, other: Engine) -> ForcedText:
    """The token ids of `body`. Raises RequestError if the models cannot both run them."""
    tokenizer = engine.tokenizer
    if engine.runner.vocabulary != other.runner.vocabulary:
        raise RequestError(
            f"The checkpoint has a vocabulary of {engine.runner.vocabulary} tokens and the "
            f"reference one of {other.runner.vocabulary}: they cannot be compared token by token."
        )
    if body.messages is not None:
        conversation = [message.plain for message in body.messages]
        prompt = chat_ids(tokenizer, conversation, engine.context)
    else:
        prompt = prompt_ids(tokenizer, body.prompt or "", engine.context)
    answer = tokenizer(body.answer, add_special_tokens=False, verbose=False).input_ids
    room = min(engine.context, other.context) - len(prompt) + 1
    most = min(MAX_TOKENS, MAX_LOGITS // engine.runner.vocabulary, room)
    if not answer:
        raise RequestError("There is no answer to compare.")
    if most < 1:
        raise RequestError(
            f"The prompt's {len(prompt)} tokens leave no room for an answer. Shorten it."
        )
    return ForcedText(prompt, answer[:most], max(0, len(answer) - most))


async def divergence(
    body: ForcedAnswer, threads: BoundedThreads, worker: Worker, reference: Worker
) -> dict[str, object]:
    """KL and both models' most likely tokens at each position of the answer.

    Raises RequestError, ResourceError if a model has no free slot, ModelError for NaN logits.
    """
    text = await threads.run(partial(forced_text, body, worker.engine, reference.engine))
    quantized, full = await asyncio.gather(_logits(worker, text), _logits(reference, text))
    tokenizer = worker.engine.tokenizer
    return await asyncio.to_thread(_compare, tokenizer, text, full.cpu(), quantized.cpu())


async def _logits(worker: Worker, text: ForcedText) -> Tensor:
    """Logits float32 [tokens, vocab] before each token of the answer.

    A long prompt is prefilled in chunks, each a prefix of the next, so that running requests wait
    for one chunk at most.
    """
    ids = [*text.prompt, *text.answer[:-1]]
    if worker.engine.runner.reuses_prefixes:
        for stop in range(CHUNK, len(text.prompt), CHUNK):
            await worker.between_steps(lambda engine, stop=stop: engine.logits(ids[:stop], 1))
    return await worker.between_steps(lambda engine: engine.logits(ids, len(text.answer)))


def _compare(
    tokenizer: "PreTrainedTokenizerBase", text: ForcedText, reference: Tensor, quantized: Tensor
) -> dict[str, object]:
    tokens: list[dict[str, object]] = []
    kls: list[float] = []
    agreed = 0
    for start in range(0, len(text.answer), ROWS):
        logs = [x[start : start + ROWS].float().log_softmax(-1) for x in (reference, quantized)]
        kls += kl_rows(*logs).tolist()
        tops = [log.topk(TOP) for log in logs]
        for row, token in enumerate(text.answer[start : start + ROWS]):
            pairs = [zip(*(part[row].tolist() for part in top), strict=True) for top in tops]
            lists = [[{"text": _text(tokenizer, i), "p": math.exp(v)} for v, i in p] for p in pairs]
            same = bool(tops[0].indices[row, 0] == tops[1].indices[row, 0])
            agreed += same
            entry = {"text": _text(tokenizer, token), "kl": kls[start + row], "same": same}
            entry["p"] = [math.exp(float(log[row, token])) for log in logs]
            tokens.append({**entry, "reference": lists[0], "quantized": lists[1]})
    means = {"mean_kl": sum(kls) / len(tokens), "agreed": agreed / len(tokens)}
    return {"tokens": tokens, **means, "cut": text.cut}


def _text(tokenizer: "PreTrainedTokenizerBase", token: int) -> str:
    """A token's text; for a part of a character, its name in the vocabulary."""
    text = token_text(tokenizer, token)
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else text


def kl_rows(reference: Tensor, quantized: Tensor) -> Tensor:
    """KL(reference || quantized) of log-probabilities [rows, vocab]: float32 [rows], nats.

    Raises ModelError for NaN and infinity.
    """
    terms = reference.exp() * (reference - quantized)
    kl = terms.where(reference > -math.inf, 0.0).sum(-1)  # a masked token: 0 log 0 = 0
    if not bool(kl.isfinite().all()):
        raise ModelError(NO_NUMBERS)
    return kl.clamp(min=0)
