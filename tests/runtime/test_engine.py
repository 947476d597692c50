"""Continuous batching: sequences come, go and share steps, and none notices the others."""

import random
import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.engines import GREEDY, agree, never_dense, opened, prompt
from helpers.rtn_checkpoints import rounded_toy
from helpers.toy_models import byte_tokenizer
from salient.core.errors import ModelError, RequestError
from salient.runtime import engine as engines
from salient.runtime.engine import MIN_COPY, Engine
from salient.runtime.runner import Runner
from salient.runtime.sampling_params import SamplingParams
from salient.runtime.sequence import TokenSequence, raise_failed

NOTHING = -1
TOKENIZER = byte_tokenizer()
LETTERS = range(40, 250)  # ids of tokens with text of their own


class Remembering(Runner):
    """Logits that depend on all tokens of a slot in their order, and on nothing else.

    It insists that what is read was written.
    """

    vocabulary = 259
    how = "a toy"
    reuses_prefixes = True

    def __init__(self, slots: int = 2, capacity: int = 64):
        self.slots, self.capacity = slots, capacity
        self.cells = [[NOTHING] * capacity for _ in range(slots)]
        self.computed = 0  # tokens

    def logits(self, slot: int, ids: list[int], start: int, last: int) -> Tensor:
        assert last == 1
        end = start + len(ids)
        assert ids
        assert end <= self.capacity
        self.cells[slot][start:] = [*ids, *[NOTHING] * (self.capacity - end)]
        self.computed += len(ids)
        return self._logits(slot, end)[None]

    def decode(self, slots: list[int], tokens: list[int], positions: list[int]) -> Tensor:
        assert len(set(slots)) == len(slots) <= self.slots
        rows = zip(slots, tokens, positions, strict=True)
        return torch.stack([self.prefill(slot, [token], at) for slot, token, at in rows])

    def copy(self, source: int, target: int, count: int) -> None:
        assert source != target
        self.cells[target][:count] = self.cells[source][:count]

    def _logits(self, slot: int, end: int) -> Tensor:
        observed = self.cells[slot][:end]
        assert NOTHING not in observed
        chosen = random.Random(str(observed))
        logits = torch.full((self.vocabulary,), -20.0)
        for rank in range(8):
            logits[chosen.choice(LETTERS)] = float(-rank) / 4
        return logits


def toy_engine(slots: int = 2, ends: frozenset[int] = frozenset(), capacity: int = 64) -> Engine:
    return Engine(Remembering(slots, capacity), TOKENIZER, ends)


def alone(
    ids: list[int], sampling: SamplingParams, ends: frozenset[int] = frozenset()
) -> TokenSequence:
    """The answer of an engine that runs nothing else."""
    return toy_engine(1, ends).generate([ids], sampling)[0]


def same(actual: TokenSequence, wanted: TokenSequence) -> bool:
    return (actual.tokens, actual.text, actual.finished) == (
        wanted.tokens,
        wanted.text,
        wanted.finished,
    )


def finish(engine: Engine) -> None:
    while engine.busy:
        engine.step()


# Together as alone


def test_more_requests_than_slots_are_all_answered_as_alone():
    engine = toy_engine(2)
    request = [(prompt(3 + 5 * i, seed=i), replace(GREEDY, max_new_tokens=2 + i)) for i in range(7)]
    answers = [engine.submit(*what) for what in request]
    finish(engine)
    for answer, what in zip(answers, request, strict=True):
        assert answer.finished == "length"
        assert len(answer.tokens) == what[1].max_new_tokens
        assert same(answer, alone(*what))


def test_a_slot_has_one_sequence_at_a_time():
    engine = toy_engine(3, capacity=128)
    for i in range(8):
        engine.submit(prompt(4 + i, seed=i), replace(GREEDY, max_new_tokens=3))
    while engine.busy:
        engine.step()
        taken = [answer.slot for answer in engine._running]
        assert len(set(taken)) == len(taken) <= 3
        assert all(0 <= slot < 3 for slot in taken)


