"""Where two models part: KL(reference || quantized) of the next token, place by place.

The tokens of an answer, the reference's, are forced through both models, so that both speak of the
same places.
"""

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from salient.core.errors import ModelError, RequestError
from salient.runtime.engine import PIECE, Engine
from salient.runtime.sampler import NO_NUMBERS
from salient.runtime.tokenization import chat_ids, prompt_ids
from salient.serve.openai_format import token_text
from salient.serve.worker import Worker

from .query_params import ForcedAnswer

TOP = 5
MOST_TOKENS = 512  # of an answer
MOST_LOGITS = 2**25  # of each model, in memory at once
ROWS = 64  # compared at once


@dataclass(frozen=True)
class ForcedText:
    """Token ids of a prompt and of an answer to it; `cut` of the answer's were left out."""

    prompt: list[int]
    answer: list[int]
    cut: int


def text_of(asked: ForcedAnswer, engine: Engine, other: Engine) -> ForcedText:
    """The tokens of what is asked. Raises RequestError for what both models cannot be given."""
    tokenizer = engine.tokenizer
    if engine.runner.vocabulary != other.runner.vocabulary:
        raise RequestError(
            f"The checkpoint knows {engine.runner.vocabulary} tokens and the reference "
            f"{other.runner.vocabulary}: they cannot be compared token by token."
        )
    if asked.messages is not None:
        prompt = chat_ids(tokenizer, [message.plain for message in asked.messages])
    else:
        prompt = prompt_ids(tokenizer, asked.prompt or "")
    answer = tokenizer(asked.answer, add_special_tokens=False, verbose=False).input_ids
    room = min(engine.context, other.context) - len(prompt) + 1
    most = min(MOST_TOKENS, MOST_LOGITS // engine.runner.vocabulary, room)
    if not answer or most < 1:
        raise RequestError(
            "There is no answer to compare."
            if not answer
            else f"The prompt's {len(prompt)} tokens leave no room for an answer. Shorten it."
        )
    return ForcedText(prompt, answer[:most], max(0, len(answer) - most))


async def divergence(asked: ForcedAnswer, worker: Worker, reference: Worker) -> dict[str, Any]:
    """KL and both models' likeliest tokens at each place of the answer, as plain data.

    Raises RequestError, ResourceError where a model has no free slot, ModelError where one gives no
    numbers.
    """
    text = await asyncio.to_thread(text_of, asked, worker.engine, reference.engine)
    quantized, wanted = await asyncio.gather(_logits(worker, text), _logits(reference, text))
    tokenizer = worker.engine.tokenizer
    return await asyncio.to_thread(_told, tokenizer, text, wanted.cpu(), quantized.cpu())


async def _logits(worker: Worker, text: ForcedText) -> Tensor:
    """Logits float32 [tokens, vocab] before each token of the answer.

    A long prompt goes in piece by piece, each going on from what a slot then holds, so that answers
    under way wait no longer than for one of them.
    """
    ids = [*text.prompt, *text.answer[:-1]]
    if worker.engine.runner.keeps_prefixes:
        for stop in range(PIECE, len(text.prompt), PIECE):
            await worker.between_steps(lambda engine, stop=stop: engine.logits(ids[:stop], 1))
    return await worker.between_steps(lambda engine: engine.logits(ids, len(text.answer)))


def _told(tokenizer: Any, text: ForcedText, reference: Tensor, quantized: Tensor) -> dict[str, Any]:
    tokens = list(_tokens(tokenizer, text.answer, reference, quantized))
    mean = sum(token["kl"] for token in tokens) / len(tokens)
    return {
        "tokens": tokens,
        "mean_kl": mean,
        "agreed": sum(token["same"] for token in tokens) / len(tokens),
        "cut": text.cut,
    }


def _tokens(
    tokenizer: Any, answer: Sequence[int], reference: Tensor, quantized: Tensor
) -> Iterator[dict[str, Any]]:
    for start in range(0, len(answer), ROWS):
        logs = [x[start : start + ROWS].float().log_softmax(-1) for x in (reference, quantized)]
        kls = kl_rows(*logs).tolist()
        tops = [log.topk(TOP) for log in logs]
        for row, token in enumerate(answer[start : start + ROWS]):
            lists = [
                [
                    {"text": _text(tokenizer, int(i)), "p": math.exp(float(v))}
                    for v, i in zip(top.values[row], top.indices[row], strict=True)
                ]
                for top in tops
            ]
            yield {
                "text": _text(tokenizer, token),
                "kl": kls[row],
                "p": [math.exp(float(log[row, token])) for log in logs],
                "same": bool(tops[0].indices[row, 0] == tops[1].indices[row, 0]),
                "reference": lists[0],
                "quantized": lists[1],
            }


def _text(tokenizer: Any, token: int) -> str:
    """A token's text; of a part of a character, which has none, its name in the vocabulary."""
    text = token_text(tokenizer, token)
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else text


def kl_rows(reference: Tensor, quantized: Tensor) -> Tensor:
    """KL(reference || quantized) of log-probabilities [rows, vocab]: float32 [rows], nats.

    Raises ModelError where they are no numbers.
    """
    lost = reference.exp() * (reference - quantized)
    lost = lost.where(reference > -math.inf, 0.0)  # a masked token: 0 log 0 = 0
    found = lost.sum(-1)
    if not bool(found.isfinite().all()):
        raise ModelError(NO_NUMBERS)
    return found.clamp(min=0)
