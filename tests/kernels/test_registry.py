"""Which kernel takes a layer, in what words, and that those which take it agree."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.tolerance import likely
from salient.core.errors import ModelError
from salient.core.options import option_fields
from salient.core.quant import QuantizedWeight, quantize
from salient.core.scheme import Scheme
from salient.kernels import registry as choosing
from salient.kernels.base import Layer, PackedWeight
from salient.kernels.cpu import CpuWeight
from salient.kernels.dense import ReferenceWeight
from salient.kernels.registry import (
    CROSSOVER_ROWS,
    FOREIGN,
    KERNELS,
    NEVER,
    dense_product,
    find_kernel,
    measured_crossover,
    select_kernel,
)
from salient.kernels.torch_int4 import TorchInt4Weight
from salient.kernels.triton import TritonWeight
from salient.runtime.options import RunOptions

CPU = torch.device("cpu")
# Activations, weights and outputs are each rounded once, by 1 / sqrt(3) of u in the mean.
IN_BFLOAT16 = likely(1, torch.bfloat16)


def layer_of(
    scheme: Scheme | None = None,
    dtype: torch.dtype = torch.float32,
    out: int = 64,
    device: torch.device = CPU,
) -> Layer:
    scheme = scheme or Scheme(32)
    return Layer(out, 2 * scheme.group_size, scheme, device, dtype)


def weight_of(layer: Layer, seed: int = 0) -> QuantizedWeight:
    built = torch.randn(layer.out, layer.width, generator=torch.Generator().manual_seed(seed))
    return quantize(built, layer.scheme, name="toy")


def rows_of(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1))


def off(actual: Tensor, wanted: Tensor) -> float:
    return float((actual.float() - wanted).abs().max() / wanted.abs().max())


@pytest.fixture
def no_cpu(monkeypatch):
    monkeypatch.setattr(CpuWeight, "unsupported", lambda layer: "it is not there today")


def test_find_kernel_returns_every_kernel_of_the_table():
    for name in KERNELS | FOREIGN:
        assert find_kernel(name).name == name


def test_an_unknown_kernel_lists_the_known_ones():
    known = rf"Unknown kernel 'fast'\. Known kernels: {', '.join(KERNELS | FOREIGN)}\.$"
    with pytest.raises(ModelError, match=known):
        select_kernel(layer_of(), "fast")


@pytest.mark.parametrize("name", ["dense", "reference"])
def test_a_kernel_selected_by_name_has_that_reason(name):
    choice = select_kernel(layer_of(), name)
    assert (choice.kernel.name, choice.why) == (name, "selected by name")


def test_a_named_kernel_that_does_not_support_a_layer_is_an_error_with_the_reason():
    message = (
        r"The kernel 'torch-int4' does not support a layer of 64 x 64: it is fast in bfloat16 "
        r"only, not in float32\. Use another, or 'auto'\."
    )
    with pytest.raises(ModelError, match=message):
        select_kernel(layer_of(), "torch-int4")


def test_the_first_supporting_kernel_is_the_fastest_on_this_device(monkeypatch):
    monkeypatch.setattr(CpuWeight, "unsupported", lambda layer: None)
    choice = select_kernel(layer_of())
    assert (choice.kernel.name, choice.why) == ("cpu", "the fastest on this device")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layer_of(dtype=torch.float16), "it is fast in bfloat16 only, not in float16"),
        (
            layer_of(Scheme(8), torch.bfloat16),
            "it takes group sizes 32, 64, 128, 256, not 8",
        ),
        (
            layer_of(Scheme(512), torch.bfloat16),
            "it takes group sizes 32, 64, 128, 256, not 512",
        ),
        (layer_of(Scheme(32, bits=8), torch.bfloat16), "it takes 4 bits, not 8"),
        (
            layer_of(dtype=torch.bfloat16, out=40),
            "it takes outputs in multiples of 16, not 40",
        ),
    ],
)
def test_every_reason_against_a_kernel_is_reported(layer, message, no_cpu):
    choice = select_kernel(layer)
    assert choice.kernel.name == "dense"
    assert choice.why == f"not cpu: it is not there today; not torch-int4: {message}"


def test_a_pytorch_without_the_operator_is_reported_with_its_version(no_cpu, monkeypatch):
    monkeypatch.setattr(torch.ops, "aten", object())
    choice = select_kernel(layer_of(dtype=torch.bfloat16))
    message = f"not torch-int4: PyTorch {torch.__version__} does not have it"
    assert choice.why == f"not cpu: it is not there today; {message}"


def test_reasons_on_a_gpu_omit_cpu_kernels(monkeypatch):
    monkeypatch.setattr(TritonWeight, "unsupported", lambda layer: "it is not there today")
    elsewhere = torch.device("cuda")
    choice = select_kernel(layer_of(dtype=torch.bfloat16, device=elsewhere))
    assert choice.kernel.name == "dense"
    assert choice.why == "not triton: it is not there today"
    assert TorchInt4Weight.unsupported(layer_of(device=elsewhere)) == (
        "it computes on the CPU, not on cuda"
    )


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_equals_the_definition_in_bfloat16(name):
    """A coarse law for all; the tests of each kernel have its own bounds."""
    kernel, reasons, compared = find_kernel(name), [], 0
    for scheme in (Scheme(32), Scheme(64, symmetric=True), Scheme(16, bits=8)):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            layer = layer_of(scheme, dtype, out=48)
            if reason := kernel.unsupported(layer):
                reasons.append(reason)
                continue
            weight, x = weight_of(layer), rows_of(5, layer.width)
            built, reference = kernel(weight, layer), ReferenceWeight(weight, layer)
            actual = built(x.to(dtype))
            assert (actual.dtype, actual.shape) == (dtype, (5, 48))
            assert off(actual, reference(x)) < IN_BFLOAT16
            full = reference.dequantize(torch.float32)
            assert off(built.dequantize(torch.float32), full) < IN_BFLOAT16
            assert built.bytes > 0
            compared += 1
    if not compared:
        pytest.skip(reasons[0])


def test_the_option_and_the_documentation_name_every_kernel():
    spec = next(field.option for field in option_fields(RunOptions) if field.name == "kernel")
    chapter = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    for name in KERNELS.keys() - {"reference"}:
        assert name in spec.help, "the option `kernel` of src/salient/runtime/options.py"
        assert f"`{name}`" in chapter, "docs/serve.md, Kernels"


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [32, 64, 128, 256])
def test_torch_int4_equals_the_definition(group, symmetric):
    layer = layer_of(Scheme(group, symmetric), torch.bfloat16, out=48)
    kernel = TorchInt4Weight
    if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
        pytest.skip(str(kernel.unsupported(layer)))
    assert kernel.unsupported(layer) is None
    weight = weight_of(layer)
    built, reference = kernel(weight, layer), ReferenceWeight(weight, layer)
    for rows in (1, 2, 5, 17):
        x = rows_of(rows, layer.width)
        actual = built(x.bfloat16())
        assert actual.dtype == torch.bfloat16
        assert off(actual, reference(x)) < IN_BFLOAT16
        assert built(x[None]).shape == (1, rows, 48)
    assert built(torch.ones(0, layer.width)).shape == (0, 48)
    assert built(torch.ones(layer.width)).shape == (48,)
    assert torch.equal(built.dequantize(torch.float32), reference.dequantize(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scheme", [Scheme(8), Scheme(32, symmetric=True), Scheme(16, bits=8)])
def test_dense_equals_the_definition_and_supports_every_layer(scheme, dtype):
    layer = layer_of(scheme, dtype, out=21)
    weight, kernel = weight_of(layer), find_kernel("dense")
    assert kernel.unsupported(layer) is None
    built, reference = kernel(weight, layer), ReferenceWeight(weight, layer)
    x = rows_of(5, layer.width)
    assert built(x.to(dtype)).dtype == dtype
    assert off(built(x.to(dtype)), reference(x)) < likely(1, dtype) + likely(layer.width)
    assert torch.equal(built.dequantize(dtype), reference.dequantize(dtype))


def test_kernels_report_their_memory():
    layer = layer_of(Scheme(32), torch.bfloat16)
    weight = weight_of(layer)
    codes = layer.out * layer.width
    dense, reference = (find_kernel(name)(weight, layer).bytes for name in ("dense", "reference"))
    assert dense == 2 * codes
    assert reference == codes + (4 + 1) * weight.scale.numel()


def test_a_kernel_without_row_views_returns_none():
    layer = layer_of()
    assert find_kernel("reference")(weight_of(layer), layer).rows(0, 16) is None


# At how many rows a dense product overtakes


@pytest.mark.parametrize("name", ["reference", "dense"])
def test_a_dense_product_is_the_kernels(name):
    layer = layer_of()
    built = find_kernel(name)(weight_of(layer), layer)
    x = rows_of(6, layer.width)
    assert off(dense_product(built, x, torch.float32), built(x)) < 2 * likely(layer.width)
    half = dense_product(built, x, torch.bfloat16)
    assert half.dtype == torch.float32
    assert 0 < off(half, built(x)) < IN_BFLOAT16


@pytest.mark.parametrize("name", ["dense", "reference"])
def test_dense_kernels_have_no_crossover(name):
    layer = layer_of()
    built = find_kernel(name)(weight_of(layer), layer)
    assert measured_crossover(built, CPU) == (NEVER, torch.float32)


def test_the_crossover_is_measured_and_is_a_number_of_rows_or_never(monkeypatch):
    layer = layer_of()
    built = find_kernel("reference")(weight_of(layer), layer)
    monkeypatch.setattr(built, "name", "cpu")
    rows, dtype = measured_crossover(built, CPU)
    assert rows in (*CROSSOVER_ROWS, NEVER)
    assert dtype in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("dense_seconds", "wanted"),
    [
        (0.5, (16, torch.bfloat16)),  # faster at once
        (0.9, (NEVER, torch.float32)),  # faster, but not by the margin
        (2.0, (NEVER, torch.float32)),
    ],
)
def test_a_dense_product_must_be_faster_by_a_margin(dense_seconds, wanted, monkeypatch):
    def seconds(work):
        return dense_seconds if "d" in work.__code__.co_varnames else 1.0

    monkeypatch.setattr(choosing, "_seconds", seconds)
    layer = layer_of()
    built: PackedWeight = find_kernel("reference")(weight_of(layer), layer)
    monkeypatch.setattr(built, "name", "cpu")
    assert measured_crossover(built, CPU) == wanted
