"""How likely given texts are after a context: the way to answer a multiple choice without writing.

A context is computed once. Its keys and values are copied to a slot for each of its continuations,
and those of several contexts go through the blocks together. What a context shares with the one
before it in order, such as worked examples, is not computed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from salient.core.errors import RequestError

from .engine import PIECE, WORTH_COPYING, Engine, common_start
from .spans import Logprob, TokenSpan


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


def encode(tokenizer: Any, text: str) -> list[int]:
    """The tokens of `text`, with the special tokens that the tokenizer puts around a text; not
    with a second one at the beginning, where `text` spells it."""
    spelled = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return tokenizer(text, add_special_tokens=not spelled, verbose=False).input_ids


def encode_choices(tokenizer: Any, context: str, continuations: Sequence[str]) -> ChoiceRequest:
    """A context and what may follow it as tokens: both together are encoded, then cut.

    As EleutherAI's lm-evaluation-harness does it for causal models (lm_eval/api/model.py,
    TemplateLM._encode_pair): special tokens are the tokenizer's own choice, and the white space
    between the two, which belongs to the next token, is the continuation's.

    Raises RequestError where nothing is left of one.
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
    """Asks an engine that nothing runs on.

    computed: tokens that went through the model so far
    """

    def __init__(self, engine: Engine):
        self.engine, self.computed = engine, 0
        self._stem, self._stem_slot = [], 0  # the last context, and where it is

    def ask(self, asked: Sequence[ChoiceRequest]) -> list[list[ContinuationScore]]:
        """How likely each continuation of each context is.

        Raises RequestError for what the model has no room or no tokens for, ModelError where it
        gives no numbers.
        """
        if not asked:
            return []
        for each in asked:
            _check(each, self.engine)
        self.engine.forget()
        self._stem = []
        found: dict[int, list[list[Logprob]]] = {}
        if self.engine.runner.keeps_prefixes:
            for group in self._groups(asked):
                found |= self._together(asked, group)
        else:
            found = {n: self._one_by_one(each) for n, each in enumerate(asked)}
        return [[_total(tokens) for tokens in found[n]] for n in range(len(asked))]

    def _one_by_one(self, asked: ChoiceRequest) -> list[list[Logprob]]:
        """Context and continuation anew for each of them."""
        found = []
        for tokens in asked.continuations:
            first = len(asked.context) - 1
            ids = asked.context + tokens[:-1]
            found += self._run([TokenSpan(0, 0, ids, list(enumerate(tokens, first)))])
        return found

    def _groups(self, asked: Sequence[ChoiceRequest]) -> list[list[int]]:
        """Which go together: as many as have slots. One that shares much with the one before it
        waits for that one's keys and values."""
        most = max(1, self.engine.runner.slots - 1)
        order = sorted(range(len(asked)), key=lambda n: asked[n].context)
        groups, left, stem = [], 0, []
        for n in order:
            wide = min(_width(asked[n]), most)
            context, last = asked[n].context, asked[groups[-1][-1]].context if groups else []
            saved = common_start(last, context) - common_start(stem, context)
            if wide > left or saved >= max(WORTH_COPYING, len(context) // 2):
                groups.append([])
                left, stem = most, last
            groups[-1].append(n)
            left -= wide
        return groups

    def _together(
        self, asked: Sequence[ChoiceRequest], group: list[int]
    ) -> dict[int, list[list[Logprob]]]:
        """The log-probabilities of every token of the continuations of a group."""
        runner = self.engine.runner
        free = [s for s in range(runner.slots) if s != self._stem_slot] or [0]
        slots = {n: [free.pop(0) for _ in range(_width(asked[n])) if free] for n in group}
        firsts = self._run([self._begin(asked[n], slots[n][0]) for n in group])
        found = {n: [[first] for first in each] for n, each in zip(group, firsts, strict=True)}
        for n in group:
            for slot in slots[n][1:]:
                runner.copy(slots[n][0], slot, len(asked[n].context))
        rounds: dict[int, list[tuple[list[Logprob], TokenSpan]]] = {}
        for n in group:
            rest = [k for k, tokens in enumerate(asked[n].continuations) if len(tokens) > 1]
            for number, k in enumerate(rest):
                turn, place = divmod(number, len(slots[n]))
                span = _after(asked[n], k, slots[n][place])
                rounds.setdefault(turn, []).append((found[n][k], span))
        for turn in rounds.values():
            made = self._run([span for _, span in turn])
            for (tokens, _), more in zip(turn, made, strict=True):
                tokens += more
        self._stem, self._stem_slot = asked[group[-1]].context, slots[group[-1]][0]
        return found

    def _begin(self, asked: ChoiceRequest, slot: int) -> TokenSpan:
        """What is still to compute of a context; its last token is asked what may come first."""
        start = common_start(self._stem, asked.context)
        if slot != self._stem_slot:
            start = start if start >= WORTH_COPYING else 0
            if start:
                self.engine.runner.copy(self._stem_slot, slot, start)
        ids = asked.context[start:]
        firsts = [(len(ids) - 1, tokens[0]) for tokens in asked.continuations]
        return TokenSpan(slot, start, ids, firsts)

    def _run(self, spans: list[TokenSpan]) -> list[list[Logprob]]:
        """What the spans ask, as many at once as the runner takes."""
        runner, found = self.engine.runner, []
        self.computed += sum(len(span.ids) for span in spans)
        for batch in _batches(spans):
            if len(batch) > 1 or not runner.keeps_prefixes:
                found += runner.logprobs(batch)
                continue
            pieces = [runner.logprobs([piece])[0] for piece in _pieces(batch[0])]
            found.append([each for piece in pieces for each in piece])
        return found


def _check(asked: ChoiceRequest, engine: Engine) -> None:
    runner, longest = engine.runner, max(map(len, asked.continuations), default=1)
    if not asked.context or not all(asked.continuations):
        raise RequestError("A context or a continuation has no tokens. Give at least one of each.")
    needed = len(asked.context) + longest - 1
    if needed > runner.capacity:
        raise RequestError(
            f"A context of {len(asked.context)} tokens and a continuation of {longest}, the model "
            f"runs with {runner.capacity}. Shorten the context by {needed - runner.capacity} or "
            "more tokens."
        )
    for token in (t for ids in (asked.context, *asked.continuations) for t in ids):
        if not 0 <= token < runner.vocabulary:
            raise RequestError(
                f"There is the token {token}, but the model knows 0 to {runner.vocabulary - 1}. "
                "Give ids of the model's own tokenizer."
            )


def _width(asked: ChoiceRequest) -> int:
    """Slots that a context is worth: the tokens after the first go on from a copy of it."""
    return max(1, sum(len(tokens) > 1 for tokens in asked.continuations))


def _after(asked: ChoiceRequest, index: int, slot: int) -> TokenSpan:
    """The tokens of a continuation, each asked about the next."""
    tokens = asked.continuations[index]
    return TokenSpan(slot, len(asked.context), tokens[:-1], list(enumerate(tokens[1:])))


def _batches(spans: list[TokenSpan]) -> list[list[TokenSpan]]:
    """Spans in their order, as many together as a prompt's piece has tokens."""
    batches: list[list[TokenSpan]] = []
    rows = PIECE
    for span in spans:
        rows += len(span.ids)
        if rows > PIECE:
            batches.append([])
            rows = len(span.ids)
        batches[-1].append(span)
    return batches


def _pieces(span: TokenSpan) -> list[TokenSpan]:
    """A long span in pieces, as prompts come."""
    return [
        TokenSpan(
            span.slot,
            span.start + begin,
            span.ids[begin : begin + PIECE],
            [(i - begin, token) for i, token in span.asked if begin <= i < begin + PIECE],
        )
        for begin in range(0, len(span.ids), PIECE)
    ]


def _total(tokens: list[Logprob]) -> ContinuationScore:
    return ContinuationScore(
        sum(value for value, _ in tokens), all(likeliest for _, likeliest in tokens)
    )
