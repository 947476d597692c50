"""KL by place: nothing between a model and itself, and what `evaluate` measures between two."""

import math

import pytest
import torch

from helpers.tolerance import nats
from salient.core.errors import ModelError
from salient.core.metrics import compare_logits
from salient.explorer.divergence import kl_rows

RANDOM = torch.Generator().manual_seed(0)


def logits(rows=12, vocabulary=50):
    return torch.randn(rows, vocabulary, generator=RANDOM) * 3


def test_kl_of_a_model_with_itself_is_zero():
    one = logits().log_softmax(-1)
    assert kl_rows(one, one).tolist() == [0.0] * 12


def test_mean_kl_is_the_kl_of_evaluate():
    one, other = logits(), logits()
    kl = kl_rows(one.log_softmax(-1), other.log_softmax(-1))
    wanted = compare_logits(one, other, torch.arange(12)).kl
    assert abs(float(kl.mean()) - wanted) <= 2 * (nats(one) + nats(other))


def test_a_token_of_zero_probability_adds_nothing():
    one, other = logits(), logits()
    one[:, 3] = -math.inf
    assert torch.isfinite(kl_rows(one.log_softmax(-1), other.log_softmax(-1))).all()


def test_nan_logits_are_refused():
    one = logits().log_softmax(-1)
    with pytest.raises(ModelError, match="numbers"):
        kl_rows(one, one * math.nan)
