"""Figures by position are those of the direct computation in float64, however it is sliced."""

import numpy as np
import pytest
import torch

from salient.validate.likelihood import position_figures
from salient.validate.likelihood.position_figures import compare_positions


def direct(reference, model, following):
    """KL, same and log likelihoods by log_softmax in float64."""
    r, q = reference.double().log_softmax(-1), model.double().log_softmax(-1)
    kl = (r.exp() * (r - q)).nansum(-1)
    rows = torch.arange(len(r))
    own = [
        logs[rows, following.clamp(min=0)].masked_fill(following < 0, torch.nan) for logs in (r, q)
    ]
    return kl, (r.argmax(-1) == q.argmax(-1)).double(), *own


@pytest.mark.parametrize("size", [7, 64, 4096])
def test_figures_are_those_of_log_softmax_for_any_slice(size, monkeypatch):
    monkeypatch.setattr(position_figures, "VOCABULARY_SLICE", size)
    seed = torch.Generator().manual_seed(3)
    reference = torch.randn(20, 100, generator=seed) * 4
    model = reference + torch.randn(20, 100, generator=seed) * 0.1
    following = torch.randint(-1, 100, (20,), generator=seed)
    figures = compare_positions(reference, model, following)
    names = ("kl", "same", "reference", "model")
    for name, expected in zip(names, direct(reference, model, following), strict=True):
        np.testing.assert_allclose(getattr(figures, name), expected.numpy(), rtol=1e-10, atol=1e-13)


def test_a_tiny_change_of_one_logit_is_a_figure_and_no_rounding():
    reference = torch.linspace(-3, 3, 1000).repeat(1, 1)
    model = reference.clone()
    model[0, 5] += 2e-4
    nothing = torch.tensor([-1])
    assert abs(compare_positions(reference, reference, nothing).kl[0]) < 1e-13
    kl = compare_positions(reference, model, nothing).kl[0]
    p = reference.double().softmax(-1)[0, 5]
    step = float(model[0, 5].double() - reference[0, 5].double())
    assert kl == pytest.approx(float(p * (1 - p) * step**2 / 2), rel=1e-3, abs=1e-14)


def test_a_token_that_the_reference_masks_adds_nothing():
    reference = torch.tensor([[0.0, 1.0, -torch.inf]])
    model = torch.tensor([[0.0, 1.0, -torch.inf]])
    assert compare_positions(reference, model, torch.tensor([1])).kl[0] == pytest.approx(
        0, abs=1e-15
    )