@pytest.mark.parametrize("seed", range(12))
def test_each_answer_is_as_alone_in_any_schedule(seed, monkeypatch):
    """Random prompts that share beginnings, random limits, seeds and cancellations."""
    chance = random.Random(seed)
    monkeypatch.setattr(engines, "CHUNK", chance.choice((3, 8, 512)))
    engine = toy_engine(chance.choice((1, 2, 4)))
    stems = [prompt(30, seed=i) for i in range(2)]
    request = []
    for _ in range(60):
        if chance.random() < 0.3:
            stem = chance.choice(stems)
            ids = stem[: chance.randint(1, 30)] + prompt(chance.randint(0, 5), chance.randint(0, 9))
            hot = replace(GREEDY, temperature=1.0, seed=chance.randint(0, 99), logprobs=None)
            sampling = chance.choice((GREEDY, hot))
            sampling = replace(sampling, max_new_tokens=chance.randint(1, 12))
            request.append((engine.submit(ids, sampling), ids, sampling))
        elif request and chance.random() < 0.1:
            engine.cancel(chance.choice(request)[0])
        engine.step()
    finish(engine)
    kinds = set()
    for answer, ids, sampling in request:
        wanted = alone(ids, sampling)
        kinds.add(answer.finished)
        if answer.finished == "cancelled":
            assert answer.tokens == wanted.tokens[: len(answer.tokens)]
        else:
            assert same(answer, wanted)
    assert "length" in kinds


def test_a_real_models_answers_are_the_same_together_as_alone(folder):
    engine = opened(folder, slots=3).engine
    prompts = [prompt(5 + 6 * i, seed=i) for i in range(5)]
    together = engine.generate(prompts, GREEDY)
    for answer, ids in zip(together, prompts, strict=True):
        assert agree(answer, opened(folder).engine.generate([ids], GREEDY)[0])


def test_seeds_do_not_depend_on_neighbours(folder):
    engine = opened(folder, slots=4).engine
    hot = SamplingParams(max_new_tokens=12, temperature=1.0, ignore_eos=True)
    ids = prompt(9)
    seeded = [engine.submit(ids, replace(hot, seed=seed)) for seed in (1, 2, 1, None)]
    engine.submit(prompt(4), hot)
    finish(engine)
    fresh = opened(folder).engine.generate([ids], replace(hot, seed=1))[0]
    assert seeded[0].tokens == seeded[2].tokens == fresh.tokens
    assert seeded[1].tokens != seeded[0].tokens
    assert seeded[3].tokens != seeded[0].tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rounded_toy(tmp_path_factory.mktemp("engine"))


@pytest.fixture(autouse=True)
def no_dense_products(monkeypatch):
    never_dense(monkeypatch)


# Prompts


@pytest.fixture
def small_steps(monkeypatch):
    """Steps that compute one piece of 4 prompt tokens."""
    monkeypatch.setattr(engines, "CHUNK", 4)
    monkeypatch.setattr(engines, "STEP_SECONDS", 0.0)


def test_a_step_computes_many_short_prompts():
    engine = toy_engine(8)
    answers = [engine.submit(prompt(3, seed=n), GREEDY) for n in range(8)]
    engine.step()
    assert all(len(answer.tokens) == 1 for answer in answers)


def test_a_short_prompt_does_not_wait_for_a_long_one(small_steps):
    engine = toy_engine(2)
    long = engine.submit(prompt(40), GREEDY)
    engine.step()
    short = engine.submit(prompt(3, seed=1), GREEDY)
    engine.step()
    engine.step()
    assert short.tokens == alone(prompt(3, seed=1), GREEDY).tokens[: len(short.tokens)] != []
    assert not long.tokens


def test_a_long_prompt_is_computed_while_short_ones_come(small_steps):
    engine = toy_engine(2)
    long = engine.submit(prompt(40), replace(GREEDY, max_new_tokens=1))
    for n in range(25):
        engine.submit(prompt(3, seed=n), replace(GREEDY, max_new_tokens=1))
        engine.step()
    assert long.finished
    assert long.tokens == alone(prompt(40), GREEDY).tokens[:1]


