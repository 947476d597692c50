"""Likelihood measures, against their formulas written out directly."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from helpers.tolerance import worst
from salient.core.metrics import ROWS, LogitsComparison, compare_logits, intervals


def logits_of(tokens: int = 50, vocab: int = 40, seed: int = 0) -> Tensor:
    return torch.randn(tokens, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def ids_of(tokens: int = 50, vocab: int = 40, seed: int = 9) -> Tensor:
    return torch.randint(vocab, (tokens,), generator=torch.Generator().manual_seed(seed))


# Of log probabilities of logits_of: a figure is a mean of them, its exponential, or their sum.
ROUNDING = 2 * (worst(40) + worst(4) * 24)  # 40 logits within 4 standard deviations of 3


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING)


def test_a_model_is_at_no_distance_from_itself():
    result = compare_logits(logits_of(), logits_of(), ids_of())
    assert result.kl == 0
    assert result.top1 == 1
    assert result.perplexity_reference == result.perplexity_quantized


def test_a_constant_added_to_the_logits_changes_nothing():
    result = compare_logits(logits_of(), logits_of() + 7, ids_of())
    assert abs(result.kl) < ROUNDING
    assert close(result.perplexity_reference, result.perplexity_quantized)


def test_kl_is_the_mean_over_tokens_of_p_log_p_over_q():
    reference, quantized = logits_of(seed=1), logits_of(seed=2)
    p, q = reference.double().softmax(-1), quantized.double().softmax(-1)
    direct = sum(
        sum(float(p[t, v] * (p[t, v] / q[t, v]).log()) for v in range(40)) for t in range(50)
    )
    assert close(compare_logits(reference, quantized, ids_of()).kl, direct / 50)


def test_kl_is_positive_and_not_symmetric():
    reference, quantized = logits_of(seed=1), logits_of(seed=2) * 0.5
    there = compare_logits(reference, quantized, ids_of()).kl
    back = compare_logits(quantized, reference, ids_of()).kl
    assert there > 0
    assert back > 0
    assert abs(there - back) > 0.1


def test_top1_is_the_share_of_tokens_with_the_same_largest_logit():
    reference = torch.eye(4)[[0, 1, 2, 3]]
    quantized = torch.eye(4)[[0, 1, 2, 0]] * 0.1
    assert compare_logits(reference, quantized, torch.zeros(4, dtype=torch.int64)).top1 == 0.75


def test_perplexity_is_exp_of_the_cross_entropy_of_the_next_token():
    reference, quantized, ids = logits_of(seed=1), logits_of(seed=2), ids_of()
    result = compare_logits(reference, quantized, ids)
    assert result.tokens == 50
    assert result.predicted == 49  # the last token's next is not known
    assert close(result.perplexity_reference, cross_entropy(reference[:-1], ids[1:]).exp().item())
    assert close(result.perplexity_quantized, cross_entropy(quantized[:-1], ids[1:]).exp().item())


def test_a_uniform_model_has_the_vocabulary_as_perplexity():
    result = compare_logits(torch.zeros(50, 40), logits_of(), ids_of())
    assert close(result.perplexity_reference, 40)


@pytest.mark.parametrize("tokens", [1, 2, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 5])
def test_long_texts_are_compared_as_short_ones(tokens):
    reference, quantized = logits_of(tokens, seed=1), logits_of(tokens, seed=2)
    ids = ids_of(tokens)
    result = compare_logits(reference, quantized, ids)
    log_p, log_q = reference.log_softmax(-1), quantized.log_softmax(-1)
    assert close(result.kl, float((log_p.exp() * (log_p - log_q)).sum(-1).mean()))
    assert result.predicted == tokens - 1
    if tokens > 1:
        nll = cross_entropy(quantized[:-1], ids[1:], reduction="sum").item()
        assert close(result.nll_quantized, nll)


def test_adding_texts_is_one_pass_over_all_of_them():
    texts = [(logits_of(n, seed=n), logits_of(n, seed=n + 1), ids_of(n)) for n in (50, 7, 150)]
    total = LogitsComparison()
    for text in texts:
        total.add(compare_logits(*text))
    assert total.tokens == 207
    assert total.predicted == 204
    kl = sum(compare_logits(*text).kl * len(text[2]) for text in texts) / 207
    assert close(total.kl, kl)
    nll = sum(cross_entropy(r[:-1], i[1:], reduction="sum").item() for r, _, i in texts)
    assert close(total.perplexity_reference, math.exp(nll / 204))


def test_adding_leaves_what_was_added_as_it_was():
    one, other = (compare_logits(logits_of(seed=s), logits_of(seed=5), ids_of()) for s in (1, 2))
    before = dict(vars(other))
    one.add(other)
    assert vars(other) == before


def test_halves_of_16_bits_are_compared_in_float32():
    reference, quantized = logits_of(seed=1).bfloat16(), logits_of(seed=2).bfloat16()
    half = compare_logits(reference, quantized, ids_of())
    assert half == compare_logits(reference.float(), quantized.float(), ids_of())


def test_comparing_modifies_nothing():
    tensors = (logits_of(seed=1), logits_of(seed=2), ids_of())
    before = [t.clone() for t in tensors]
    compare_logits(*tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_no_tokens_are_no_distance():
    assert LogitsComparison().figures() == {
        "tokens": 0,
        "kl": 0.0,
        "top1": 0.0,
        "perplexity_reference": 1.0,
        "perplexity_quantized": 1.0,
        "perplexity_increase": 0.0,
    }


def test_the_figures_are_plain_numbers():
    figures = compare_logits(logits_of(seed=1), logits_of(seed=2), ids_of()).figures()
    assert {type(value) for value in figures.values()} == {int, float}
    assert figures["kl"] > 0


def test_a_broken_model_has_a_figure_too():
    # a text that costs more than 709 nats a token: exp of it is no float
    logits = torch.zeros(50, 40)
    logits[:, 0] = 1e4
    result = compare_logits(torch.zeros(50, 40), logits, ids_of().clamp(min=1))
    assert result.perplexity_quantized == math.inf


def test_tokens_masked_out_by_both_models_add_nothing():
    logits = torch.tensor([[0.0, 1.0, -math.inf], [2.0, 0.5, -math.inf]])
    other = logits * 0.5
    ids = torch.tensor([0, 1])
    result = compare_logits(logits, other, ids)
    assert result.kl == pytest.approx(compare_logits(logits[:, :2], other[:, :2], ids).kl)


def windows_of(count: int) -> list[LogitsComparison]:
    built = []
    for seed in range(count):
        reference, quantized = logits_of(seed=seed), logits_of(seed=seed + 100)
        built.append(compare_logits(reference, quantized, ids_of()))
    return built


def test_the_sums_over_windows_are_those_of_all_their_tokens():
    whole, parts = LogitsComparison.of(windows_of(6)), windows_of(6)
    assert whole.tokens == sum(part.tokens for part in parts)
    assert whole.kl == pytest.approx(sum(part.kl for part in parts) / 6)


def test_intervals_hold_the_figures_that_they_are_of():
    windows = windows_of(8)
    whole, sure = LogitsComparison.of(windows), intervals(windows)
    for name in ("kl", "top1", "perplexity_reference", "perplexity_quantized"):
        assert sure[name].middle == pytest.approx(whole.figures()[name])
        assert sure[name].low < sure[name].middle < sure[name].high
    increase = whole.perplexity_quantized / whole.perplexity_reference - 1
    assert sure["perplexity_increase"].middle == pytest.approx(increase)


def test_more_windows_are_surer():
    few, many = intervals(windows_of(8)), intervals(windows_of(80))
    assert many["kl"].width < few["kl"].width


def test_a_pair_is_surer_of_its_ratio_than_of_its_perplexities():
    """Both models find the same windows hard: what differs between windows is not their doing."""
    windows = []
    for seed in range(12):
        reference = logits_of(seed=seed) * (1 + seed)
        near = reference + logits_of(seed=seed + 50) * 0.1
        windows.append(compare_logits(reference, near, ids_of()))
    sure = intervals(windows)
    relative = sure["perplexity_quantized"].width / sure["perplexity_quantized"].middle
    assert sure["perplexity_increase"].width < relative / 3


def test_too_few_windows_have_no_intervals():
    assert intervals(windows_of(4)) == {}
