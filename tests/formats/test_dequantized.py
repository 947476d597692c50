"""The judge of the quality benchmark against Salient's readers, and its statistics."""

import sys
from pathlib import Path

import pytest
import torch

from salient.core.quant import quantize
from salient.core.scheme import parse_scheme
from salient.formats import autoawq, compressed_tensors

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from dequantized import dequantized
from heldout_kl import nearest, ratio_interval


@pytest.mark.parametrize("layout", [autoawq, compressed_tensors])
@pytest.mark.parametrize("scheme", ["w4-g32", "w4-g64-sym"])
def test_the_judge_reads_what_salient_wrote(layout, scheme):
    torch.manual_seed(0)
    weight = quantize(torch.randn(24, 128), parse_scheme(scheme), name="w", dtype=torch.float16)
    parts = layout.pack(weight, torch.float16)
    assert dequantized(parts).equal(weight.dequantize())


def test_the_judge_reads_autogptq():
    torch.manual_seed(0)
    codes = torch.randint(0, 16, (64, 16))  # [in, out]
    zeros, scales = torch.randint(1, 16, (2, 16)), torch.rand(2, 16)
    shifts = 4 * torch.arange(8)
    qweight = (codes.view(8, 8, 16) << shifts[:, None]).sum(1).to(torch.int32)
    qzeros = (zeros.sub(1).view(2, 2, 8) << shifts).sum(2).to(torch.int32)
    groups = torch.arange(64) // 32
    parts = {"qweight": qweight, "qzeros": qzeros, "scales": scales, "g_idx": groups}
    expected = (scales[groups] * (codes - zeros[groups])).t()
    assert dequantized(parts).equal(expected)


def test_the_judge_reads_eight_bits():
    codes = torch.arange(256).view(2, 128)
    packed = (codes.view(2, 32, 4) << 8 * torch.arange(4)).sum(2).to(torch.int32)
    parts = {
        "weight_packed": packed,
        "weight_scale": torch.ones(2, 4),
        "weight_shape": torch.tensor([2, 128]),
    }
    assert dequantized(parts).equal(codes.float() - 128)


@pytest.mark.parametrize("scheme", ["w4-g32", "w4-g32-sym"])
def test_rounding_to_nearest_is_within_one_step(scheme):
    torch.manual_seed(0)
    weight = torch.randn(8, 64)
    error = (nearest(weight, parse_scheme(scheme)) - weight).abs().view(8, 2, 32).amax(2)
    span = weight.view(8, 2, 32).abs().amax(2) * 2 / 15
    assert (error <= span * 1.01).all()


def test_a_checkpoint_compared_with_itself_has_the_ratio_one():
    kl = torch.rand(16, dtype=torch.float64)
    assert ratio_interval([kl, kl], [kl, kl]) == pytest.approx((1, 1, 1))
    ratio, low, high = ratio_interval([kl / 2], [kl.roll(1)])
    assert low < ratio < high
