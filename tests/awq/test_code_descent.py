"""Code descent and scale refit: the end loss never rises, and nothing nearby is lower."""

import pytest
import torch
from torch import Tensor

from helpers.tolerance import assert_within, likely
from salient.awq.code_descent import descend
from salient.awq.end_loss import EndLoss, end_loss
from salient.awq.scale_refit import refit_scales
from salient.awq.statistics import LinearStats
from salient.core.quant import Grid, codes_of, in_groups, minmax_grid, quantize, round_trip
from salient.core.scheme import Scheme

ASYM, SYM = Scheme(32), Scheme(32, symmetric=True)
OUT, IN = 24, 96
each_scheme = pytest.mark.parametrize("scheme", [ASYM, SYM], ids=str)
each_bands = pytest.mark.parametrize("bands", [0, 1, 2])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gram(width: int, seed: int) -> Tensor:
    """Of vectors that live near few directions, with channels of unlike strength."""
    x = normal(300, 6, seed=seed) @ normal(6, width, seed=seed + 1)
    x = (x + normal(300, width, seed=seed + 2)) * (normal(width, seed=seed + 3) / 2).exp()
    return x.t() @ x


def setting(scheme: Scheme, bands: int) -> tuple[Tensor, Tensor, Grid, EndLoss]:
    """(weight, its nearest values, grid, loss with so many bands of outputs)."""
    weight = normal(OUT, IN)
    grid = minmax_grid(weight, scheme, torch.float16)
    outputs = tuple(gram(OUT // bands, seed) for seed in range(bands))
    scale = (normal(IN, seed=5) / 4).exp()
    loss = end_loss(LinearStats(gram(IN, 9), outputs), scale, (0.1, 0.2))
    return weight, round_trip(in_groups(weight, scheme), grid, scheme).flatten(1), grid, loss


def kronecker(loss: EndLoss, error: Tensor) -> float:
    """vec(E)^T (HO x H) vec(E), in float64."""
    outputs = torch.block_diag(*loss.outputs) if loss.outputs else torch.eye(len(error))
    whole = torch.kron(outputs.double(), loss.inputs.double())
    flat = error.double().flatten()
    return float(flat @ whole @ flat)


@each_bands
def test_the_end_loss_is_the_kronecker_form(bands):
    weight, rounded, _, loss = setting(ASYM, bands)
    error = rounded - weight
    expected = torch.tensor(kronecker(loss, error))
    assert_within(torch.tensor(loss.of(error)), expected, likely(OUT * IN) * expected)


@each_bands
@each_scheme
def test_every_sweep_lowers_the_loss(scheme, bands):
    weight, rounded, grid, loss = setting(scheme, bands)
    before = kronecker(loss, rounded - weight)
    for sweeps in (1, 2, 8):
        after = kronecker(loss, descend(weight, rounded, grid, loss, scheme, sweeps) - weight)
        assert after < before
        before = after


@each_bands
@each_scheme
def test_no_single_code_lowers_the_loss_after_the_descent(scheme, bands):
    weight, rounded, grid, loss = setting(scheme, bands)
    result = descend(weight, rounded, grid, loss, scheme, sweeps=50)
    least = kronecker(loss, result - weight)
    codes = codes_of(in_groups(result, scheme), grid, scheme).flatten(1)
    for i, j in ((i, j) for i in range(0, OUT, 5) for j in range(0, IN, 7)):
        for change in (-1, 1):
            if 0 <= codes[i, j] + change <= scheme.max_code:
                changed = result.clone()
                changed[i, j] += change * grid.scale[i, j // scheme.group_size]
                assert kronecker(loss, changed - weight) > least * (1 - 1e-5)


@each_bands
def test_the_result_lies_on_the_grid(bands):
    weight, rounded, grid, loss = setting(ASYM, bands)
    result = descend(weight, rounded, grid, loss, ASYM)
    again = quantize(result, ASYM, name="w", grid=grid).dequantize()
    assert torch.equal(again, result)
    assert not torch.equal(result, rounded)


@pytest.mark.parametrize("panel", [1, 7, 1000])
def test_the_panel_does_not_change_the_codes(panel, monkeypatch):
    weight, rounded, grid, loss = setting(ASYM, 1)
    expected = descend(weight, rounded, grid, loss, ASYM)
    monkeypatch.setattr("salient.awq.code_descent.PANEL", panel)
    result = descend(weight, rounded, grid, loss, ASYM)
    assert (result != expected).float().mean() < 0.01  # ties that float32 decides


@each_bands
@each_scheme
def test_the_refit_is_the_least_squares_solution(scheme, bands, monkeypatch):
    monkeypatch.setattr("salient.awq.scale_refit.ITERATIONS", 60)
    weight, rounded, grid, loss = setting(scheme, bands)
    refitted = refit_scales(weight, rounded, grid, loss, scheme, torch.float16, pull=0.0)
    steps = in_groups((rounded / grid.scale.repeat_interleave(32, 1)).round(), scheme).double()
    count = grid.scale.numel()
    columns = torch.zeros(OUT, IN // 32, OUT, IN // 32, 32, dtype=torch.float64)
    for i in range(OUT):
        for g in range(IN // 32):
            columns[i, g, i, g] = steps[i, g]
    flat = columns.reshape(count, OUT * IN)
    outputs = torch.block_diag(*loss.outputs) if loss.outputs else torch.eye(OUT)
    whole = torch.kron(outputs.double(), loss.inputs.double())
    right = flat @ whole @ weight.double().flatten()
    expected = torch.linalg.solve(flat @ whole @ flat.t(), right).view_as(grid.scale)
    assert_within(refitted.scale.double(), expected, 2e-3 * expected.abs() + 1e-6)
    assert torch.equal(refitted.zero, grid.zero)


@each_bands
@each_scheme
def test_the_refit_lowers_the_loss_with_stored_scales(scheme, bands):
    weight, rounded, grid, loss = setting(scheme, bands)
    refitted = refit_scales(weight, rounded, grid, loss, scheme, torch.bfloat16)
    codes = codes_of(in_groups(rounded, scheme), grid, scheme)
    values = ((codes - grid.zero[..., None]) * refitted.scale[..., None]).flatten(1)
    assert kronecker(loss, values - weight) < kronecker(loss, rounded - weight)
    assert torch.equal(refitted.scale, refitted.scale.bfloat16().float())


def test_a_strong_pull_leaves_the_scales():
    weight, rounded, grid, loss = setting(ASYM, 1)
    refitted = refit_scales(weight, rounded, grid, loss, ASYM, torch.float16, pull=1e6)
    assert_within(refitted.scale, grid.scale, 1e-3 * grid.scale)


def test_a_weight_of_zeros_has_nothing_to_polish():
    _, _, _, loss = setting(ASYM, 1)
    zeros = torch.zeros(OUT, IN)
    grid = minmax_grid(zeros, ASYM, torch.float16)
    assert torch.equal(descend(zeros, zeros, grid, loss, ASYM), zeros)
    assert refit_scales(zeros, zeros, grid, loss, ASYM, torch.float16) is grid
