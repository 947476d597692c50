"""Block reconstruction: roundings and scales change, and only where the held-out loss falls."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from helpers.tolerance import assert_within, worst
from salient.awq.block_reconstruction import (
    FEWEST_TOKENS,
    LearnedWeight,
    Reconstruction,
    ReconstructionBatch,
    ReconstructionSettings,
    output_loss,
    reconstruct_block,
    rounding_residual,
)
from salient.core.quant import QuantizedWeight, in_16_bits, quantize
from salient.core.scheme import Scheme
from salient.models.block_call import BlockCall

SCHEME, HALF, WIDTH = Scheme(32), torch.float16, 64
CALL = BlockCall((), {})
SETTINGS = ReconstructionSettings(24, code_travel=0.2, scale_travel=0.06, judge_every=6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Mlp(nn.Module):
    """norm -> up -> down with biases; the mean channel decides whether `rare` is called, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down, self.rare = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        hidden = nn.functional.silu(self.up(self.norm(x)))
        out = x + self.down(hidden)
        routed = x.mean(-1) > 1
        out[routed] = out[routed] + self.rare(hidden[routed])
        return (out,)


LINEARS = ("up", "down", "rare")


def codes_of(block: nn.Module, scheme: Scheme = SCHEME) -> dict[str, QuantizedWeight]:
    return {n: quantize(block.get_parameter(f"{n}.weight"), scheme, name=n) for n in LINEARS}


def batch(seed: int, noise: float = 0.02) -> ReconstructionBatch:
    """Two samples of 48 tokens; the quantized model's hidden states are those of `Mlp`, and noise.

    No token reaches `rare`.
    """
    exact = normal(2, 48, WIDTH, seed=seed)
    exact -= exact.mean(-1, keepdim=True)
    inputs = exact + noise * normal(2, 48, WIDTH, seed=seed + 100)
    inputs -= inputs.mean(-1, keepdim=True)
    return ReconstructionBatch(inputs, Mlp()(exact)[0], torch.ones(2, 48), CALL)


BATCHES, HELDOUT = [batch(seed) for seed in range(1, 9)], [batch(50), batch(51)]


def reconstructed(batches=BATCHES, heldout=HELDOUT, scheme=SCHEME) -> Reconstruction:
    block = Mlp()
    codes = codes_of(block, scheme)
    residuals = {n: rounding_residual(block.get_parameter(f"{n}.weight"), codes[n]) for n in codes}
    return reconstruct_block(block, codes, batches, heldout, HALF, SETTINGS, residuals=residuals)


def loss_of(codes: dict[str, QuantizedWeight], batches: list[ReconstructionBatch]) -> float:
    block = Mlp()
    for name, quantized in codes.items():
        block.get_parameter(f"{name}.weight").copy_(quantized.dequantize())
    return sum(float(output_loss(block, one)) for one in batches) / len(batches)


def assert_same(actual: QuantizedWeight, expected: QuantizedWeight) -> None:
    for field in ("codes", "scale", "zero"):
        assert torch.equal(getattr(actual, field), getattr(expected, field))


def test_the_result_has_the_heldout_loss_that_is_reported():
    first, result = codes_of(Mlp()), reconstructed()
    assert result.after < 0.98 * result.before
    assert result.changed > 0
    for loss, codes in ((result.before, first), (result.after, result.codes)):
        assert abs(loss - loss_of(codes, HELDOUT)) <= 100 * worst(WIDTH) * loss


def test_codes_stay_where_the_heldout_loss_does_not_fall():
    first = codes_of(Mlp())
    block = Mlp()
    for name, quantized in first.items():
        block.get_parameter(f"{name}.weight").copy_(quantized.dequantize())
    perfect = [replace(one, targets=block(one.inputs)[0]) for one in HELDOUT]
    result = reconstructed(heldout=perfect)
    assert (result.step, result.changed) == (0, 0)
    assert result.after == result.before
    for name in LINEARS:
        assert_same(result.codes[name], first[name])


def test_zeros_stay_and_scales_are_exact_in_sixteen_bits_within_their_range():
    for scheme in (SCHEME, Scheme(32, symmetric=True)):
        first, result = codes_of(Mlp(), scheme), reconstructed(scheme=scheme)
        assert result.after < result.before
        for name, quantized in result.codes.items():
            assert torch.equal(quantized.zero, first[name].zero)
            assert torch.equal(quantized.scale, in_16_bits(quantized.scale, HALF))
            assert int(quantized.codes.max()) <= scheme.max_code
            ratio = quantized.scale / first[name].scale
            assert_within(ratio, torch.ones_like(ratio), SETTINGS.scale_travel + 2**-10)


