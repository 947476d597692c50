"""Our engine as a model that EleutherAI's lm-evaluation-harness takes (lm_eval/api/model.py)."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from salient.core.errors import CalibrationError
from salient.runtime.engine import Engine
from salient.runtime.loglikelihood import ChoiceRequest, Continuations, encode
from salient.runtime.sampling_params import SamplingParams

from .answering import ModelAnswer, write
from .examinee import Examinee

LOT = 64  # contexts, or prompts, that are kept together
NEW_TOKENS = 256  # of a written answer where the task does not say: the library's own default
BOUNDS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class Writing:
    """A prompt's tokens, the texts that end its answer, and how many new tokens it has at most."""

    ids: list[int]
    until: list[str]
    bound: int


class EngineModel:
    """What the library asks of a model. A mixin for its TemplateLM, which turns texts into tokens.

    told: hears how far the work is, in words
    """

    backend = "causal"
    max_gen_toks = NEW_TOKENS

    def __init__(self, examinee: Examinee, told: Callable[[str], None]):
        super().__init__()
        self.examinee, self.told = examinee, told
        self.tokenizer, self.max_length = examinee.tokenizer, examinee.context

    @property
    def tokenizer_name(self) -> str:
        return self.examinee.side.name

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is."""
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

    def tok_encode(
        self, string: str, *, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """The tokens of a text, with the special ones that the tokenizer adds unless told."""
        if add_special_tokens is None:
            return encode(self.tokenizer, string)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """As the library has it, without its progress bar."""
        library: Any = super()
        return library.loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Log-probability, and whether greedy decoding would say the same, of each request:
        a text, tokens of the context, tokens of the continuation.

        Where both are too long the context loses its beginning.
        """
        pairs = [self._fitting(context, tokens) for _, context, tokens in requests]
        contexts: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
        for context, tokens in pairs:
            contexts.setdefault(context, {})[tokens] = None
        asked = [
            ChoiceRequest(list(c), [list(tokens) for tokens in each])
            for c, each in contexts.items()
        ]
        found = {}
        for one, likelihoods in self._answers("likelihoods", asked, _ask):
            context = tuple(one.context)
            for tokens, likelihood in zip(one.continuations, likelihoods, strict=True):
                found[context, tuple(tokens)] = likelihood["logprob"], likelihood["greedy"]
        return [found[pair] for pair in pairs]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """The log-probability of whole texts, in windows where they are long."""
        windows = import_module("lm_eval.utils")
        asked, counts = [], []
        for (text,) in (request.args for request in requests):
            parts = windows.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            cut = [(None, *windows.make_disjoint_window(part)) for part in parts]
            asked += cut
            counts.append(len(cut))
        found = iter(self._loglikelihood_tokens(asked))
        return [sum(next(found)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Greedy answers, each cut before the first text that ends it."""
        asked = [self._writing(*request.args) for request in requests]
        return [text for _, text in self._answers("texts", asked, _write)]

    def _fitting(self, context: Sequence[int], tokens: Sequence[int]) -> tuple[Any, Any]:
        room = self.max_length + 1 - len(tokens)
        if not tokens or room < 1:
            raise CalibrationError(
                f"lm-eval asks about a continuation of {len(tokens)} tokens; there is room for 1 "
                f"to {self.max_length}. Leave that task out."
            )
        return tuple(context[-room:]), tuple(tokens)

    def _writing(self, context: str, given: dict[str, Any]) -> Writing:
        if given.get("do_sample") and given.get("temperature", 1.0) > 0:
            raise CalibrationError(
                "lm-eval asks for answers drawn at random, which differ from run to run. Leave "
                "that task out."
            )
        until = given.get("until") or []
        bound = next((int(given[key]) for key in BOUNDS if given.get(key)), NEW_TOKENS)
        if bound >= self.max_length:
            raise CalibrationError(
                f"lm-eval asks for {bound} new tokens; the model has {self.max_length} positions. "
                "Leave that task out."
            )
        ids = encode(self.tokenizer, context)[-(self.max_length - bound) :]
        return Writing(ids, [until] if isinstance(until, str) else list(until), bound)

    def _answers(
        self, name: str, asked: list[Any], make: Callable[[Engine, Any], ModelAnswer]
    ) -> Iterator[tuple[Any, Any]]:
        """Each of `asked` with what `make` says to it; computed, or kept from another run."""
        for start in range(0, len(asked), LOT):
            self.told(f"lm-eval, {start} of {len(asked)} {name}")
            lot = asked[start : start + LOT]
            written = json.dumps([asdict(each) for each in lot])
            settings = {"asked": hashlib.sha256(written.encode()).hexdigest()}
            answers = self.examinee.part(
                f"lm-eval-{name}", settings, lambda engine, lot=lot: make(engine, lot)
            )
            yield from zip(lot, answers, strict=True)


def _ask(engine: Engine, lot: Sequence[ChoiceRequest]) -> ModelAnswer:
    continuations = Continuations(engine)
    answers: list[object] = [[asdict(each) for each in one] for one in continuations.ask(lot)]
    return ModelAnswer(answers, continuations.computed, 0)


def _write(engine: Engine, lot: Sequence[Writing]) -> ModelAnswer:
    texts = {}
    prompt = new = 0
    for until, bound in dict.fromkeys((tuple(each.until), each.bound) for each in lot):
        alike = [
            n for n, each in enumerate(lot) if (tuple(each.until), each.bound) == (until, bound)
        ]
        ends = [text for text in until if text]
        written = write(
            engine,
            [lot[n].ids for n in alike],
            SamplingParams(bound),
            lambda text, ends=ends: any(end in text for end in ends),
        )
        for n, answer in zip(alike, written, strict=True):
            texts[n] = _cut(answer.text, ends)
            prompt += len(answer.prompt) - answer.reused
            new += len(answer.tokens)
    return ModelAnswer([texts[n] for n in range(len(lot))], prompt, new)


def _cut(text: str, ends: Sequence[str]) -> str:
    for end in ends:
        text = text.partition(end)[0]
    return text
