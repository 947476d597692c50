"""The C++ kernels: equal to the definition on every shape; a row gives the same wherever it is."""

import ctypes
import platform
import shutil
import subprocess

import pytest
import torch
from torch import Tensor, nn

from helpers.tolerance import assert_within, coded_product, unit_roundoff, worst
from salient.core.quant import QuantizedWeight, quantize
from salient.core.scheme import Scheme
from salient.kernels import cpu, cpu_library
from salient.kernels.base import Layer
from salient.kernels.cpu import CpuWeight
from salient.kernels.cpu_library import SOURCES, Library, NotBuilt, built_library, load_library
from salient.kernels.dense import ReferenceWeight
from salient.kernels.registry import select_kernel
from salient.runtime.linear import HalfLinear

LIBRARY = load_library()
needs_compiler = pytest.mark.skipif(isinstance(LIBRARY, str), reason=str(LIBRARY))
CPU = torch.device("cpu")
ROWS = (1, 2, 3, 4, 5, 7, 8, 33, 130)
OUTS = (16, 21, 48, 100)
GROUPS = (8, 24, 32, 64, 128, 320, 1024)


def layer(scheme: Scheme, dtype: torch.dtype = torch.float32, out: int = 64) -> Layer:
    return Layer(out, 4 * scheme.group_size, scheme, CPU, dtype)


def weight_of(out: int, scheme: Scheme, groups: int = 3, seed: int = 0) -> QuantizedWeight:
    seeded = torch.Generator().manual_seed(seed)
    built = torch.randn(out, groups * scheme.group_size, generator=seeded)
    return quantize(built + 0.1, scheme, name="toy")


def rows_of(rows: int, width: int) -> Tensor:
    """Rows of very different sizes."""
    seeded = torch.Generator().manual_seed(1)
    x = torch.randn(rows, width, generator=seeded)
    return x * torch.logspace(-3, 3, rows)[:, None]


def packed(weight: QuantizedWeight, library: object = LIBRARY) -> CpuWeight:
    assert isinstance(library, Library)
    return CpuWeight(weight, layer(weight.scheme), library)


def off(actual: Tensor, wanted: Tensor) -> float:
    """The largest difference of a row, relative to the row's largest output."""
    return float(((actual - wanted).abs().amax(-1) / wanted.abs().amax(-1)).max())


@pytest.fixture(scope="module")
def plain() -> Library:
    if isinstance(LIBRARY, str):
        pytest.skip(LIBRARY)
    return Library(str(built_library(("-DSALIENT_PLAIN",))))


@pytest.fixture
def forgetful(monkeypatch):
    """Nothing remembered of a library, neither before the test nor after it."""
    caches = (built_library, load_library, cpu._fails)
    for cached in caches:
        cached.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


# Equal to the definition


@needs_compiler
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_every_shape_equals_the_definition(group, symmetric):
    scheme = Scheme(group, symmetric)
    for out in OUTS:
        weight = weight_of(out, scheme)
        built, reference = packed(weight), ReferenceWeight(weight, layer(weight.scheme))
        x = rows_of(max(ROWS), built.width)
        wanted = reference(x)
        for rows in ROWS:
            assert off(built(x[:rows]), wanted[:rows]) < coded_product()


@needs_compiler
@pytest.mark.parametrize("group", GROUPS)
def test_the_dequantized_weight_equals_the_definition_bit_for_bit(group):
    for out in OUTS:
        weight = weight_of(out, Scheme(group))
        for dtype in (torch.float32, torch.bfloat16):
            actual = packed(weight).dequantize(dtype)
            assert torch.equal(
                actual, ReferenceWeight(weight, layer(weight.scheme)).dequantize(dtype)
            )


@needs_compiler
def test_swapped_inputs_exceed_the_tolerance():
    """What the law above is worth: two inputs of one group swapped are far off."""
    weight = weight_of(48, Scheme(32))
    swapped = weight.codes.clone()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    x = rows_of(4, weight.codes.shape[1])
    wrong = packed(QuantizedWeight(swapped, weight.scale, weight.zero, weight.scheme))
    assert off(wrong(x), ReferenceWeight(weight, layer(weight.scheme))(x)) > 1e-2


@needs_compiler
@pytest.mark.parametrize("group", [32, 320])
def test_plain_cpp_equals_vector_instructions(group, plain):
    weight = weight_of(100, Scheme(group))
    x = rows_of(7, weight.codes.shape[1])
    assert plain.instructions == "plain C++"
    # of each of 3 groups 4 roundings; together they are at most 3 times the largest output
    assert off(packed(weight, plain)(x), packed(weight)(x)) < 3 * worst(12)
    actual, wanted = (packed(weight, lib).dequantize(torch.float32) for lib in (plain, LIBRARY))
    assert torch.equal(actual, wanted)


