"""The triton programs compile to machine code for GPUs that are not here, and fit them.

Triton brings its own compilers. What the launching code hands over is recorded and compiled for
each kind of GPU: the interpreter cannot tell whether a program fits the shared memory, or whether
its PTX is accepted.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from salient.core.quant import quantize
from salient.core.scheme import Scheme
from salient.kernels import triton_launch
from salient.kernels.base import Layer
from salient.kernels.triton import TritonWeight

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
# Triton's target, kind of settings, bytes of shared memory that a program may take there
GPUS = {
    "ampere": (("cuda", 80, 32), "nvidia", 99 * 1024),  # what cards of 8.6 and 8.9 have
    "hopper": (("cuda", 90, 32), "hopper", 227 * 1024),
    "mi300": (("hip", "gfx942", 64), "amd", 64 * 1024),
}
CASES = [  # rows, group size, dtype
    (1, 128, torch.bfloat16),
    (16, 64, torch.float16),
    (300, 128, torch.bfloat16),
    (2, 24, torch.bfloat16),  # a scale and a zero for each code
]
POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}
POINTERS |= {torch.int16: "*i16", torch.int32: "*i32"}


@dataclass
class Recorder:
    """Stands for the module of programs: notes launches instead of making them."""

    launches: list[tuple[str, tuple, dict[str, Any]]]

    def __getattr__(self, name: str):
        class Program:
            def __getitem__(_, grid):
                assert all(size > 0 for size in grid)
                return lambda *args, **options: self.launches.append((name, args, options))

        return Program()


def launches(rows: int, group_size: int, dtype: torch.dtype, monkeypatch) -> list:
    """What a layer of few outputs launches for `rows` rows, in parts, and to dequantize."""
    out, width, scheme = 64, 32 * 128 if group_size % 24 else 36 * 128, Scheme(group_size)
    weight = quantize(torch.randn(out, width), scheme, name="w", dtype=dtype)
    packed = TritonWeight(weight, Layer(out, width, scheme, torch.device("cpu"), dtype))
    recorder = Recorder([])
    monkeypatch.setattr(triton_launch, "_programs", lambda: recorder)
    packed(torch.randn(rows, width).to(dtype))
    packed.dequantize(dtype)
    return recorder.launches


def compiled(launch: tuple, target: tuple) -> Any:
    """Machine code of one launch for `target`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from salient.kernels import triton_kernels

    name, args, options = launch
    program = getattr(triton_kernels, name)
    built = {key: options[key] for key in ("num_warps",)}
    constants = {key: value for key, value in options.items() if key not in built}
    signature = dict.fromkeys(program.arg_names, "constexpr")
    aligned = {}
    for place, value in enumerate(args):
        tensor = isinstance(value, torch.Tensor)
        signature[program.arg_names[place]] = POINTERS[value.dtype] if tensor else "i32"
        if tensor or value % 16 == 0:
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(program, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget(*target), options=built)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Where Triton keeps what it compiled: some cases have a program in common."""
    return tmp_path_factory.mktemp("programs")


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize(("rows", "group_size", "dtype"), CASES)
def test_every_program_compiles_and_fits(gpu, rows, group_size, dtype, monkeypatch, programs):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(programs))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    target, kind, shared = GPUS[gpu]
    monkeypatch.setattr(triton_launch, "settings_of", lambda _: triton_launch.KINDS[kind])
    monkeypatch.setattr(torch.version, "hip", "7" if target[0] == "hip" else None)
    noted = launches(rows, group_size, dtype, monkeypatch)
    assert {"dequantize"} < {name for name, *_ in noted}
    for launch in noted:
        built = compiled(launch, target)
        assert built.metadata.shared <= shared, launch[0]
        if target[0] == "cuda" and launch[0] in ("narrow", "wide"):
            assert "mma" in built.asm["ptx"], "no tensor cores"
            if group_size % 16 == 0 and (launch[0] == "narrow" or gpu == "hopper"):
                assert "ttg.local_alloc %" not in built.asm["ttgir"], "codes went back to memory"