def test_small_requests_get_their_own_steps_and_large_ones_half_of_the_time(monkeypatch):
    engine = toy_engine(3, capacity=128)
    seconds = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    decode = engine.runner.decode

    def slow(slots, tokens, positions):
        seconds[0] += 4.0 if len(slots) == 3 else 0.5
        return decode(slots, tokens, positions)

    monkeypatch.setattr(engine.runner, "decode", slow)
    long = [engine.submit(prompt(3, seed=n), replace(GREEDY, max_new_tokens=80)) for n in (1, 2)]
    short = engine.submit(prompt(3, seed=3), replace(GREEDY, max_new_tokens=20))
    engine.step()  # the prompts
    engine.step()  # all
    for _ in range(8):
        engine.step()  # the short answer, for as long as the step of all took
    assert [len(answer.tokens) for answer in (*long, short)] == [2, 2, 10]
    engine.step()
    assert [len(answer.tokens) for answer in (*long, short)] == [3, 3, 11]


def test_running_answers_continue_during_a_long_prompt(small_steps):
    engine = toy_engine(2)
    first = engine.submit(prompt(3), replace(GREEDY, max_new_tokens=30))
    engine.step()
    second = engine.submit(prompt(20, seed=1), GREEDY)
    for _ in range(5):
        before = len(first.tokens)
        assert not second.tokens
        engine.step()
        assert len(first.tokens) == before + 1
    assert len(second.tokens) == 1
    assert len(second.times) == 1
    assert 0 < second.seconds_to_first < 60


def test_a_prompt_that_cannot_come_in_pieces_comes_in_one(small_steps):
    engine = toy_engine()
    engine.runner.chunked_prefill = False
    answer = engine.submit(prompt(20), GREEDY)
    engine.step()
    assert len(answer.tokens) == 1
    assert answer.tokens == alone(prompt(20), GREEDY).tokens[:1]


def test_the_same_prompt_again_computes_its_last_token_only():
    engine = toy_engine()
    first = engine.generate([prompt(20)], GREEDY)[0]
    before = engine.runner.computed
    again = engine.generate([prompt(20)], replace(GREEDY, max_new_tokens=1))[0]
    assert (first.reused, again.reused) == (0, 19)
    assert engine.runner.computed == before + 1
    assert again.tokens == first.tokens[:1]


def test_the_next_turn_reuses_the_earlier_tokens():
    engine = toy_engine()
    first = engine.generate([prompt(10)], GREEDY)[0]
    longer = [*prompt(10), *first.tokens, *prompt(5, seed=1)]
    answer = engine.generate([longer], GREEDY)[0]
    assert answer.reused == 10 + len(first.tokens) - 1  # the last token was never read
    assert same(answer, alone(longer, GREEDY))


@pytest.mark.parametrize(("shared", "copied"), [(MIN_COPY, True), (MIN_COPY - 1, False)])
def test_a_beginning_in_a_busy_slot_is_copied_where_it_is_worth_it(shared, copied):
    engine = toy_engine(2)
    stem = prompt(30)
    first = engine.submit(stem, GREEDY)
    engine.step()
    other = [*stem[:shared], stem[shared] + 1, *stem[:4]]
    second = engine.submit(other, GREEDY)
    finish(engine)
    assert second.slot != first.slot
    assert second.reused == (shared if copied else 0)
    assert same(first, alone(stem, GREEDY))
    assert same(second, alone(other, GREEDY))


def test_copied_keys_and_values_give_a_real_models_own_answer(folder):
    engine = opened(folder).engine
    stem = prompt(30)
    engine.submit(stem, GREEDY)
    engine.step()
    other = [*stem[:24], stem[24] + 1]
    answer = engine.submit(other, GREEDY)
    finish(engine)
    assert answer.reused == 24
    assert agree(answer, opened(folder).engine.generate([other], GREEDY)[0])


