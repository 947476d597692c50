"""One block: a scale that is folded changes no function, and what does not help is not folded."""

import pytest
import torch
from torch import Tensor, nn

from helpers.tolerance import assert_product, assert_within, likely, unit_roundoff, worst
from salient.awq.block import absorb, quantize_block
from salient.awq.results import (
    JUDGE_TOKENS,
    HeldoutInput,
    OutputTarget,
    effective_state,
    plain_result,
)
from salient.awq.search import IDENTITY, Scale
from salient.awq.statistics import ActStats
from salient.core.errors import ModelError
from salient.core.quant import Grid, minmax_grid, quantize
from salient.core.scheme import Scheme
from salient.models.proof import ScaleGroup

SCHEME, HALF, WIDTH = Scheme(32), torch.float16, 64
EVERY = torch.arange(WIDTH)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_dtype(dtype: torch.dtype) -> OutputTarget:
    return OutputTarget(SCHEME, dtype, frozenset())


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


class Toy(nn.Module):
    """norm -> up, side and up -> down, with biases wherever a fold must reach them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.side, self.down = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1))
            parameter.data.copy_(parameter.data.half())
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x)
        return x + self.down(self.up(hidden)) + self.side(hidden)


NORM = ScaleGroup((("up", "side"),), "norm", EVERY)
UP = ScaleGroup((("down",),), "up", EVERY)


def loud(channels: range, count: int = 300, seed: int = 1) -> Tensor:
    """Inputs of the norm's readers: a few loud channels."""
    x = normal(count, WIDTH, seed=seed)
    x[:, list(channels)] *= 20
    return x


def quantized(block: Toy, *groups: ScaleGroup, skip: str = "", calibration=None, unseen=None):
    """`block` by `groups`; its inputs are `calibration` tokens and `unseen` heldout tokens."""
    calibration = loud(range(4)) if calibration is None else calibration
    unseen = loud(range(4), seed=2) if unseen is None else unseen
    stats, heldout = {}, {}
    for group in groups:
        first = group.readers[0]
        stats[first] = ActStats(WIDTH)
        stats[first].add(calibration)
        heldout[first] = HeldoutInput(unseen)
    target = OutputTarget(SCHEME, HALF, frozenset({"up", "side", "down"} - {skip}))
    weights = lambda name: block.get_parameter(name).detach().float()  # noqa: E731
    return quantize_block(block, weights, list(groups), stats.__getitem__, heldout, target)


POWERS = 2.0 ** (EVERY % 5 - 2)


def in_need_of_powers(monkeypatch) -> dict[str, Tensor]:
    """Inputs for which POWERS is a good scale, and a search that finds it for every group."""
    actual = Scale(POWERS, (0.5, 0.0))
    monkeypatch.setattr("salient.awq.block.best_scale", lambda *_: actual)
    return {
        "calibration": normal(300, WIDTH, seed=1) * POWERS**2,
        "unseen": normal(300, WIDTH, seed=2) * POWERS**2,
    }


def test_a_linear_takes_up_a_scale_by_its_rows_and_becomes_nothing_else():
    group = ScaleGroup((("reader",),), "linear", torch.tensor([7, 3, 4]))
    scale = torch.tensor([2.0, 4.0, 0.5])
    rows, parts = absorb(normal(9, 5), normal(9), group, scale, in_dtype(HALF))
    assert rows.tolist() == [1, 1, 1, 4, 0.5, 1, 1, 2, 1]
    assert parts == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_norms_bias_is_divided_by_the_scale_that_its_weight_took_up(dtype):
    weight, bias, scale = normal(64).to(dtype), normal(64, seed=1).to(dtype), normal(64).exp()
    group = ScaleGroup((("reader",),), "norm", EVERY)
    rows, parts = absorb(weight, bias, group, scale, in_dtype(dtype))
    assert parts["bias"].dtype == dtype
    divided = (unit_roundoff(dtype) + worst(2)) * bias.abs().float()
    assert_within(parts["bias"].float() * rows, bias, divided)
    assert_within(parts["weight"].float() * rows, weight, worst(2) * weight.abs().float())


