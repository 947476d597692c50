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


def test_a_model_does_not_part_from_itself():
    one = logits().log_softmax(-1)
    assert kl_rows(one, one).tolist() == [0.0] * 12


def test_its_mean_is_the_kl_that_evaluate_measures():
    one, other = logits(), logits()
    found = kl_rows(one.log_softmax(-1), other.log_softmax(-1))
    wanted = compare_logits(one, other, torch.arange(12)).kl
    assert abs(float(found.mean()) - wanted) <= 2 * (nats(one) + nats(other))


def test_a_token_that_the_reference_never_takes_counts_nothing():
    one, other = logits(), logits()
    one[:, 3] = -math.inf
    assert torch.isfinite(kl_rows(one.log_softmax(-1), other.log_softmax(-1))).all()


def test_what_is_no_number_is_said():
    one = logits().log_softmax(-1)
    with pytest.raises(ModelError, match="numbers"):
        kl_rows(one, one * math.nan)