def test_the_least_recently_used_slot_is_reused_first():
    engine = toy_engine(3, capacity=128)
    slots = []
    for seed in (1, 2, 3, 4):
        ids = [LETTERS[seed], *prompt(6, seed=seed)]
        slots.append(engine.generate([ids], replace(GREEDY, max_new_tokens=1))[0].slot)
    assert sorted(slots[:3]) == [0, 1, 2]
    assert slots[3] == slots[0]


# Where answers end


def test_an_end_token_ends_an_answer_and_is_no_part_of_it():
    whole = alone(prompt(5), GREEDY)
    ends = frozenset({whole.tokens[3]})
    count = whole.tokens.index(whole.tokens[3])
    actual = alone(prompt(5), replace(GREEDY, ignore_eos=False), ends)
    assert (actual.finished, actual.tokens) == ("stop", whole.tokens[:count])
    assert len(actual.picked) == len(actual.times) == count + 1
    on = alone(prompt(5), GREEDY, ends)
    assert (on.finished, on.tokens) == ("length", whole.tokens)


def test_a_stop_token_ends_an_answer_even_where_ends_are_ignored():
    whole = alone(prompt(5), GREEDY)
    actual = alone(prompt(5), replace(GREEDY, stop_tokens=(whole.tokens[4],)))
    assert actual.finished == "stop"
    assert actual.tokens == whole.tokens[: whole.tokens.index(whole.tokens[4])]


def test_a_stop_string_ends_an_answer_before_it():
    whole = alone(prompt(5), replace(GREEDY, max_new_tokens=30))
    stop = whole.text[6:9]
    actual = alone(prompt(5), replace(GREEDY, max_new_tokens=30, stop=(stop,)))
    assert actual.finished == "stop"
    assert actual.text == whole.text[: whole.text.index(stop)]
    assert len(actual.tokens) < len(whole.tokens)


def test_an_unmatched_stop_string_withholds_nothing():
    whole = alone(prompt(5), GREEDY)
    actual = alone(prompt(5), replace(GREEDY, stop=(whole.text[-3:] + "!",)))
    assert (actual.finished, actual.text) == ("length", whole.text)


def test_an_answer_ends_with_the_context():
    engine = toy_engine(capacity=24)
    answer = engine.generate([prompt(20)], GREEDY)[0]
    assert (answer.finished, len(answer.tokens)) == ("length", 4)
    assert same(engine.generate([prompt(23)], GREEDY)[0], alone_of(prompt(23), 1))


def alone_of(ids: list[int], tokens: int) -> TokenSequence:
    return alone(ids, replace(GREEDY, max_new_tokens=tokens))


def test_a_context_shorter_than_the_proofs_text_runs_to_its_end(folder):
    (short,), (long,) = (
        opened(folder, context_length=context).engine.generate([prompt(3)], GREEDY)
        for context in (5, 64)
    )
    assert (short.finished, len(short.tokens)) == ("length", 2)
    assert short.tokens == long.tokens[:2]


def test_a_real_models_context_is_used_to_its_last_position(folder):
    opened_ = opened(folder, context_length=24)
    answer = opened_.engine.generate([prompt(20)], GREEDY)[0]
    assert (answer.finished, len(answer.tokens)) == ("length", 4)
    wide = opened(folder, context_length=64).engine.generate([prompt(20)], GREEDY)[0]
    assert answer.tokens == wide.tokens[:4]


# Coming and going


def test_a_cancelled_answer_frees_its_slot_at_once():
    engine = toy_engine(1)
    first = engine.submit(prompt(5), GREEDY)
    waiting = engine.submit(prompt(6), GREEDY)
    engine.step()
    engine.step()
    engine.cancel(first)
    assert (first.finished, len(first.tokens)) == ("cancelled", 2)
    engine.step()
    assert len(waiting.tokens) == 1
    finish(engine)
    assert same(waiting, alone(prompt(6), GREEDY))
    engine.cancel(waiting)
    assert waiting.finished == "length"


