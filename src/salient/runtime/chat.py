"""A conversation with a checkpoint: its history, and streamed answers."""

from collections.abc import Iterator
from dataclasses import replace

from salient.core.errors import RequestError

from .load_engine import LoadedEngine, load
from .options import ChatOptions
from .sampling_params import SamplingParams, sampling_of
from .sequence import TokenSequence, raise_failed
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
        if self.system:
            messages = [{"role": "system", "content": self.system}, *messages]
        return chat_ids(self.opened.model.tokenizer, messages)


def open_conversation(options: ChatOptions) -> Conversation:
    """Load the checkpoint and start a conversation."""
    opened = load(str(options.checkpoint), options.engine_options(slots=1))
    return Conversation(opened, sampling_of(options, default_sampling(opened)), options.system)


def default_sampling(opened: LoadedEngine) -> SamplingParams:
    """The sampling of the model's generation config."""
    defaults = SamplingParams(max_new_tokens=1024, temperature=0.7, top_p=0.95)
    config = getattr(opened.model.module, "generation_config", None)
    if not getattr(config, "do_sample", None):
        return defaults
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "min_p")
    values = {name: getattr(config, name, None) for name in names}
    return replace(defaults, **{name: v for name, v in values.items() if v is not None})
