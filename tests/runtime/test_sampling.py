"""Sampling: what each filter keeps, what the draws follow, what the penalties take off."""

import math

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from helpers.tolerance import nats, worst
from salient.core.errors import ModelError
from salient.runtime.sampler import Sampler, greedy_batch, nucleus
from salient.runtime.sampling_params import SampledToken, SamplingParams

VOCAB = 40


def random_logits(seed: int, vocab: int = VOCAB, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * spread


def drawn(logits: torch.Tensor, draws: int = 400, **fields) -> set[int]:
    """The tokens that came in `draws` draws, so hot that whatever is kept comes."""
    return set(sequence(SamplingParams(seed=1, **fields), [logits] * draws))


def sequence(sampling: SamplingParams, steps: list[torch.Tensor], prompt=()) -> list[int]:
    sampler = Sampler(sampling, prompt)
    return [sampler.pick(logits).token for logits in steps]


def levels(*shares: float) -> torch.Tensor:
    """Logits whose softmax is `shares`."""
    return torch.tensor(shares).log()


# Greedy


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_the_largest_logit(seed):
    logits = random_logits(seed)
    assert Sampler(SamplingParams()).pick(logits) == SampledToken(int(logits.argmax()))


def test_greedy_takes_the_first_of_equals():
    logits = torch.zeros(5000)
    logits[[700, 701, 4000]] = 3.0
    assert Sampler(SamplingParams()).pick(logits).token == 700
    assert greedy_batch(logits.repeat(3, 1)) == [700] * 3


def test_a_batch_of_greedy_rows_is_each_row_alone():
    rows = torch.stack([random_logits(seed) for seed in range(6)])
    assert greedy_batch(rows) == [Sampler(SamplingParams()).pick(row).token for row in rows]


@pytest.mark.parametrize("temperature", [1e-6, 1e-300])
def test_a_temperature_next_to_nothing_is_greedy(temperature):
    logits = levels(0.3, 0.4, 0.3)
    assert drawn(logits, temperature=temperature, draws=50) == {1}


def test_only_plain_sampling_is_batched():
    assert SamplingParams().plain
    assert SamplingParams(top_p=0.5, seed=3, stop=("a",)).plain
    for fields in ({"temperature": 1}, {"logprobs": 0}, {"presence_penalty": 0.1}):
        assert not SamplingParams(**fields).plain


def test_sampling_does_not_modify_the_logits():
    logits = random_logits(0)
    before = logits.clone()
    fields = {"top_k": 9, "top_p": 0.8, "min_p": 0.01, "repetition_penalty": 1.3, "logprobs": 3}
    for temperature in (0, 0.7):
        sequence(
            SamplingParams(temperature=temperature, presence_penalty=1, **fields), [logits] * 3, [1]
        )
    assert torch.equal(logits, before)


# What is kept


def test_top_k_keeps_the_k_likeliest():
    for seed, k in ((0, 1), (1, 3), (2, 7), (3, VOCAB), (4, 10 * VOCAB)):
        logits = random_logits(seed)
        remaining = drawn(logits, temperature=100, top_k=k, draws=1000)
        assert remaining == set(logits.argsort(descending=True)[:k].tolist())


def test_top_k_keeps_no_more_than_k_of_equals():
    assert len(drawn(torch.zeros(VOCAB), temperature=1, top_k=3)) == 3


@pytest.mark.parametrize(
    ("top_p", "remaining"),
    [(0.01, {2}), (0.39, {2}), (0.41, {2, 0}), (0.72, {2, 0, 3}), (0.99, {2, 0, 3, 1})],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, remaining):
    assert drawn(levels(0.3, 0.1, 0.4, 0.2), temperature=1, top_p=top_p) == remaining


@pytest.mark.parametrize("vocab", [50, 3000])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999, 1.0])
def test_a_nucleus_reaches_its_share_and_would_not_without_its_smallest(vocab, top_p):
    for seed in range(5):
        weights = random_logits(seed, vocab, spread=0.1 + seed).exp()
        remaining, places = nucleus(weights, top_p)
        wanted = weights.double().sum() * top_p
        assert torch.equal(weights[places], remaining)
        left = weights.clone()
        left[places] = 0
        assert remaining.min() >= left.max()
        assert remaining.double().sum() >= wanted * (1 - worst(vocab, torch.float64))
        assert remaining[:-1].double().sum() < wanted


