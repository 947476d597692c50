"""The one rounding: what its codes stand for, and that it changes nothing a second time."""

import pytest
import torch
from torch import Tensor

from helpers.tolerance import assert_within, worst
from salient.core.errors import ModelError, ShapeError
from salient.core.quant import (
    SMALLEST_SCALE,
    Grid,
    codes_of,
    grid_of,
    in_16_bits,
    minmax_grid,
    quantize,
    round_trip,
)
from salient.core.scheme import Scheme

SCHEMES = [Scheme(32), Scheme(32, symmetric=True), Scheme(64), Scheme(64, symmetric=True)]
DTYPES = [torch.float16, torch.bfloat16]
LARGEST = torch.finfo(torch.float16).max

each_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def normal(out: int = 8, width: int = 192, seed: int = 0, spread: float = 1.0) -> Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(seed)) * spread


def per_value(grid: Tensor, scheme: Scheme) -> Tensor:
    """[out, groups] -> [out, in]."""
    return grid.repeat_interleave(scheme.group_size, dim=1)


@each_scheme
@each_dtype
@pytest.mark.parametrize(
    "shift", [0.0, 3.0, -3.0, 40.0], ids=["around-zero", "positive", "negative", "far"]
)
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e3])
def test_every_value_is_within_one_step_of_its_code(scheme, dtype, shift, spread):
    weight = (normal() + shift) * spread
    q = quantize(weight, scheme, name="w", dtype=dtype)
    assert ((q.dequantize() - weight).abs() <= per_value(q.scale, scheme)).all()


@each_scheme
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_no_code_is_nearer_than_the_one_chosen(scheme, shift):
    weight = normal(seed=1) + shift
    q = quantize(weight, scheme, name="w")
    scale, zero = per_value(q.scale, scheme), per_value(q.zero.float(), scheme)
    choices = torch.stack([(code - zero) * scale for code in range(16)])
    best = (choices - weight).abs().amin(0)
    # two codes are equally near where the value is between them, up to the roundings of both
    assert_within((q.dequantize() - weight).abs(), best, worst(4) * (weight.abs() + zero * scale))


@each_scheme
@each_dtype
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_quantizing_twice_on_the_same_grid_changes_nothing(scheme, dtype, shift):
    once = quantize(normal(seed=2) + shift, scheme, name="w", dtype=dtype)
    grid = Grid(once.scale, once.zero.float())
    twice = quantize(once.dequantize(), scheme, name="w", dtype=dtype, grid=grid)
    assert torch.equal(once.codes, twice.codes)
    assert torch.equal(once.dequantize(), twice.dequantize())


@pytest.mark.parametrize("group_size", [32, 64])
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_quantizing_twice_finds_the_same_codes_again(group_size, shift):
    scheme = Scheme(group_size)
    once = quantize(normal(seed=3) + shift, scheme, name="w")
    twice = quantize(once.dequantize(), scheme, name="w")
    assert torch.equal(once.codes, twice.codes)
    assert torch.equal(once.zero, twice.zero)
    assert torch.equal(once.dequantize(), twice.dequantize())


@each_scheme
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_zero_stays_zero(scheme, shift):
    weight = normal(seed=4) + shift
    weight[:, ::7] = 0.0
    assert (quantize(weight, scheme, name="w").dequantize()[:, ::7] == 0).all()


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_the_zero_of_a_symmetric_group_is_eight(shift):
    q = quantize(normal(seed=5) + shift, Scheme(64, symmetric=True), name="w")
    assert (q.zero == 8).all()


def test_the_zero_of_a_one_signed_group_is_the_end_of_the_codes():
    assert (quantize(normal().abs() + 1, Scheme(64), name="w").zero == 0).all()
    assert (quantize(-normal().abs() - 1, Scheme(64), name="w").zero == 15).all()


