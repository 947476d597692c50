"""The C++ kernels: built into the cache, once, and bound through ctypes.

Built where they run, they use all instructions of the processor (AVX2, AVX-512 VNNI, NEON). Structs
and functions are those of cpp/*.h.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salient.core.system import cache_folder

SOURCES = Path(__file__).parent / "cpp"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-w")
# Tried in turn: Apple's clang has no OpenMP of its own, old compilers for Arm no -march=native.
TRIES = (
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-march=native",),
    ("-mcpu=native",),
    (),
)
LONGEST_BUILD = 300  # seconds
LANES, INPUTS = 16, 8  # outputs of a block, inputs of a step: cpp/linear.h
CODES, BFLOAT16, FLOAT16, FLOAT32 = range(4)
KINDS = {torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.float32: FLOAT32}
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2}
INSTRUCTIONS = ("plain C++", "AVX2", "AVX-512", "AVX-512 VNNI")


class NotBuilt(Exception):
    """The kernels cannot be built here, with the reason."""


@cache
def built_library(extra: tuple[str, ...] = ()) -> Path:
    """The shared library, built if it is not in the cache. `extra` flags are for tests.

    Raises NotBuilt.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None or shutil.which(compiler) is None:
        raise NotBuilt("no C++ compiler (c++, g++, clang++, or what CXX names) is installed")
    folder = cache_folder() / "kernels"
    library = folder / f"salient-{_key(compiler, extra)}.so"
    if not library.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _build(compiler, extra, library)
        except OSError as error:
            raise NotBuilt(f"{folder} cannot be written ({error})") from error
    return library


