"""Log-likelihood of continuations of a context, as in multiple-choice tasks.

A context is computed once. Its keys and values are copied to a slot for each of its continuations,
and those of several contexts go through the blocks together. What a context shares with the one
before it in order, such as worked examples, is not computed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from salient.core.errors import RequestError

from .engine import CHUNK, MIN_COPY, Engine, common_start
from .runner import Logprob, TokenSpan


@dataclass(frozen=True)
class ChoiceRequest:
    """The tokens of a context, and those of each continuation of it."""

    context: list[int]
    continuations: list[list[int]]


@dataclass(frozen=True)
class ContinuationScore:
    """logprob: the sum over a continuation's tokens, nats   greedy: none has a likelier rival"""

    logprob: float
    greedy: bool

    @staticmethod
    def of(tokens: list[Logprob]) -> "ContinuationScore":
        return ContinuationScore(sum(value for value, _ in tokens), all(top for _, top in tokens))


def encode(tokenizer: Any, text: str) -> list[int]:
    """The tokens of `text`, with special tokens; without a second BOS token if `text` starts
    with one."""
    spelled = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return tokenizer(text, add_special_tokens=not spelled, verbose=False).input_ids


def encode_choices(tokenizer: Any, context: str, continuations: Sequence[str]) -> ChoiceRequest:
    """The tokens of a context and its continuations: encoded together, then cut.

    As EleutherAI's lm-evaluation-harness does for causal models (lm_eval/api/model.py,
    TemplateLM._encode_pair): special tokens are the tokenizer's own choice, and the white space
    between the two, which belongs to the next token, is the continuation's.

    Raises RequestError for a continuation without tokens.
    """
    bare = context.rstrip()
    ids, space = encode(tokenizer, bare), context[len(bare) :]
    cut = [encode(tokenizer, bare + space + text)[len(ids) :] for text in continuations]
    for text, tokens in zip(continuations, cut, strict=True):
        if not ids or not tokens:
            raise RequestError(
                f"{text[:40]!r} has no tokens of its own after {bare[-40:]!r}. Give a longer one."
            )
    return ChoiceRequest(ids, cut)


