"""Polishing: each step is accepted only where the held-out loss falls."""

import torch
from torch import Tensor

from salient.awq.end_loss import EndLoss, end_loss
from salient.awq.fisher import clipped, token_weights
from salient.awq.polish import polish
from salient.awq.results import HeldoutInput
from salient.awq.statistics import LinearStats
from salient.core.quant import Grid, in_groups, minmax_grid, quantize, round_trip
from salient.core.scheme import Scheme

SCHEME = Scheme(32)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss_of(seed: int) -> EndLoss:
    """Of tokens like those of other seeds."""
    x = normal(400, 8, seed=seed) @ normal(8, 64, seed=90) + normal(400, 64, seed=seed + 1)
    d = normal(400, 4, seed=seed + 2) @ normal(4, 24, seed=91) + normal(400, 24, seed=seed + 3)
    stats = LinearStats(x.t() @ x, (d.t() @ d,))
    return end_loss(stats, torch.ones(64), (0.1, 0.1))


def setting() -> tuple[Tensor, Grid, Tensor]:
    """(weight, grid, nearest values)."""
    weight = normal(24, 64)
    grid = minmax_grid(weight, SCHEME, torch.bfloat16)
    return weight, grid, round_trip(in_groups(weight, SCHEME), grid, SCHEME).flatten(1)


def test_polishing_lowers_the_loss_on_unseen_tokens():
    weight, grid, nearest = setting()
    unseen = loss_of(50)
    result = polish(weight, weight, grid, loss_of(0), SCHEME, torch.bfloat16, unseen.of)
    assert result.loss == (unseen.of(nearest - weight), unseen.of(result.values - weight))
    assert result.loss[1] < 0.7 * result.loss[0]
    again = quantize(result.values, SCHEME, name="w", dtype=torch.bfloat16, grid=result.grid)
    assert torch.equal(again.dequantize(), result.values)
    assert torch.equal(result.grid.scale, result.grid.scale.bfloat16().float())


def test_what_does_not_help_unseen_tokens_is_not_accepted():
    weight, grid, nearest = setting()

    def disagreeing(error: Tensor) -> float:
        return 1.0 if torch.equal(error, nearest - weight) else 2.0

    result = polish(weight, weight, grid, loss_of(0), SCHEME, torch.bfloat16, disagreeing)
    assert torch.equal(result.values, nearest)
    assert result.grid is grid
    assert result.loss == (1.0, 1.0)


def test_polishing_modifies_none_of_its_inputs():
    weight, grid, _ = setting()
    loss = loss_of(0)
    tensors = (weight, grid.scale, grid.zero, loss.inputs, *loss.outputs)
    before = [t.clone() for t in tensors]
    polish(weight, weight, grid, loss, SCHEME, torch.bfloat16, loss.of)
    assert all(map(torch.equal, before, tensors))


def test_the_heldout_loss_is_the_kronecker_form_of_its_tokens():
    x, d, difference = normal(40, 64), normal(40, 24, seed=1), normal(24, 64, seed=2)
    heldout = HeldoutInput(x, {"q": d})
    weights = token_weights(d)
    inputs, outputs = (x * weights).t() @ x / weights.sum(), clipped(d).t() @ clipped(d)
    expected = EndLoss(inputs, (outputs,)).of(difference)
    assert abs(heldout.loss("q", difference) - expected) < 1e-4 * expected
    assert HeldoutInput(x[:0], {"q": d[:0]}).loss("q", difference) == 0.0