# A row is a row


@needs_compiler
def test_a_row_has_the_same_bits_in_any_batch():
    weight = weight_of(100, Scheme(64))
    built, x = packed(weight), rows_of(130, weight.codes.shape[1])
    alone = torch.cat([built(row[None]) for row in x])
    for rows in ROWS:
        assert torch.equal(built(x[:rows]), alone[:rows])
        assert torch.equal(built(x[-rows:]), alone[-rows:])


@needs_compiler
def test_the_number_of_threads_changes_no_bit():
    weight = weight_of(100, Scheme(64))
    built, x = packed(weight), rows_of(70, weight.codes.shape[1])
    before = torch.get_num_threads()
    try:
        actual = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            actual.append(
                torch.cat((built(x), built(x[:1]), built.dequantize(torch.float32)[:, :100]))
            )
    finally:
        torch.set_num_threads(before)
    assert torch.equal(actual[0], actual[1])
    assert torch.equal(actual[0], actual[2])


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_value_affects_only_its_own_row(bad):
    weight = weight_of(48, Scheme(32))
    x = rows_of(6, weight.codes.shape[1])
    wanted = packed(weight)(x)
    x[2, 40] = bad
    actual = packed(weight)(x)
    assert not actual[2].isfinite().any()
    others = [0, 1, 3, 4, 5]
    assert torch.equal(actual[others], wanted[others])


@needs_compiler
def test_a_row_of_zeros_gives_zeros():
    weight = weight_of(48, Scheme(32))
    assert torch.equal(packed(weight)(torch.zeros(2, 96)), torch.zeros(2, 48))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_activations_give_outputs_of_their_dtype(dtype):
    weight = weight_of(48, Scheme(32))
    x = rows_of(5, 96)[None].to(dtype) / 100
    actual = packed(weight)(x)
    assert actual.dtype == dtype
    assert actual.shape == (1, 5, 48)
    wanted = ReferenceWeight(weight, layer(weight.scheme))(x.float())[0]
    assert off(actual[0].float(), wanted) < unit_roundoff(dtype) + coded_product()


@needs_compiler
def test_leading_shapes_are_preserved_even_without_rows():
    built = packed(weight_of(21, Scheme(8)))
    assert built(torch.ones(24)).shape == (21,)
    assert built(torch.ones(0, 24)).shape == (0, 21)
    assert built(torch.ones(2, 3, 24)).shape == (2, 3, 21)
    across = rows_of(4, 48)[:, ::2]
    assert torch.equal(built(across), built(across.contiguous()))


# Parts of a weight


@needs_compiler
def test_rows_of_a_weight_share_its_memory_and_give_its_slice():
    weight = weight_of(100, Scheme(32))
    built, x = packed(weight), rows_of(5, 96)
    for start, stop in ((0, 32), (32, 48), (48, 100), (0, 100)):
        part = built.rows(start, stop)
        assert part is not None
        first, last = built.codes.data_ptr(), built.codes.data_ptr() + built.codes.numel()
        assert first <= part.codes.data_ptr() < last
        assert torch.equal(part(x), built(x)[:, start:stop])
        assert torch.equal(part.dequantize(torch.float32), weight.dequantize()[start:stop])


@needs_compiler
@pytest.mark.parametrize(("start", "stop"), [(8, 32), (0, 40), (32, 99)])
def test_no_view_may_cut_a_block(start, stop):
    assert packed(weight_of(100, Scheme(32))).rows(start, stop) is None


# 16-bit weights


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("width", [1, 7, 64, 100, 257])
def test_a_16_bit_weight_is_close_to_float64(dtype, width):
    seeded = torch.Generator().manual_seed(0)
    for out in (1, 2, 3, 50):
        weight = torch.randn(out, width, generator=seeded).to(dtype)
        bias = torch.randn(out, generator=seeded)
        linear = HalfLinear(
            nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
        )
        x = torch.randn(9, width, generator=seeded)
        wanted = x.double() @ weight.double().t() + bias
        size = x.double().abs() @ weight.double().abs().t() + bias.abs()
        for rows in (1, 2, 3, 9):
            actual = linear(x[None, :rows])[0]
            assert_within(actual, wanted[:rows], worst(width + 2) * size[:rows])
            assert torch.equal(actual, linear(x)[:rows])


# Where it runs


