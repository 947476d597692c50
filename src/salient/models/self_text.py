"""The model's own conversations as calibration text: its answers to short built-in requests.

Answers are sampled at temperature 1 from all tokens, so that they are distributed as the model's
(as the calibration data of LLM-QAT, arXiv 2305.17888). Each batch has a seed of its own and is
stored in the cache when it is finished: an interrupted run resumes, and another scheme of the same
model reads the same text. The whole model is in memory meanwhile.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig

from salient.core.corpus import Document, builtin
from salient.core.devices import free_memory
from salient.core.errors import CalibrationError, ResourceError, library_errors
from salient.core.input_files import parse_json
from salient.core.progress import Progress
from salient.core.system import cache_folder, release_memory
from salient.formats.writer import write_text

from .chat_template import CALIBRATION_DATE, render_conversation
from .skeleton import Skeleton
from .template_process import TemplateFault
from .token_packing import Piece, TokenBatch, pack_pieces
from .tokens import encode

SELF_TEXT = "self-text"  # the kind of these tokens in evidence
SELF_SHARE = 0.25  # of a run's samples
REQUEST_LETTERS = 400  # of a request, at most
REQUESTS = 32  # answered at once
MOST_REQUESTS = 256  # different ones; with another seed a request has another answer
ANSWER_TOKENS = 256
MOST_SECONDS = 3600.0  # of all batches, by the time of the first


def self_samples(samples: int) -> int:
    """How many of a run's `samples` are the model's own text."""
    return min(samples - 1, max(1, round(SELF_SHARE * samples)))


def own_text(
    skeleton: Skeleton, tokenizer: Any, key: str, size: tuple[int, int], progress: Progress
) -> TokenBatch:
    """`size` = (samples, tokens) of the model's own conversations; the last ones are held out.

    skeleton: of its own; it is used up   key: names the model in the cache

    Raises CalibrationError for a model without a chat template or that answers no text,
    ResourceError if the whole model does not fit into memory or would take too long.
    """
    samples, length = size
    if not tokenizer.chat_template or skeleton.head.kind != "tokens":
        raise CalibrationError(
            "--self-text samples the answers of a chat model, and this model has no chat template "
            "or answers without text. Omit the option, or add chat_template.jinja to the folder."
        )
    pieces = sampled_text(
        skeleton, tokenizer, key, samples * length, progress, lambda: short_requests(tokenizer)
    )
    return pack_pieces(pieces, tokenizer, samples, length, "The model's own text", hold_out=True)


def sampled_text(
    skeleton: Skeleton,
    tokenizer: Any,
    key: str,
    wanted: int,
    progress: Progress,
    requests: Callable[[], list[list[int]]],
) -> list[Piece]:
    """At least `wanted` tokens of requests with the model's answers.

    skeleton: of its own; it is used up   key: names the model and the requests in the cache
    requests: makes them, as token ids, where an answer is not in the cache
    """
    computed_in = f"{skeleton.dtype} on {skeleton.device.type}, {REQUESTS} x {ANSWER_TOKENS}"
    source = f"{key}|{tokenizer.chat_template}|{computed_in}"
    store = cache_folder() / SELF_TEXT / hashlib.sha256(source.encode()).hexdigest()
    writer = _Conversations(skeleton, tokenizer, store, wanted, progress, requests)
    try:
        return list(writer.pieces())
    finally:
        writer.close()


class _Conversations:
    """Samples conversations of `wanted` tokens in all, and stores each batch in `store`."""

    def __init__(
        self,
        skeleton: Skeleton,
        tokenizer: Any,
        store: Path,
        wanted: int,
        progress: Progress,
        requests: Callable[[], list[list[int]]],
    ):
        self._skeleton, self._tokenizer, self._store = skeleton, tokenizer, store
        self._wanted, self._progress, self._model = wanted, progress, None
        self._requests = requests

    def pieces(self) -> Iterator[Piece]:
        """Conversations until there are enough tokens."""
        requests, tokens, number = list[list[int]](), 0, 0
        started, sampled = time.monotonic(), 0
        while tokens < self._wanted:
            self._progress(tokens, self._wanted, "sampling the model's own text")
            path = self._store / f"{number}.json"
            if not path.is_file():
                requests = requests or self._requests()
                batch = [requests[(number * REQUESTS + i) % len(requests)] for i in range(REQUESTS)]
                self._store.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(self._sample(batch, number)))
                sampled += 1
            conversations = parse_json(path.read_text("utf-8"))
            tokens += sum(map(len, conversations))
            if sampled == 1:
                self._check_time(time.monotonic() - started, sum(map(len, conversations)))
            number += 1
            yield from ((SELF_TEXT, ids) for ids in conversations)

    def _check_time(self, seconds: float, tokens: int) -> None:
        """Raise ResourceError if all would take too long, by the time of `tokens` tokens."""
        whole = seconds * self._wanted / max(tokens, 1)
        if whole > MOST_SECONDS:
            raise ResourceError(
                f"--self-text would take about {whole / 60:.0f} minutes for {self._wanted} tokens "
                f"here; at most {MOST_SECONDS / 60:.0f} are spent. Use fewer --samples, a GPU, or "
                "omit it."
            )

    def _sample(self, requests: list[list[int]], seed: int) -> list[list[int]]:
        """The conversations of requests (token ids) and sampled answers, without padding."""
        model, end = self._loaded(), self._tokenizer.eos_token_id
        longest = max(map(len, requests))
        pad = 0 if end is None else end
        ids = torch.tensor([[pad] * (longest - len(r)) + r for r in requests])
        mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in requests])
        settings = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=ANSWER_TOKENS,
            eos_token_id=end, pad_token_id=pad,
        )  # fmt: skip
        device = self._skeleton.device
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            library_errors("The model cannot generate text", "Omit --self-text."),
            torch.no_grad(),
        ):
            torch.manual_seed(seed)
            out: Tensor = model.generate(
                ids.to(device), attention_mask=mask.to(device), generation_config=settings
            )
        answers = out[:, longest:].tolist()
        return [
            [*request, *_until(answer, end)]
            for request, answer in zip(requests, answers, strict=True)
        ]

    def _loaded(self) -> Any:
        """The whole model. Raises ResourceError if it does not fit."""
        if self._model is None:
            skeleton = self._skeleton
            blocks = (skeleton.bare(index) for index in range(len(skeleton.blocks)))
            weights = sum(p.numel() for block in blocks for p in block.parameters())
            needed = skeleton.outer_bytes() + weights * torch.finfo(skeleton.dtype).bits // 8
            if needed > (free := free_memory(skeleton.device)):
                raise ResourceError(
                    f"--self-text needs the whole model in memory, {needed / 2**30:.1f} GiB, and "
                    f"{free / 2**30:.1f} GiB are free. Omit it, or use a machine with more."
                )
            self._model = skeleton.assemble().eval()
        return self._model

    def close(self) -> None:
        """Free the model."""
        self._model = None
        release_memory()


def short_requests(
    tokenizer: Any, part: Literal["calibration", "heldout"] = "calibration"
) -> list[list[int]]:
    """The short requests of the built-in corpus, by the chat template, as token ids."""
    requests = list[list[int]]()
    for document in builtin(part):
        first = document.messages[0] if document.messages else {}
        if first.get("role") == "user" and len(first["content"]) <= REQUEST_LETTERS:
            request = Document(messages=(first,), where=document.where)
            try:
                text = render_conversation(
                    tokenizer, request, strict=False, now=CALIBRATION_DATE,
                    add_generation_prompt=True,
                )  # fmt: skip
            except TemplateFault as fault:
                raise CalibrationError(
                    f"--self-text: the model's chat template does not render: {fault.reason}. Fix "
                    "the template, or omit the option."
                ) from fault
            requests.append(encode(tokenizer, text, special=False))
            if len(requests) == MOST_REQUESTS:
                break
    return requests


def _until(answer: list[int], end: int | None) -> list[int]:
    """The answer up to its end-of-text token, included."""
    return answer[: answer.index(end) + 1] if end in answer else answer