def test_min_p_is_relative_to_the_likeliest_token():
    logits = levels(0.5, 0.24, 0.13, 0.06, 0.07)
    assert drawn(logits, temperature=1, min_p=0.25) == {0, 1, 2}
    assert drawn(logits, temperature=1, min_p=0.5) == {0}
    assert drawn(logits, temperature=1, min_p=1.0) == {0}
    # after the temperature: the square root of 0.24 / 0.5 is 0.69
    assert drawn(logits, temperature=2, min_p=0.6) == {0, 1}


def test_top_p_is_a_share_of_what_the_other_filters_leave():
    logits = levels(0.4, 0.3, 0.2, 0.1)
    assert drawn(logits, temperature=1, top_p=0.6) == {0, 1}
    assert drawn(logits, temperature=1, top_p=0.55, top_k=2) == {0}
    assert drawn(logits, temperature=1, top_p=0.55, min_p=0.7) == {0}


def test_a_masked_token_never_comes():
    logits = levels(0.5, 0.0, 0.5)
    for fields in ({}, {"top_k": 3}, {"top_p": 0.99}, {"min_p": 0.1}):
        assert drawn(logits, temperature=100, **fields) == {0, 2}


@pytest.mark.parametrize(("draw", "token"), [(0.0, 1), (1.0, 2)])
def test_a_masked_token_does_not_come_at_the_ends_of_the_draw(monkeypatch, draw, token):
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(draw, dtype=torch.float64))
    sampler = Sampler(SamplingParams(temperature=1))
    assert sampler.pick(levels(0.0, 0.5, 0.5, 0.0)).token == token


# What the draws follow


@pytest.mark.parametrize(
    ("fields", "filtered"),
    [
        ({}, lambda p: p),
        ({"top_k": 5}, lambda p: p * (p >= p.sort(descending=True).values[4])),
        ({"min_p": 0.2}, lambda p: p * (p >= 0.2 * p.max())),
    ],
)
def test_frequencies_follow_the_softmax(fields, filtered):
    logits, draws = random_logits(3, vocab=12), 6_000
    expected = filtered((logits / 0.8).softmax(0))
    expected /= expected.sum()
    tokens = sequence(SamplingParams(temperature=0.8, seed=11, **fields), [logits] * draws)
    observed = torch.bincount(torch.tensor(tokens), minlength=12) / draws
    bound = 5 * (expected * (1 - expected) / draws).sqrt()  # five standard deviations
    assert ((observed - expected).abs() <= bound).all()


# Seeds


def test_the_same_seed_gives_the_same_tokens_and_another_one_others():
    steps = [random_logits(seed) for seed in range(60)]
    first, again, other = (
        sequence(SamplingParams(temperature=1, seed=seed), steps) for seed in (7, 7, -8)
    )
    assert first == again
    assert first != other


def test_a_sequence_does_not_depend_on_other_sequences():
    steps = [random_logits(seed) for seed in range(40)]
    alone = sequence(SamplingParams(temperature=1, seed=7), steps)
    one, other = (Sampler(SamplingParams(temperature=1, seed=seed)) for seed in (7, 8))
    others = []
    for logits in steps:
        torch.rand(3)
        other.pick(logits)
        others.append(one.pick(logits).token)
    assert others == alone


def test_without_a_seed_each_sequence_is_another():
    steps = [torch.zeros(1000)] * 20
    torch.manual_seed(0)
    first = sequence(SamplingParams(temperature=1), steps)
    torch.manual_seed(0)
    assert sequence(SamplingParams(temperature=1), steps) != first


# Penalties