def _build(compiler: str, extra: tuple[str, ...], library: Path) -> None:
    message = ""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        output = Path(folder) / library.name
        for flags in TRIES:
            command = [compiler, *FLAGS, *flags, *extra]
            try:
                done = subprocess.run(
                    [*command, str(SOURCES / "native.cpp"), "-o", str(output)],
                    capture_output=True,
                    text=True,
                    timeout=LONGEST_BUILD,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise NotBuilt(f"{compiler} took more than {LONGEST_BUILD} s") from None
            if done.returncode == 0:
                output.replace(library)
                return
            errors = (line for line in done.stderr.splitlines() if "error" in line)
            message = message or next(errors, "")
    raise NotBuilt(f"{compiler} cannot build them ({message.strip() or 'no error message'})")


def _key(compiler: str, extra: tuple[str, ...]) -> str:
    """The cache key: a hash of sources, compiler, flags and processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    for text in (compiler, version.stdout, *FLAGS, *map(str, TRIES), *extra, _processor()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    features = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return "\n".join(sorted(features))


def _fields(*fields: tuple[Any, str]) -> list[tuple[str, Any]]:
    """The fields of a struct, from types and names as C++ declares them."""
    return [(name, kind) for kind, names in fields for name in names.split()]


class LinearC(Structure):
    """`Linear` of cpp/linear.h."""

    _fields_ = _fields(
        (c_void_p, "weight scale zero bias"), (c_int64, "out width group"), (c_int32, "kind")
    )


class RoundedC(Structure):
    """`Rounded` of cpp/linear.h."""

    _fields_ = _fields((c_void_p, "x scale sum"))


class NormC(Structure):
    """`Norm` of cpp/attention.h."""

    _fields_ = _fields((c_void_p, "weight"), (c_float, "eps"))


class AttentionC(Structure):
    """`Attention` of cpp/attention.h."""

    _fields_ = _fields(
        (NormC, "before after q_norm k_norm"),
        (LinearC, "qkv o"),
        (c_int64, "heads kv_heads head_dim rotary_dim window"),
        (c_float, "scaling residual softcap"),
        (c_void_p, "cos sin keys values"),
        (c_int64, "capacity"),
        (c_int32, "kv_kind"),
    )


class MlpC(Structure):
    """`Mlp` of cpp/block.h."""

    _fields_ = _fields(
        (NormC, "before after"),
        (LinearC, "gate_up down"),
        (c_int64, "inner"),
        (c_int32, "act"),
        (c_float, "residual"),
    )


class BlockC(Structure):
    """`Block` of cpp/block.h."""

    _fields_ = _fields((AttentionC, "attention"), (MlpC, "mlp"))


class BatchC(Structure):
    """`Batch` of cpp/attention.h."""

    _fields_ = _fields(
        (c_void_p, "hidden"),
        (c_int64, "rows width"),
        (c_void_p, "slots positions wide narrow scores"),
        (RoundedC, "room"),
    )


@dataclass
class ActivationBuffer:
    """A reusable buffer for rounded activations; grows on demand."""

    x: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int16))
    scale: Tensor = field(default_factory=lambda: torch.empty(0))
    sum: Tensor = field(default_factory=lambda: torch.empty(0))

    def of(self, values: int, groups: int) -> RoundedC:
        """Room for `values` activations in `groups` groups."""
        if self.x.numel() < values:
            self.x = torch.empty(values, dtype=torch.int16)
        if self.scale.numel() < groups:
            self.scale, self.sum = torch.empty(groups), torch.empty(groups)
        return RoundedC(self.x.data_ptr(), self.scale.data_ptr(), self.sum.data_ptr())


class Library:
    """The functions of cpp/native.cpp. instructions: the instruction set that they use"""

    def __init__(self, path: str):
        dll = ctypes.CDLL(path)
        self._multiply, self._dequantize = dll.salient_multiply, dll.salient_dequantize
        self.blocks = dll.salient_blocks
        matrix, linear = (c_void_p, c_int64), POINTER(LinearC)
        self._multiply.argtypes = (linear, *matrix, c_int64, *matrix, RoundedC, c_int32)
        self._dequantize.argtypes = (linear, c_void_p, c_int32)
        self.blocks.argtypes = (POINTER(BlockC), c_int64, POINTER(BatchC), c_int32)
        for function in (self._multiply, self._dequantize, self.blocks):
            function.restype = None
        self.instructions = INSTRUCTIONS[dll.salient_instructions()]
        self._room = ActivationBuffer()

    def multiply(self, linear: LinearC, x: Tensor, out: int) -> Tensor:
        """y float32 [rows, out] = x float32 [rows, inputs] @ W.T."""
        rows, inputs = x.shape
        y = torch.empty(rows, out)
        groups = linear.width // linear.group if linear.kind == CODES else 0
        room = self._room.of(rows * linear.width, rows * groups)
        self._multiply(
            byref(linear), x.data_ptr(), inputs, rows, y.data_ptr(), out, room, threads()
        )
        return y

    def dequantize(self, linear: LinearC) -> Tensor:
        """The weight float32 [linear.out, linear.width], padding included."""
        weight = torch.empty(linear.out, linear.width)
        self._dequantize(byref(linear), weight.data_ptr(), threads())
        return weight


def threads() -> int:
    """Threads of the kernels: those of torch."""
    return torch.get_num_threads()


@cache
def load_library() -> Library | str:
    """The kernels built for this machine, or the reason why there are none."""
    try:
        return Library(str(built_library()))
    except NotBuilt as error:
        return str(error)
    except OSError as error:
        return f"the built library cannot be loaded ({error})"


def loaded_library() -> Library:
    """The kernels, where `load_library` has succeeded."""
    library = load_library()
    assert isinstance(library, Library)
    return library


@torch.library.custom_op("salient::codes_matmul", mutates_args=())
def codes_matmul(x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, out: int) -> Tensor:
    """y float32 [rows, out] = x float32 [rows, width] @ W.T, as torch.compile can call it."""
    return loaded_library().multiply(codes_linear(codes, scale, zero, None), x, out)


@torch.library.custom_op("salient::half_matmul", mutates_args=())
def half_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """y float32 [rows, out] = x float32 [rows, in] @ W.T for a 16-bit W [out, in]."""
    return loaded_library().multiply(dense_linear(weight, None), x, weight.shape[0])


@codes_matmul.register_fake
def _(x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, out: int) -> Tensor:
    return x.new_empty(x.shape[0], out)


@half_matmul.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def codes_linear(codes: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None) -> LinearC:
    """The struct for packed codes; it points into these tensors without owning them."""
    blocks, groups = scale.shape[:2]
    width = codes.shape[1] * INPUTS
    pointers = (_pointer(codes), _pointer(scale), _pointer(zero), _pointer(bias))
    return LinearC(*pointers, blocks * LANES, width, width // groups, CODES)


def dense_linear(weight: Tensor, bias: Tensor | None) -> LinearC:
    """The struct for a weight of floats [out, in]; it points into these tensors."""
    out, width = weight.shape
    pointers = (_pointer(weight), None, None, _pointer(bias))
    return LinearC(*pointers, out, width, width, KINDS[weight.dtype])


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