@each_scheme
def test_codes_and_zeros_are_of_sixteen(scheme):
    q = quantize(normal(seed=6), scheme, name="w")
    assert q.codes.dtype == q.zero.dtype == torch.uint8
    assert q.codes.shape == (8, 192)
    assert q.scale.shape == q.zero.shape == (8, 192 // scheme.group_size)
    assert q.codes.max() <= 15
    assert q.zero.max() <= 15


@each_scheme
@pytest.mark.parametrize("spread", [1e-8, 1e-6, 1e-4, 1.0, 1e4])
def test_bfloat16_scales_are_exact_in_float16_too(scheme, spread):
    scale = quantize(normal(spread=spread), scheme, name="w", dtype=torch.bfloat16).scale
    assert torch.equal(scale.to(torch.bfloat16).float(), scale)
    assert torch.equal(scale.to(torch.float16).float(), scale)


@each_scheme
@pytest.mark.parametrize("spread", [1e-8, 1e-6, 1e-4, 1.0, 1e4])
def test_float16_scales_are_exact_in_float16(scheme, spread):
    scale = quantize(normal(spread=spread), scheme, name="w").scale
    assert torch.equal(scale.to(torch.float16).float(), scale)


@each_dtype
def test_a_scale_is_never_zero(dtype):
    scales = in_16_bits(torch.tensor([0.0, 1e-30, 2.0**-26, 2.0**-24, 1.0]), dtype)
    assert scales.tolist() == [SMALLEST_SCALE] * 4 + [1.0]


@each_scheme
@each_dtype
def test_a_weight_of_zeros_comes_back_as_zeros(scheme, dtype):
    q = quantize(torch.zeros(3, 64), scheme, name="w", dtype=dtype)
    assert torch.equal(q.dequantize(), torch.zeros(3, 64))
    assert torch.isfinite(q.scale).all()


@each_scheme
@each_dtype
@pytest.mark.parametrize("spread", [1e-12, 1e-8, 1e-7, 1e-6, 1e-5])
def test_a_scale_below_float16s_normal_range_costs_eight_of_its_smallest_at_most(
    scheme, dtype, spread
):
    # such a scale is off by half of 2**-24, fifteen times over a group's range
    weight = normal(spread=spread)
    q = quantize(weight, scheme, name="w", dtype=dtype)
    error = (q.dequantize() - weight).abs()
    assert (error <= per_value(q.scale, scheme) + 8 * SMALLEST_SCALE).all()
    assert error.max() <= weight.abs().max()


@each_scheme
@each_dtype
def test_the_largest_float16_weights_are_within_one_step(scheme, dtype):
    weight = normal(seed=7).clamp(-3, 3) / 3 * LARGEST
    q = quantize(weight, scheme, name="w", dtype=dtype)
    assert ((q.dequantize() - weight).abs() <= per_value(q.scale, scheme)).all()


def test_a_weight_whose_scale_does_not_fit_float16_is_refused_or_comes_back_finite():
    # bfloat16 models can hold it; an infinite scale would write a checkpoint of NaN
    weight = normal(seed=8, spread=1e7)
    try:
        q = quantize(weight, Scheme(32), name="w", dtype=torch.bfloat16)
    except ModelError as error:
        assert "'w'" in str(error)  # noqa: PT017 - either outcome is lawful
    else:
        assert torch.isfinite(q.dequantize()).all()


def test_16_bit_weights_are_rounded_as_their_float32_selves():
    weight = normal(seed=9).to(torch.bfloat16)
    ours, float32 = (quantize(w, Scheme(64), name="w") for w in (weight, weight.float()))
    assert torch.equal(ours.codes, float32.codes)
    assert torch.equal(ours.scale, float32.scale)


@each_scheme
def test_the_weight_is_not_modified(scheme):
    weight = normal(seed=10)
    before = weight.clone()
    quantize(weight, scheme, name="w")
    assert torch.equal(weight, before)


def test_the_grid_of_the_argument_is_used():
    scheme = Scheme(64)
    grid = grid_of(torch.full((8, 3), -0.5), torch.full((8, 3), 1.0), scheme, torch.float16)
    q = quantize(normal(seed=11), scheme, name="w", grid=grid)
    assert torch.equal(q.scale, grid.scale)
    assert torch.equal(q.zero.float(), grid.zero)
    assert q.dequantize().max() <= 1.1  # clipped, where plain rounding would go to the maximum
    assert not torch.equal(q.codes, quantize(normal(seed=11), scheme, name="w").codes)


@each_scheme
def test_plain_rounding_is_the_grid_of_smallest_and_largest(scheme):
    weight = normal(seed=12)
    plain = quantize(weight, scheme, name="w")
    values = quantize(weight, scheme, name="w", grid=minmax_grid(weight, scheme, torch.float16))
    assert torch.equal(plain.codes, values.codes)


def test_a_group_is_rounded_without_a_look_at_its_neighbours():
    weight = normal(seed=13)
    q = quantize(weight, Scheme(64), name="w")
    weight[:, 64:128] *= 100
    other = quantize(weight, Scheme(64), name="w")
    for retained in (slice(0, 64), slice(128, 192)):
        assert torch.equal(q.codes[:, retained], other.codes[:, retained])


@each_scheme
def test_the_round_trip_of_the_search_is_what_is_written(scheme):
    weight = normal(seed=14)
    grid = minmax_grid(weight, scheme, torch.float16)
    grouped = weight.unflatten(1, (-1, scheme.group_size))
    q = quantize(weight, scheme, name="w", grid=grid)
    assert torch.equal(round_trip(grouped, grid, scheme).flatten(1), q.dequantize())
    assert torch.equal(codes_of(grouped, grid, scheme).flatten(1).byte(), q.codes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_counted_and_its_layer_named(bad):
    weight = normal()
    weight[1, 2] = weight[3, 4] = bad
    message = (
        r"'model\.layers\.3\.mlp\.up_proj' has 2 NaN or infinite values of 1536.* fetch them again"
    )
    with pytest.raises(ModelError, match=message):
        quantize(weight, Scheme(64), name="model.layers.3.mlp.up_proj")


def test_a_width_that_does_not_divide_says_which_layer_and_what_to_do():
    message = r"'mlp\.down_proj' has 96 .* size 64\. Use group size 32, or leave .* --skip"
    with pytest.raises(ShapeError, match=message):
        quantize(torch.zeros(4, 96), Scheme(64), name="mlp.down_proj")
    quantize(torch.zeros(4, 96), Scheme(32), name="mlp.down_proj")  # the advice is true


def test_a_width_that_nothing_divides_can_only_be_skipped():
    message = r"'mlp\.down_proj' has 100 .*128\. Leave it unquantized with --skip 'mlp\.down_proj'"
    with pytest.raises(ShapeError, match=message):
        quantize(torch.zeros(4, 100), Scheme(128), name="mlp.down_proj")