def test_cancelling_what_waits_or_fills_leaves_the_others(small_steps):
    engine = toy_engine(2)
    filling = engine.submit(prompt(20), GREEDY)
    waiting = engine.submit(prompt(8, seed=1), GREEDY)
    last = engine.submit(prompt(22), GREEDY)  # begins with what the first left half done
    engine.step()
    engine.cancel(filling)
    engine.cancel(waiting)
    finish(engine)
    assert not engine.busy
    assert (filling.finished, waiting.finished) == ("cancelled", "cancelled")
    assert not filling.tokens
    assert last.reused == 4
    assert same(last, alone(prompt(22), GREEDY))


def test_leaving_a_stream_early_cancels_it():
    engine = toy_engine()
    stream = engine.stream(prompt(5), GREEDY)
    pieces = [next(stream) for _ in range(3)]
    stream.close()
    assert not engine.busy
    assert pieces[0].sequence.finished == "cancelled"


def test_the_pieces_of_a_stream_are_the_answer():
    engine = toy_engine()
    pieces = list(engine.stream(prompt(5), replace(GREEDY, max_new_tokens=20)))
    wanted = alone(prompt(5), replace(GREEDY, max_new_tokens=20))
    assert "".join(piece.text for piece in pieces) == wanted.text
    assert [piece.picked.token for piece in pieces if piece.picked] == wanted.tokens
    assert [piece.finished for piece in pieces] == [*[""] * 19, "length"]


def test_an_engine_with_nothing_to_do_is_not_busy():
    engine = toy_engine()
    assert not engine.busy
    assert engine.step() == []
    assert engine.context == 64


# What cannot be run


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], r"The prompt has no tokens\. Give at least one\."),
        (list(range(3, 67)), r"A prompt of 64 tokens, the context is 64: no room for an answer\."),
        ([5, 259], r"There is the token 259, but the model knows 0 to 258\."),
        ([5, -1], r"There is the token -1, but the model knows 0 to 258\. Give ids of the"),
    ],
)
def test_a_prompt_that_cannot_be_run_says_why_and_disturbs_nothing(ids, message):
    engine = toy_engine()
    other = engine.submit(prompt(5), GREEDY)
    with pytest.raises(RequestError, match=message):
        engine.submit(ids, GREEDY)
    finish(engine)
    assert same(other, alone(prompt(5), GREEDY))


def test_an_answer_with_non_finite_logits_fails_alone(folder):
    engine = opened(folder).engine
    right = engine.generate([prompt(5), prompt(6, 1)], GREEDY)[1].tokens
    decode = engine.runner.decode

    def broken(slots: list[int], tokens: list[int], positions: list[int]) -> torch.Tensor:
        logits = decode(slots, tokens, positions).clone()
        logits[0] = float("nan")
        return logits

    bad, good = engine.submit(prompt(5), GREEDY), engine.submit(prompt(6, 1), GREEDY)
    for _ in range(2):
        engine.step()  # both run now
    engine.runner.decode = broken
    pieces = engine.step()
    engine.runner.decode = decode
    while engine.busy:
        engine.step()
    assert (pieces[0].finished, bad.finished) == ("failed", "failed")
    assert good.tokens == right
    with pytest.raises(ModelError, match="logits"):
        raise_failed([good, bad])


def test_bad_sampling_is_refused_before_anything_runs():
    engine = toy_engine()
    with pytest.raises(RequestError, match=r"temperature=-1 cannot be used\. Give a number from"):
        engine.submit(prompt(5), SamplingParams(temperature=-1))
    assert not engine.busy


@pytest.mark.parametrize("fuse", [True, False])
def test_a_real_model_knows_its_vocabulary(fuse, folder):
    engine = opened(folder, fuse=fuse).engine
    with pytest.raises(RequestError, match=r"the token 320, but the model knows 0 to 319"):
        engine.submit([320], GREEDY)
    assert engine.generate([[319]], GREEDY)[0].finished == "length"
