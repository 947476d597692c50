"""Floats judged by their bits agree with numpy's own predicates, in any pieces."""

import numpy as np
import pytest

from salient.core.model_files import StoredTensor
from salient.diagnose.checkpoint.code_values import WINDOW, zero_tail
from salient.diagnose.checkpoint.scale_values import ScaleSummary
from salient.diagnose.checkpoint.tensor_reader import TensorReader

KINDS = ("NaN", "Inf", "zero", "negative", "subnormal")


def floats(bits, dtype):
    """The numbers that `bits` mean."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float16 if dtype == "F16" else np.float32)


def by_numpy(values, dtype):
    """The same counts from numbers instead of bits."""
    least = float(np.finfo(np.float16 if dtype == "F16" else np.float32).smallest_normal)
    finite = np.isfinite(values)
    return {
        "NaN": np.isnan(values),
        "Inf": np.isinf(values),
        "zero": values == 0,
        "negative": finite & (values < 0),
        "subnormal": finite & (values != 0) & (np.abs(values) < least),
    }


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_16_bit_float_is_judged_as_by_numpy(dtype):
    bits = np.arange(2**16, dtype=np.uint16)
    summary = ScaleSummary(dtype)
    summary.add(bits.tobytes(), 0)
    expected = by_numpy(floats(bits, dtype), dtype)
    assert summary.counts == {kind: int(expected[kind].sum()) for kind in KINDS}
    assert summary.first == {kind: int(expected[kind].argmax()) for kind in KINDS}


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("seed", range(5))
def test_pieces_make_no_difference(dtype, seed):
    rng = np.random.default_rng(seed)
    kind = np.uint32 if dtype == "F32" else np.uint16
    bits = rng.integers(0, np.iinfo(kind).max, 3000, kind, endpoint=True)
    bits[rng.integers(0, 3000, 20)] = 0
    whole, cut = ScaleSummary(dtype), ScaleSummary(dtype)
    whole.add(bits.tobytes(), 0)
    for start in range(0, 3000, 700):
        cut.add(bits[start : start + 700].tobytes(), start)
    expected = by_numpy(floats(bits, dtype), dtype)
    assert whole.counts == {k: int(v.sum()) for k, v in expected.items() if v.any()}
    assert (cut.counts, cut.first, cut.zeros, cut.largest) == (
        whole.counts,
        whole.first,
        whole.zeros,
        whole.largest,
    )


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_plain_scales_have_their_largest_and_their_median(dtype):
    values = np.linspace(1e-3, 2e-3, 999, dtype=np.float32)
    values[7] = 50
    bits = values.view(np.uint32)
    if dtype != "F32":
        bits = values.astype(np.float16).view(np.uint16) if dtype == "F16" else bits >> 16
    summary = ScaleSummary(dtype)
    summary.add(bits.astype(np.uint32 if dtype == "F32" else np.uint16).tobytes(), 0)
    assert summary.counts == {}
    assert summary.largest == pytest.approx(50, rel=1e-2)
    assert summary.usual == pytest.approx(1.5e-3, rel=1e-2)


@pytest.mark.parametrize(("zeros", "least", "most"), [(0, 0, 0), (0.5, 0.4, 0.6), (1, 1, 1)])
def test_zeros_at_the_end_of_a_tensor_are_measured_by_samples(tmp_path, zeros, least, most):
    size = 64 * WINDOW
    data = np.full(size, 7, np.uint8)
    data[size - int(size * zeros) :] = 0
    (tmp_path / "t").write_bytes(data.tobytes())
    tensor = StoredTensor("t", "I32", (size // 4,), tmp_path / "t", 0, size)
    with TensorReader() as reader:
        assert least <= zero_tail(tensor, reader) <= most