def test_a_linear_that_too_few_heldout_tokens_reach_stays():
    """Tokens to learn from reach `rare`; what was learned could not be judged."""
    shifted = [replace(one, inputs=one.inputs + 2, targets=one.targets + 2) for one in BATCHES]
    first, alone = codes_of(Mlp()), reconstructed(shifted)
    assert_same(alone.codes["rare"], first["rare"])
    judged = reconstructed(shifted, [replace(one, inputs=one.inputs + 2) for one in HELDOUT])
    assert FEWEST_TOKENS < 2 * 2 * 48
    assert not torch.equal(judged.codes["rare"].codes, first["rare"].codes)


def test_tokens_without_weight_do_not_count():
    def without_first_half(batches):
        return [
            replace(one, weights=torch.stack([torch.zeros(48), torch.ones(48)])) for one in batches
        ]

    def with_other_targets(batches):
        return [
            replace(one, targets=one.targets * torch.tensor([9.0, 1])[:, None, None])
            for one in batches
        ]

    halves = without_first_half(BATCHES), without_first_half(HELDOUT)
    result, other = reconstructed(*halves), reconstructed(*map(with_other_targets, halves))
    assert result.changed > 0
    for name in LINEARS:
        assert_same(result.codes[name], other.codes[name])


def test_norms_biases_and_the_ability_to_learn_are_left_as_they_were():
    block, untouched = Mlp(), Mlp().state_dict()
    reconstruct_block(block, codes_of(block), BATCHES, HELDOUT, HALF, SETTINGS)
    assert not any(parameter.requires_grad for parameter in block.parameters())
    for name, value in block.state_dict().items():
        if name.removesuffix(".weight") not in LINEARS:
            assert torch.equal(value, untouched[name])


def test_a_step_follows_the_sign_of_the_straight_through_gradient():
    quantized = quantize(normal(8, 64), SCHEME, name="w")
    linear = nn.Linear(64, 8, bias=False)
    weight = LearnedWeight(linear, quantized, HALF)
    target = normal(20, 8, seed=1)
    x = normal(20, 64, seed=2)
    (linear(x) - target).square().sum().backward()

    shift = torch.zeros(8, 64, requires_grad=True)
    factor = torch.zeros(8, 2, requires_grad=True)
    codes = quantized.codes - quantized.zero.repeat_interleave(32, 1).float() + shift
    scale = (quantized.scale * (1 + factor)).repeat_interleave(32, 1)
    (x @ (scale * codes).t() - target).square().sum().backward()

    weight.step(0.25, 0.125)
    assert shift.grad is not None
    assert factor.grad is not None
    assert torch.equal(weight.shift, -0.25 * shift.grad.sign())
    assert torch.equal(weight.factor, -0.125 * factor.grad.sign())


def test_a_residual_is_what_rounding_to_the_nearest_code_took():
    weight = normal(8, 64)
    quantized = quantize(weight, SCHEME, name="w")
    residual = rounding_residual(weight, quantized)
    half = residual.float().view(8, 2, 32) / 256
    restored = quantized.dequantize() + (half * quantized.scale[..., None]).flatten(1)
    inside = (weight - quantized.dequantize()).abs() < step_of(quantized) * 0.49
    assert int(inside.sum()) > 480
    assert_within(restored[inside], weight[inside], step_of(quantized)[inside] / 500)
    assert not rounding_residual(weight + 9, quantized).any()


def step_of(quantized: QuantizedWeight) -> Tensor:
    return quantized.scale.repeat_interleave(32, 1)


def test_codes_near_the_next_change_first():
    """A gradient of one sign in all weights reaches those that were rounded by nearly half."""
    linear, quantized = nn.Linear(64, 8, bias=False), quantize(normal(8, 64), SCHEME, name="w")
    residual = torch.zeros(8, 64, dtype=torch.int8)
    residual[:, ::2] = 120
    weight = LearnedWeight(linear, quantized, HALF, residual)
    linear.weight.grad = -torch.ones(8, 64)
    weight.step(0.1, 0.0)
    expected = quantized.codes.clone()
    expected[:, ::2] += 1
    assert torch.equal(weight.quantized("w").codes, expected.clamp(max=15))


def test_a_block_without_gradients_is_refused_and_stays():
    class Detached(Mlp):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (super().forward(x)[0].detach(),)

    block = Detached()
    first = codes_of(block)
    result = reconstruct_block(block, first, BATCHES, HELDOUT, HALF, SETTINGS)
    assert "A block cannot be differentiated" in result.refusal
    assert result.after == result.before
    assert all(result.codes[name] is first[name] for name in LINEARS)