def test_a_skipped_reader_of_a_scaled_group_takes_up_the_scale_in_sixteen_bits():
    block = Toy()
    result = quantized(block, NORM, skip="side")
    assert result.groups[0].exponents != IDENTITY
    assert set(result.weights) == {"up"}
    assert set(result.folded) == {"norm.weight", "norm.bias", "side.weight"}
    assert all(part.dtype == HALF for part in result.folded.values())
    scale = block.norm.weight / result.folded["norm.weight"].float()
    assert float(scale.max() / scale.min()) > 1.5
    folded, x = Toy(), normal(50, WIDTH, seed=4)
    folded.up.weight.data *= scale
    for name, value in result.folded.items():
        folded.get_parameter(name).data.copy_(value)
    # one rounding to 16 bits of each weight of `side` and of the norm's bias
    assert relative(folded(x), block(x)) < 2 * unit_roundoff(HALF)
    folded.side.weight.data.copy_(block.side.weight)  # forgotten, it would be far off
    assert relative(folded(x), block(x)) > 100 * unit_roundoff(HALF)


def test_a_quantized_absorber_keeps_its_codes_and_divides_its_scales(monkeypatch):
    block, inputs = Toy(), in_need_of_powers(monkeypatch)
    unscaled = ScaleGroup((("up", "side"),), refusal="none")
    alone = quantized(block, unscaled, **inputs).weights["up"]
    result = quantized(block, unscaled, UP, **inputs)
    assert result.groups[1].improved
    up, down = result.weights["up"], result.weights["down"]
    assert torch.equal(up.codes, alone.codes)
    assert torch.equal(up.zero, alone.zero)
    assert torch.equal(up.scale, alone.scale / POWERS[:, None])
    assert torch.equal(result.folded["up.bias"].float(), block.up.bias / POWERS)
    product = down.dequantize() @ up.dequantize()
    assert_product(product, down.dequantize() / POWERS, alone.dequantize())
    expected = inputs["unseen"] @ block.down.weight.t()
    actual = (inputs["unseen"] / POWERS) @ down.dequantize().t()
    assert relative(actual, expected) < 0.1


def test_a_sixteen_bit_absorber_is_divided_by_the_scale_in_its_rows(monkeypatch):
    block = Toy()
    result = quantized(block, UP, skip="up", **in_need_of_powers(monkeypatch))
    divided = {"up.weight": block.up.weight / POWERS[:, None], "up.bias": block.up.bias / POWERS}
    assert result.folded.keys() == divided.keys()
    for name, value in divided.items():
        assert torch.equal(result.folded[name], value.half())


def test_the_blocks_own_parameters_are_read_and_not_changed():
    block, untouched = Toy(), Toy().state_dict()
    quantized(block, NORM, UP)
    assert all(torch.equal(value, untouched[n]) for n, value in block.state_dict().items())


def check_fell_back(result, block: Toy, *names: str) -> None:
    """The linears `names` are plain rounding's, and nothing is folded."""
    assert result.folded == {}
    for name in names:
        plain = quantize(block.get_parameter(f"{name}.weight"), SCHEME, name=name, dtype=HALF)
        assert torch.equal(result.weights[name].dequantize(), plain.dequantize())
        assert torch.equal(effective_state(result)[f"{name}.weight"], plain.dequantize())
    for group in result.groups:
        assert (group.improved, group.rounding, group.exponents) == (False, "plain", IDENTITY)
        assert all(0 < layer.awq == layer.plain for layer in group.layers)


def test_statistics_of_tokens_unlike_the_heldout_ones_end_in_plain_rounding():
    """What was found for channels that are loud in garbage is judged where others are loud."""
    block = Toy()
    garbage = loud(range(4))
    garbage[:, 4:] *= 1e-3
    result = quantized(block, NORM, UP, calibration=garbage, unseen=loud(range(40, 60), seed=2))
    check_fell_back(result, block, "up", "side", "down")