class Continuations:
    """Scores continuations on an idle engine.

    computed: tokens that went through the model so far
    """

    def __init__(self, engine: Engine):
        self.engine, self.computed = engine, 0
        self._stem, self._stem_slot = [], 0  # the last context, and where it is

    def score(self, requests: Sequence[ChoiceRequest]) -> list[list[ContinuationScore]]:
        """The score of each continuation of each context.

        Raises RequestError for invalid or too long requests, ModelError for logits that are not
        finite.
        """
        if not requests:
            return []
        for each in requests:
            _check(each, self.engine)
        self.engine.clear_cache()
        self._stem = []
        logprobs: dict[int, list[list[Logprob]]] = {}
        if self.engine.runner.reuses_prefixes:
            for group in self._groups(requests):
                logprobs |= self._score_group(requests, group)
        else:
            logprobs = {n: self._score_alone(each) for n, each in enumerate(requests)}
        return [
            [ContinuationScore.of(tokens) for tokens in logprobs[n]] for n in range(len(requests))
        ]

    def _score_alone(self, request: ChoiceRequest) -> list[list[Logprob]]:
        """The log-probabilities with the context computed again for each continuation."""
        logprobs = []
        for tokens in request.continuations:
            first = len(request.context) - 1
            ids = request.context + tokens[:-1]
            logprobs += self._run([TokenSpan(0, 0, ids, list(enumerate(tokens, first)))])
        return logprobs

    def _groups(self, requests: Sequence[ChoiceRequest]) -> list[list[int]]:
        """Group requests, as many as have slots; one that shares a long prefix with the previous
        request waits for its keys and values."""
        most = max(1, self.engine.runner.slots - 1)
        order = sorted(range(len(requests)), key=lambda n: requests[n].context)
        groups, left, stem = [], 0, []
        for n in order:
            wide = min(_width(requests[n]), most)
            context, last = requests[n].context, requests[groups[-1][-1]].context if groups else []
            saved = common_start(last, context) - common_start(stem, context)
            if wide > left or saved >= max(MIN_COPY, len(context) // 2):
                groups.append([])
                left, stem = most, last
            groups[-1].append(n)
            left -= wide
        return groups

    def _score_group(
        self, requests: Sequence[ChoiceRequest], group: list[int]
    ) -> dict[int, list[list[Logprob]]]:
        """The log-probabilities of every token of the continuations of a group."""
        runner = self.engine.runner
        free = [s for s in range(runner.slots) if s != self._stem_slot] or [0]
        slots = {n: [free.pop(0) for _ in range(_width(requests[n])) if free] for n in group}
        firsts = self._run([self._begin(requests[n], slots[n][0]) for n in group])
        logprobs = {n: [[first] for first in each] for n, each in zip(group, firsts, strict=True)}
        for n in group:
            for slot in slots[n][1:]:
                runner.copy(slots[n][0], slot, len(requests[n].context))
        rounds: dict[int, list[tuple[list[Logprob], TokenSpan]]] = {}
        for n in group:
            rest = [k for k, tokens in enumerate(requests[n].continuations) if len(tokens) > 1]
            for number, k in enumerate(rest):
                turn, place = divmod(number, len(slots[n]))
                tokens, start = requests[n].continuations[k], len(requests[n].context)
                targets = list(enumerate(tokens[1:]))
                span = TokenSpan(slots[n][place], start, tokens[:-1], targets)
                rounds.setdefault(turn, []).append((logprobs[n][k], span))
        for turn in rounds.values():
            results = self._run([span for _, span in turn])
            for (tokens, _), more in zip(turn, results, strict=True):
                tokens += more
        self._stem, self._stem_slot = requests[group[-1]].context, slots[group[-1]][0]
        return logprobs

    def _begin(self, request: ChoiceRequest, slot: int) -> TokenSpan:
        """The uncomputed end of a context, with the continuations' first tokens as targets."""
        start = common_start(self._stem, request.context)
        if slot != self._stem_slot:
            start = start if start >= MIN_COPY else 0
            if start:
                self.engine.runner.copy(self._stem_slot, slot, start)
        ids = request.context[start:]
        firsts = [(len(ids) - 1, tokens[0]) for tokens in request.continuations]
        return TokenSpan(slot, start, ids, firsts)

    def _run(self, spans: list[TokenSpan]) -> list[list[Logprob]]:
        """The log-probabilities of the spans, batched."""
        runner, logprobs = self.engine.runner, []
        self.computed += sum(len(span.ids) for span in spans)
        for batch in _batches(spans):
            if len(batch) > 1 or not runner.reuses_prefixes:
                logprobs += runner.logprobs(batch)
                continue
            pieces = [runner.logprobs([piece])[0] for piece in _pieces(batch[0])]
            logprobs.append([each for piece in pieces for each in piece])
        return logprobs


def _check(request: ChoiceRequest, engine: Engine) -> None:
    longest = max(map(len, request.continuations), default=1)
    if not request.context or not all(request.continuations):
        raise RequestError("A context or a continuation has no tokens. Give at least one of each.")
    excess = len(request.context) + longest - 1 - engine.context
    if excess > 0:
        raise RequestError(
            f"A context of {len(request.context)} tokens and a continuation of {longest}, the "
            f"model runs with {engine.context}. Shorten the context by {excess} or more tokens."
        )
    engine.check_known(chain(request.context, *request.continuations))


def _width(request: ChoiceRequest) -> int:
    """Slots of a context: one for each continuation of more than one token."""
    return max(1, sum(len(tokens) > 1 for tokens in request.continuations))


def _batches(spans: list[TokenSpan]) -> list[list[TokenSpan]]:
    """Spans in batches of at most a prefill chunk of tokens."""
    batches: list[list[TokenSpan]] = []
    rows = CHUNK
    for span in spans:
        rows += len(span.ids)
        if rows > CHUNK:
            batches.append([])
            rows = len(span.ids)
        batches[-1].append(span)
    return batches


def _pieces(span: TokenSpan) -> list[TokenSpan]:
    """A long span in prefill chunks."""
    return [
        TokenSpan(
            span.slot,
            span.start + begin,
            span.ids[begin : begin + CHUNK],
            [(i - begin, token) for i, token in span.targets if begin <= i < begin + CHUNK],
        )
        for begin in range(0, len(span.ids), CHUNK)
    ]