@pytest.mark.parametrize("march", ["skylake-avx512", "icelake-server", "x86-64"])
def test_the_source_compiles_for_other_processors(march, tmp_path):
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("not on an x86 processor")
    if shutil.which("g++") is None:
        pytest.skip("no g++ is installed")
    command = ["g++", "-std=c++17", "-O0", "-fopenmp", f"-march={march}", "-c"]
    source = str(SOURCES / "native.cpp")
    built = subprocess.run(
        [*command, source, "-o", str(tmp_path / "native.o")], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr


@needs_compiler
def test_the_library_reports_its_instruction_set():
    assert isinstance(LIBRARY, Library)
    assert LIBRARY.instructions in ("plain C++", "AVX2", "AVX-512", "AVX-512 VNNI")


@pytest.mark.parametrize(
    ("scheme", "device", "message"),
    [
        (Scheme(32, bits=8), CPU, "it takes 4 bits, not 8"),
        (Scheme(12), CPU, "multiples of 8, not 12"),
        (Scheme(32), torch.device("meta"), "on the CPU, not on meta"),
    ],
)
def test_an_unsupported_layer_has_a_reason(scheme, device, message):
    refused = CpuWeight.unsupported(Layer(64, 64, scheme, device, torch.float32))
    assert refused is not None
    assert message in refused


def test_without_a_compiler_another_kernel_is_selected_with_the_reason(forgetful):
    forgetful.setenv("CXX", "no-such-compiler")
    refused = CpuWeight.unsupported(layer(Scheme(32)))
    assert refused is not None
    assert "no C++ compiler" in refused
    for dtype, kernel in ((torch.bfloat16, "torch-int4"), (torch.float32, "dense")):
        choice = select_kernel(layer(Scheme(32), dtype))
        assert choice.kernel.name == kernel
        assert f"not cpu: {refused}" in choice.why
    assert "not torch-int4: it is fast in bfloat16 only, not in float32" in choice.why


def test_an_empty_path_has_no_compiler(forgetful, tmp_path):
    forgetful.delenv("CXX", raising=False)
    forgetful.setenv("PATH", str(tmp_path))
    with pytest.raises(NotBuilt, match=r"no C\+\+ compiler \(c\+\+, g\+\+, clang\+\+, or what CXX"):
        built_library()


@needs_compiler
def test_a_compiler_that_fails_is_quoted(forgetful, tmp_path):
    forgetful.setenv("SALIENT_CACHE", str(tmp_path))
    with pytest.raises(NotBuilt, match=r"cannot build them \(.*error: .*"):
        built_library(("-include", "no-such-header.h"))
    assert not list((tmp_path / "kernels").iterdir())


@needs_compiler
def test_a_cache_that_cannot_be_written_is_named(forgetful, tmp_path):
    (tmp_path / "file").write_text("")
    forgetful.setenv("SALIENT_CACHE", str(tmp_path / "file"))
    with pytest.raises(NotBuilt, match=r"file/kernels cannot be written"):
        built_library()


@needs_compiler
def test_it_is_built_once_and_again_when_the_flags_change(forgetful, tmp_path):
    forgetful.setenv("SALIENT_CACHE", str(tmp_path))
    forgetful.setattr(
        cpu_library, "_build", lambda compiler, extra, library: library.write_text("built")
    )
    first = built_library()
    assert first.read_text() == "built"
    first.write_text("kept")
    built_library.cache_clear()
    assert built_library().read_text() == "kept"
    assert built_library(("-DOTHER",)) != first


@needs_compiler
def test_a_damaged_library_is_a_reason_and_no_crash(forgetful, tmp_path):
    forgetful.setenv("SALIENT_CACHE", str(tmp_path))
    forgetful.setattr(
        cpu_library, "_build", lambda compiler, extra, library: library.write_text("no")
    )
    refused = CpuWeight.unsupported(layer(Scheme(32)))
    assert refused is not None
    assert "cannot be loaded" in refused


@needs_compiler
@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_a_library_that_computes_wrongly_is_refused(wrong, forgetful):
    library = load_library()
    assert isinstance(library, Library)
    right = library.multiply
    forgetful.setattr(library, "multiply", lambda *args: right(*args) * wrong)
    refused = CpuWeight.unsupported(layer(Scheme(32)))
    assert refused is not None
    assert "built for this processor, its results differ by" in refused
    assert select_kernel(layer(Scheme(32))).kernel.name == "dense"


@needs_compiler
def test_the_structs_are_as_large_as_in_cpp():
    """A field too many or too few on either side moves all that follow it."""
    from salient.kernels.cpu_library import AttentionC, BatchC, BlockC, LinearC, MlpC

    assert ctypes.sizeof(LinearC) == 64
    assert ctypes.sizeof(BlockC) == ctypes.sizeof(AttentionC) + ctypes.sizeof(MlpC)
    assert ctypes.sizeof(BatchC) == 11 * 8