@pytest.mark.parametrize("scaled", [True, False])
def test_grids_that_lose_on_heldout_tokens_are_dropped_with_their_scale(scaled, monkeypatch):
    def bad(weight, blocks, scheme, dtype):
        grid = minmax_grid(weight, scheme, dtype)
        return Grid(grid.scale * 0.25, grid.zero)

    monkeypatch.setattr("salient.awq.block.best_grid", bad)
    block = Toy()
    group = NORM if scaled else ScaleGroup(NORM.inputs, refusal="none")
    check_fell_back(quantized(block, group), block, "up", "side")


def test_feedback_that_loses_gives_way_to_the_nearest_codes_on_the_same_grid(monkeypatch):
    monkeypatch.setattr("salient.awq.block.with_feedback", lambda weight, *_: -weight)
    block = Toy()
    result = quantized(block, NORM)
    assert result.groups[0].rounding == "nearest"
    assert result.groups[0].exponents != IDENTITY
    scale = block.norm.weight / result.folded["norm.weight"].float()
    up = result.weights["up"]
    grid = Grid(up.scale, up.zero.float())
    nearest = quantize(block.up.weight * scale, SCHEME, name="up", dtype=HALF, grid=grid)
    assert torch.equal(up.codes, nearest.codes)


def test_a_scaled_group_has_less_error_on_heldout_tokens_and_reports_it():
    block, unseen = Toy(), loud(range(4), seed=2)
    result = quantized(block, NORM, unseen=unseen)
    scale = block.norm.weight / result.folded["norm.weight"].float()
    x = HeldoutInput(unseen).x.double()
    assert result.groups[0].improved
    for layer in result.groups[0].layers:
        weight = block.get_parameter(f"{layer.name}.weight").double()
        power = float((x @ weight.t()).square().sum())
        written = result.weights[layer.name].dequantize() / scale
        plain = quantize(weight, SCHEME, name="w", dtype=HALF).dequantize()
        for figure, built in ((layer.awq, written), (layer.plain, plain)):
            error = built.double() - weight
            exact, size = (
                float((a @ b.t()).square().sum()) for a, b in ((x, error), (x.abs(), error.abs()))
            )
            # the sum over channels, tokens and outputs, and the rounding of what is subtracted
            rounding = likely(WIDTH + x.numel()) * size
            assert figure == pytest.approx(exact / power, rel=0, abs=rounding / power)
            assert rounding < exact / 10
    assert sum(g.awq for g in result.groups[0].layers) < sum(
        g.plain for g in result.groups[0].layers
    )


def test_a_group_without_quantized_readers_is_left_alone():
    block = Toy()
    result = quantized(block, NORM, UP, skip="down")
    assert [r.group.readers for r in result.groups] == [("up", "side")]
    assert not any(name.startswith(("down", "up")) for name in result.folded)


def test_the_plain_result_holds_plain_codes_and_folds_nothing():
    block = Toy()
    check_fell_back(plain_result(quantized(block, NORM, UP)), block, "up", "side", "down")