@pytest.mark.parametrize("penalty", [0.5, 1.1, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_repetition_penalty_is_that_of_transformers(seed, penalty):
    logits, prompt = random_logits(seed), [3, 5, 5, 11, 30]
    sampler = Sampler(SamplingParams(repetition_penalty=penalty, temperature=0, logprobs=0), prompt)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)
    tokens = list(prompt)
    for _ in range(10):
        scores = theirs(torch.tensor([tokens]), logits[None].clone())[0]
        assert torch.equal(sampler._penalize(logits), scores)
        tokens.append(sampler.pick(logits).token)
        assert tokens[-1] == int(scores.argmax())


def test_presence_and_frequency_count_generated_tokens_only():
    logits = torch.tensor([3.0, 2.4, 1.0])
    # Token 0 falls by 0.5 each time: 3.0, 2.5, 2.0; token 1 overtakes, then falls too
    assert sequence(SamplingParams(frequency_penalty=0.5), [logits] * 5, [0] * 9) == [0, 0, 1, 0, 1]
    # Once only: 3.0 - 0.5 stays ahead for ever
    assert sequence(SamplingParams(presence_penalty=0.5), [logits] * 5, [0] * 9) == [0] * 5
    assert sequence(SamplingParams(presence_penalty=0.7), [logits] * 4, [0] * 9) == [0, 1, 0, 0]
    # A negative one repeats what came
    liked = [logits, logits + torch.tensor([0.0, 1.0, 0.0])]
    assert sequence(SamplingParams(presence_penalty=-0.5), liked) == [0, 0]


def test_penalties_are_taken_one_after_the_other():
    sampling = SamplingParams(repetition_penalty=2.0, frequency_penalty=0.25, presence_penalty=0.5)
    sampler = Sampler(sampling, [1, 2])
    logits = torch.tensor([8.0, 4.0, -4.0, 1.0])
    assert sampler.pick(logits).token == 0
    assert sampler.pick(logits).token == 0  # 8 / 2 - 0.25 - 0.5 = 3.25, and token 1 has 4 / 2
    expected = torch.tensor([8 / 2 - 2 * 0.25 - 0.5, 4 / 2, -4 * 2, 1])
    assert torch.equal(sampler._penalize(logits), expected)


def test_a_prompt_may_contain_ids_beyond_the_logits():
    sampler = Sampler(SamplingParams(repetition_penalty=2.0), [0, VOCAB, 10 * VOCAB])
    assert sampler.pick(levels(0.9, 0.05, 0.05).exp()).token == 0


# Log probabilities


@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0.3, "top_k": 2, "repetition_penalty": 2.0}]
)
def test_log_probabilities_are_those_of_the_model_itself(fields):
    logits = random_logits(5)
    sampler = Sampler(SamplingParams(logprobs=4, seed=0, **fields), [int(logits.argmax())])
    expected = logits.log_softmax(0)
    for _ in range(3):
        picked = sampler.pick(logits)
        assert abs(picked.logprob - float(expected[picked.token])) <= 2 * nats(logits)
        assert [token for token, _ in picked.top] == logits.argsort(descending=True)[:4].tolist()
        for token, logprob in picked.top:
            assert abs(logprob - float(expected[token])) <= 2 * nats(logits)


def test_likeliest_tokens_are_reported_only_on_request():
    logits = random_logits(5)
    assert Sampler(SamplingParams(logprobs=0)).pick(logits).top == ()
    logprob = Sampler(SamplingParams(logprobs=0)).pick(logits).logprob
    assert abs(logprob - float(logits.log_softmax(0).max())) <= 2 * nats(logits)
    assert len(Sampler(SamplingParams(logprobs=20)).pick(logits[:3]).top) == 3


# What cannot be


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 1}, {"temperature": 1, "top_p": 0.5, "top_k": 4}]
)
def test_non_finite_logits_are_refused(broken, fields):
    logits = random_logits(0)
    logits[17] = broken
    with pytest.raises(ModelError, match=r"not finite numbers.*run it in bfloat16 or float32"):
        Sampler(SamplingParams(**fields)).pick(logits)
    assert greedy_batch(torch.stack([logits, random_logits(1)]))[0] is None
    assert greedy_batch(torch.stack([random_logits(1), logits]))[0] is not None


def test_logits_that_are_all_masked_are_refused():
    for fields in ({}, {"temperature": 1}):
        with pytest.raises(ModelError, match="not finite"):
            Sampler(SamplingParams(**fields)).pick(torch.full((9,), -math.inf))
