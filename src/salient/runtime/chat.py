"""A conversation with a checkpoint: its history, and streamed answers."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from salient.core.errors import RequestError

from .load_engine import LoadedEngine, load
from .options import ChatOptions, EngineOptions, RunOptions
from .sampling_params import SamplingParams
from .token_sequence import TokenSequence, raise_failed
from .tokenization import chat_ids

LEAST_ANSWER = 64  # tokens that must be free for an answer, or old turns are dropped


class Conversation:
    """Turns of a user and the model, newest last.

    messages: role and content of each   answer: the last one, None before the first
    dropped_turns: dropped from the front so far, because the context was full
    """

    def __init__(self, opened: LoadedEngine, sampling: SamplingParams, system: str | None = None):
        sampling.check()
        self.opened, self.sampling, self.system = opened, sampling, system
        self.messages: list[dict[str, str]] = []
        self.answer: TokenSequence | None = None
        self.dropped_turns = 0
        self._ids([{"role": "user", "content": "?"}])  # no template, or it refuses a system text

    def send(self, text: str) -> Iterator[str]:
        """The answer to `text`, streamed; the text up to an early exit stays in the history.

        Raises RequestError, and drops `text`, if it does not fit the context alone.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            ids = self._fitting()
        except RequestError:
            self.messages.pop()
            raise
        engine = self.opened.engine
        answer = self.answer = engine.submit(ids, self.sampling)
        try:
            while not answer.finished:
                yield from (piece.text for piece in engine.step() if piece.text)
        finally:
            engine.cancel(answer)
            self.messages.append({"role": "assistant", "content": answer.text})
        raise_failed([answer])

    def reset(self) -> None:
        """Clear the history."""
        self.messages.clear()

    def _fitting(self) -> list[int]:
        """The conversation's tokens, without its oldest turns where they leave no room."""
        context = self.opened.engine.context
        least = min(LEAST_ANSWER, self.sampling.max_new_tokens, context // 4)
        while True:
            ids = self._ids(self.messages)
            if len(ids) + least <= context or len(self.messages) == 1:
                if len(ids) + 1 > context:
                    raise RequestError(
                        f"The message takes {len(ids)} tokens, the context is {context}. "
                        "Shorten it."
                    )
                return ids
            del self.messages[:2]
            self.dropped_turns += 2

    def _ids(self, messages: list[dict[str, str]]) -> list[int]:
        first: list[dict[str, str]] = (
            [{"role": "system", "content": self.system}] if self.system else []
        )
        return chat_ids(self.opened.model.tokenizer, first + messages)


SAMPLING = (
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


def open_conversation(options: ChatOptions) -> Conversation:
    """Load the checkpoint and start a conversation."""
    shared = {field.name: getattr(options, field.name) for field in fields(RunOptions)}
    opened = load(str(options.checkpoint), EngineOptions(**shared, slots=1))
    values = {name: getattr(options, name) for name in SAMPLING}
    return Conversation(opened, default_sampling(opened, **values), options.system)


def default_sampling(opened: LoadedEngine, **changes: Any) -> SamplingParams:
    """The sampling of the model's generation config, with `changes` that are not None."""
    config = getattr(opened.model.module, "generation_config", None)
    defaults: dict[str, Any] = {"max_new_tokens": 1024, "temperature": 0.7, "top_p": 0.95}
    if getattr(config, "do_sample", None):
        for name in ("temperature", "top_p", "top_k", "repetition_penalty", "min_p"):
            value = getattr(config, name, None)
            if value is not None:
                defaults[name] = value
    return SamplingParams(
        **defaults | {name: value for name, value in changes.items() if value is not None}
    )