@pytest.mark.parametrize("count", [1, 100, JUDGE_TOKENS, JUDGE_TOKENS + 1, 3000])
def test_the_judges_tokens_are_few_and_evenly_spread(count):
    x = torch.arange(count)[:, None].float()
    taken = HeldoutInput(x).x[:, 0]
    assert JUDGE_TOKENS / 2 < len(taken) <= JUDGE_TOKENS or len(taken) == count
    assert len(taken.diff().unique()) <= 1
    assert taken[0] == 0
    assert count - taken[-1] <= max(1, -(-count // JUDGE_TOKENS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_dividing_codes_divides_the_weight_they_stand_for(dtype):
    q = quantize(normal(8, 64), SCHEME, name="w", dtype=dtype)
    rows = torch.tensor([1.0, 2, 0.5, 4, 0.25, 8, 0.125, 1])
    built = q.divided(rows, name="w", dtype=dtype)
    assert torch.equal(built.codes, q.codes)
    assert torch.equal(built.dequantize(), q.dequantize() / rows[:, None])
    odd = q.divided(torch.full((8,), 3.0), name="w", dtype=dtype)
    assert torch.equal(odd.scale.to(dtype).half().float(), odd.scale)
    limit = torch.finfo(dtype).eps
    torch.testing.assert_close(odd.scale, q.scale / 3, rtol=limit, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_divided_scale_that_leaves_float16_names_the_layer(dtype):
    q = quantize(normal(8, 64) * 1000, SCHEME, name="w", dtype=dtype)
    rows = torch.ones(8)
    rows[5] = 1e-4
    message = r"^'mlp\.up' has values .* exceed float16 \(65504\)\. .* --skip 'mlp\.up'\.$"
    with pytest.raises(ModelError, match=message):
        q.divided(rows, name="mlp.up", dtype=dtype)


def test_an_absorber_whose_scales_would_lose_bits_in_float16_takes_up_nothing(monkeypatch):
    """Scales below 2^-14 are subnormal in float16: dividing into them would blur the codes."""
    block, inputs = Toy(), in_need_of_powers(monkeypatch)
    assert quantized(block, NORM, UP, **inputs).groups[1].exponents == (0.5, 0.0)
    block.up.weight.data.mul_(2.0**-12)
    result = quantized(block, NORM, UP, **inputs)
    assert result.groups[1].exponents == IDENTITY
    assert "up.bias" not in result.folded


def test_codes_can_be_divided_while_their_scales_have_all_bits_of_float16():
    weight = quantize(normal(4, WIDTH), SCHEME, name="layer")
    assert weight.can_be_divided(torch.full((4,), 100.0))
    assert not weight.can_be_divided(torch.full((4,), 1e5))
    assert not weight.can_be_divided(torch.full((4,), 1e-7))
    tiny = quantize(normal(4, WIDTH) * 1e-4, SCHEME, name="layer")
    assert tiny.can_be_divided(torch.ones(4))
    assert not tiny.can_be_divided(torch.full((4,), 2.0))


class Forked(nn.Module):
    """One linear whose rows feed two others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.both = nn.Linear(WIDTH, 2 * WIDTH)
        self.left, self.right = (nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.both(x).chunk(2, -1)
        return self.left(left) + self.right(right)


def test_an_absorber_of_two_groups_takes_both_scales(monkeypatch):
    block, x = Forked(), normal(300, WIDTH)
    left = ScaleGroup((("left",),), "both", EVERY)
    right = ScaleGroup((("right",),), "both", EVERY + WIDTH)
    scales = iter((POWERS, POWERS.flip(0)))
    monkeypatch.setattr("salient.awq.block.best_scale", lambda *_: Scale(next(scales), (0.5, 0.0)))
    stats, heldout = {}, {}
    for name in ("both", "left", "right"):
        calibration = x * (POWERS if name == "left" else POWERS.flip(0)) ** 2
        stats[name] = ActStats(WIDTH)
        stats[name].add(calibration)
        heldout[name] = HeldoutInput(calibration)
    groups = [ScaleGroup((("both",),), refusal="none"), left, right]
    target = OutputTarget(Scheme(32, bits=8), HALF, frozenset({"both", "left", "right"}))
    weights = lambda name: block.get_parameter(name).detach().float()  # noqa: E731
    result = quantize_block(block, weights, groups, stats.__getitem__, heldout, target)
    assert [g.exponents for g in result.groups] == [IDENTITY, (0.5, 0.0), (0.5, 0.0)]
    expected = block(x)
    for name, value in effective_state(result).items():
        block.get_parameter(name).data.copy_(value)
    assert relative(block(x), expected) < 0.05
