"""Laws of the triton kernel, on whatever runs its programs: a GPU, or Triton's interpreter.

`test_triton.py` runs this file in a process of its own, because TRITON_INTERPRET must be set before
triton is imported. By hand: TRITON_INTERPRET=1 pytest tests/kernels/triton_laws.py
"""

import os

import pytest
import torch
from torch import Tensor

from salient.core.errors import ModelError
from salient.core.quant import QuantizedWeight, quantize
from salient.core.scheme import Scheme
from salient.kernels import triton_launch
from salient.kernels.base import Layer
from salient.kernels.dense import ReferenceWeight
from salient.kernels.triton import TritonWeight, exact_in

torch.set_num_threads(1)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
DTYPES = (torch.float16, torch.bfloat16)
# One rounding of the result and one of each weight; the interpreter cuts bfloat16 off instead,
# which is off by twice as much, and to one side.
EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float16, torch.bfloat16)}
TOLERANCE = EPS | ({torch.bfloat16: 2.5 * EPS[torch.bfloat16]} if INTERPRETED else {})
ROWS = (1, 7, 9, 33)
# out and width are multiples of no tile, of some, of all
SHAPES = [(1, 24, 24), (17, 200, 8), (50, 96, 24), (66, 128, 64)]
# The interpreter takes seconds where a GPU takes milliseconds
TYPED = SHAPES[1:3] if INTERPRETED else SHAPES[1:]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_symmetry = pytest.mark.parametrize("symmetric", [False, True], ids=["zeros", "symmetric"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantized(out: int, width: int, scheme: Scheme, dtype: torch.dtype) -> QuantizedWeight:
    weight = quantize(random(out, width), scheme, name="w", dtype=dtype)
    return QuantizedWeight(
        *(t.to(DEVICE) for t in (weight.codes, weight.scale, weight.zero)), scheme
    )


def both(
    out: int, width: int, scheme: Scheme, dtype: torch.dtype, q: QuantizedWeight | None = None
):
    """The weight as the triton kernel and as the reference hold it."""
    q = q or quantized(out, width, scheme, dtype)
    layer = Layer(out, width, scheme, DEVICE, dtype)
    assert TritonWeight.unsupported(layer) is None
    return TritonWeight(q, layer), ReferenceWeight(q, layer)


def inputs(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    return random(rows, width, seed=rows).to(DEVICE, dtype)


def assert_close(y: Tensor, expected: Tensor) -> None:
    assert y.dtype == expected.dtype
    assert y.shape == expected.shape
    assert torch.isfinite(y).all()
    off = (y.double() - expected.double()).norm() / expected.double().norm()
    assert off <= TOLERANCE[y.dtype]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("out", "width", "group_size"), SHAPES)
def test_every_shape_equals_the_reference(out, width, group_size, rows):
    ours, reference = both(out, width, Scheme(group_size), torch.float16)
    x = inputs(rows, width, torch.float16)
    assert_close(ours(x), reference(x))


@each_dtype
@each_symmetry
@pytest.mark.parametrize(("out", "width", "group_size"), TYPED)
def test_every_type_and_symmetry_equals_the_reference(out, width, group_size, symmetric, dtype):
    ours, reference = both(out, width, Scheme(group_size, symmetric), dtype)
    for rows in (2, 17):
        x = inputs(rows, width, dtype)
        assert_close(ours(x), reference(x))


@pytest.mark.parametrize("group_size", [8, 16, 20, 96])
def test_every_group_size_that_divides_equals_the_reference(group_size):
    ours, reference = both(20, 480, Scheme(group_size), torch.float16)
    for rows in (3, 17):
        x = inputs(rows, 480, torch.float16)
        assert_close(ours(x), reference(x))


@each_symmetry
@pytest.mark.parametrize(("out", "width", "group_size"), TYPED)
def test_the_weight_comes_back_to_the_bit(out, width, group_size, symmetric):
    ours, reference = both(out, width, Scheme(group_size, symmetric), torch.float16)
    for dtype in (torch.float32, torch.float16):
        assert torch.equal(ours.dequantize(dtype), reference.dequantize(dtype))
    built, expected = (w.dequantize(torch.bfloat16) for w in (ours, reference))
    if INTERPRETED:  # it cuts off where a GPU rounds
        assert ((built - expected).abs() <= 2**-7 * expected.abs()).all()
    else:
        assert torch.equal(built, expected)


@each_dtype
def test_no_rows_give_no_rows(dtype):
    ours, _ = both(17, 96, Scheme(32), dtype)
    assert ours(inputs(0, 96, dtype)).shape == (0, 17)
    assert ours(torch.empty(2, 0, 96, dtype=dtype, device=DEVICE)).shape == (2, 0, 17)


def test_leading_dimensions_are_preserved():
    ours, reference = both(17, 96, Scheme(32), torch.float16)
    x = inputs(6, 96, torch.float16)
    for shape in ((2, 3, 96), (3, 1, 2, 96), (6, 96)):
        assert torch.equal(ours(x.view(shape)), ours(x).view(*shape[:-1], 17))
    assert_close(ours(x[0]), reference(x[0]))
    wider = inputs(6, 192, torch.float16)[:, ::2]
    assert torch.equal(ours(wider), ours(wider.contiguous()))


@each_dtype
@pytest.mark.parametrize(("out", "width", "group_size"), SHAPES[1:3])
def test_uninitialized_memory_affects_no_result(out, width, group_size, dtype, monkeypatch):
    ours, reference = both(out, width, Scheme(group_size), dtype)
    new_empty = Tensor.new_empty

    def poisoned(self, *shape, **options):
        built = new_empty(self, *shape, **options)
        return built.fill_(float("nan")) if built.is_floating_point() else built

    monkeypatch.setattr(Tensor, "new_empty", poisoned)
    for rows in (1, 17):
        around = torch.full((rows + 2, width), float("nan"), dtype=dtype, device=DEVICE)
        around[1:-1] = inputs(rows, width, dtype)
        x = around[1:-1]  # NaN before and after it
        assert_close(ours(x), reference(x))
    assert torch.isfinite(ours.dequantize(dtype)).all()


@each_dtype
def test_padding_affects_no_result(dtype):
    out, width = 50, 96
    ours, reference = both(out, width, Scheme(32), dtype)
    packed = ours.packed.view(2, 4, 8, 4, 2, 4)  # [inputs, outputs, 8, 4, high bit of output, 4]
    packed[1, ..., :] |= -(1 << 8)  # of the second 64 inputs, planes 2 and 3 are beyond 96
    packed[:, 3, 2:, :, 0] = packed[:, 3, :, :, 1] = -1  # outputs 50 to 55 and 56 to 63
    scale = ours.scale.view(ours.scale_dtype)
    scale[:, out:] = float("nan")
    for rows in (1, 9, 33):
        x = inputs(rows, width, dtype)
        assert_close(ours(x), reference(x))


@each_dtype
def test_inputs_and_weights_are_not_modified(dtype):
    ours, _ = both(17, 96, Scheme(32), dtype)
    x = inputs(5, 96, dtype)
    before = [t.clone() for t in (x, *ours.buffers())]
    ours(x)
    ours.dequantize(dtype)
    for now, then in zip((x, *ours.buffers()), before, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("rows", [16] if INTERPRETED else [1, 16, 33])
def test_the_same_inputs_give_the_same_bits(rows):
    ours, _ = both(72, 512, Scheme(128), torch.float16)
    x = inputs(rows, 512, torch.float16)
    first = ours(x)
    assert all(torch.equal(first, ours(x)) for _ in range(1 if INTERPRETED else 100))


@pytest.mark.parametrize(("processors", "rows"), [(1, 33), (1000, 1), (1000, 33)])
def test_cutting_the_inputs_in_parts_changes_only_the_order_of_sums(processors, rows, monkeypatch):
    monkeypatch.setattr(triton_launch, "processors", lambda _: processors)
    ours, reference = both(20, 1152, Scheme(128), torch.float16)
    x = inputs(rows, 1152, torch.float16)
    assert_close(ours(x), reference(x))


@each_dtype
def test_many_rows_take_the_dequantized_weight(dtype, monkeypatch):
    monkeypatch.setattr(triton_launch, "MOST_ROWS", 4)
    ours, reference = both(40, 192, Scheme(64), dtype)
    x = inputs(5, 192, dtype)
    assert_close(ours(x), reference(x))
    assert torch.equal(ours(x), x @ ours.dequantize(dtype).T)


@pytest.mark.parametrize(
    ("scales", "stored"),
    [
        ((1.0, 0.5), torch.bfloat16),  # exact in both: the activations' own
        ((1 + 2**-10, 0.5), torch.float16),  # too fine for bfloat16
        ((2.0**-40, 2.0**100), torch.bfloat16),  # too far apart for float16
        ((1 + 2**-20, 0.5), torch.float32),
    ],
)
def test_scales_are_stored_in_the_smallest_exact_type(scales, stored):
    q = quantized(20, 64, Scheme(32), torch.float16)
    scale = torch.tensor(scales).expand(20, 2).contiguous().to(DEVICE)
    q = QuantizedWeight(q.codes, scale, q.zero, q.scheme)
    assert exact_in(scale, torch.bfloat16) == stored
    ours, reference = both(20, 64, q.scheme, torch.bfloat16, q)
    assert ours.scale_dtype == stored
    assert torch.equal(ours.dequantize(torch.float32), reference.dequantize(torch.float32))
    for rows in (1, 20):
        x = inputs(rows, 64, torch.bfloat16)
        assert_close(ours(x), reference(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int8], ids=str)
def test_other_types_are_refused_with_a_message(dtype):
    ours, _ = both(17, 96, Scheme(32), torch.float16)
    with pytest.raises(ModelError, match=f"not {dtype}. Run the model in one of these"):
        ours(torch.zeros(1, 96, dtype=dtype, device=DEVICE))


def test_a_change_of_the_modules_type_rounds_nothing():
    ours, reference = both(17, 96, Scheme(32), torch.float16)
    ours.to(torch.bfloat16)
    assert torch.equal(ours.dequantize(torch.float32), reference.dequantize(torch.float32))


def test_compilation_has_no_graph_break():
    ours, _ = both(17, 96, Scheme(32), torch.float16)
    compiled = torch.compile(lambda x: ours(x * 2) + 1, fullgraph=True, backend="aot_eager")
    x = inputs(33, 96, torch.float16)
    assert torch.equal(compiled(x), ours(x * 2) + 1)


def test_the_fake_operators_return_the_real_shapes_and_types():
    ours, _ = both(17, 96, Scheme(32), torch.float16)
    checks = ("test_schema", "test_faketensor")
    x, stored = inputs(3, 96, torch.float16), ours._operands()
    torch.library.opcheck(torch.ops.salient.matmul_w4.default, (x, *stored), test_utils=checks)
    built = (*stored, 96, torch.bfloat16)
    torch.library.opcheck(torch.ops.salient.dequantize_w4.default, built, test_utils=checks)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter has no graphs")
@pytest.mark.parametrize("rows", [1, 16, 33])
def test_a_graph_replays_what_was_captured(rows):
    ours, _ = both(72, 512, Scheme(128), torch.float16)
    x = inputs(rows, 512, torch.float16)
    expected = ours(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = ours(x)
    y.fill_(float("nan"))
    graph.replay()
    assert torch.equal(y, expected)
