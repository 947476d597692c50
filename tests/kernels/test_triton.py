"""The triton kernel: its laws in Triton's interpreter or on a GPU, its refusals, its packing.

The laws (`triton_laws.py`) run in a process of their own, and each is reported here by its name.
"""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from salient.core.quant import quantize
from salient.core.scheme import Scheme
from salient.kernels import triton as kernel
from salient.kernels.base import Layer
from salient.kernels.triton import TritonWeight, pack_codes

FILE = Path(__file__).with_name("triton_laws.py")
LAWS = [
    node.name
    for node in ast.parse(FILE.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]
GRAPHS = "test_a_graph_replays_what_was_captured"  # needs a GPU
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


def outcomes(folder: Path, **environment: str) -> dict[str, list[str]]:
    """Run the laws in a process of their own: law -> what failed, empty for each that passed."""
    report = folder / "laws.xml"
    options = ("--noconftest", "-p", "no:cacheprovider", f"--junitxml={report}")
    command = [sys.executable, "-m", "pytest", str(FILE), *options]
    run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert report.exists(), run.stdout + run.stderr
    actual: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        law = case.attrib["name"].split("[")[0]
        if case.find("skipped") is None:
            bad = [f"{case.attrib['name']}\n{part.text}" for part in case]
            actual.setdefault(law, []).append("\n".join(bad))
    return actual


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return outcomes(tmp_path_factory.mktemp("interpreted"), TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return outcomes(tmp_path_factory.mktemp("gpu"), TRITON_INTERPRET="0")


@needs_triton
@pytest.mark.parametrize("law", [law for law in LAWS if law != GRAPHS])
def test_a_law_is_true_in_the_interpreter(law, interpreted):
    assert interpreted.get(law), "no case ran"
    assert not "".join(interpreted[law])


@needs_triton
@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("law", LAWS)
def test_a_law_is_true_on_the_gpu(law, on_gpu):
    assert on_gpu.get(law), "no case ran"
    assert not "".join(on_gpu[law])


# Refusals


def layer(
    scheme: Scheme | None = None,
    *,
    width: int = 256,
    device: str = "cpu",
    dtype: torch.dtype = torch.float16,
) -> Layer:
    return Layer(64, width, scheme or Scheme(128), torch.device(device), dtype)


@pytest.fixture
def interpreter(monkeypatch):
    """As in a process that runs Triton's interpreter."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernel.importlib.util, "find_spec", lambda _: True)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("group_size", [8, 24, 32, 64, 128, 384])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_four_bits_in_any_groups_are_supported(group_size, symmetric, dtype):
    assert (
        TritonWeight.unsupported(layer(Scheme(group_size, symmetric), width=384, dtype=dtype))
        is None
    )


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    ("requested", "message"),
    [
        (layer(Scheme(128, bits=8)), "it reads codes of 4 bits, and w8-g128 has 8"),
        (
            layer(dtype=torch.float32),
            "it multiplies float16 and bfloat16, and the activations are torch.float32",
        ),
        (layer(width=320), "the group size 128 does not divide the width 320"),
        (layer(device="meta"), "it runs on NVIDIA and AMD GPUs, and the device is 'meta'"),
    ],
)
def test_an_unsupported_layer_has_a_reason(requested, message):
    assert TritonWeight.unsupported(requested) == message


def test_without_triton_the_reason_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(kernel.importlib.util, "find_spec", lambda _: None)
    message = "Triton is not installed; install it with: pip install 'salient-awq[gpu]'"
    assert TritonWeight.unsupported(layer()) == message


@pytest.mark.parametrize("value", [None, "0"])
def test_a_cpu_is_refused_without_the_interpreter(value, monkeypatch):
    monkeypatch.setattr(kernel.importlib.util, "find_spec", lambda _: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if value is not None:
        monkeypatch.setenv("TRITON_INTERPRET", value)
    message = "it runs on NVIDIA and AMD GPUs, and the device is 'cpu'"
    assert TritonWeight.unsupported(layer()) == message


def test_a_gpu_that_torch_cannot_use_is_refused(monkeypatch):
    monkeypatch.setattr(kernel.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = "torch finds no GPU here: this build has none, or the driver does not answer"
    assert TritonWeight.unsupported(layer(device="cuda")) == message


def test_a_gpu_that_is_too_old_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(kernel.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    message = "it needs compute capability 8.0 (Ampere) or later, and Tesla T4 has 7.5"
    assert TritonWeight.unsupported(layer(device="cuda")) == message


# Packing


def test_codes_are_packed_in_the_order_of_the_programs():
    out, width = 35, 200
    codes = torch.randint(16, (out, width), dtype=torch.uint8, generator=torch.Generator())
    packed = pack_codes(codes)
    assert packed.shape == (4, 3, 32, 8)
    assert packed.dtype == torch.int16
    for n, k in [(0, 0), (34, 199), (9, 70), (23, 131), (16, 64)]:
        row, inside = n % 16, k % 64
        lane = 4 * (row % 8) + inside % 16 // 4
        word = packed[k // 64, n // 16, lane, 4 * (row // 8) + inside % 4].item()
        assert word >> 4 * (inside // 16) & 15 == codes[n, k]


def test_packing_does_not_modify_the_codes():
    codes = torch.randint(16, (35, 200), dtype=torch.uint8, generator=torch.Generator())
    before = codes.clone()
    pack_codes(codes).zero_()
    assert torch.equal(codes, before)


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_weight_takes_four_bits_and_its_scales_and_zeros(group_size, symmetric):
    scheme = Scheme(group_size, symmetric)
    weight = quantize(torch.randn(64, 256), scheme, name="w")
    packed = TritonWeight(weight, layer(scheme))
    assert packed.bytes * 8 == 64 * 256 * scheme.bits_per_weight
    assert not packed.state_dict()


@needs_triton
@pytest.mark.parametrize(
    ("dtype", "recipes", "one", "minus"),
    [(torch.float16, "F16", 0x6400, 0xE400), (torch.bfloat16, "BF16", 0x4300, 0xC300)],
    ids=str,
)
def test_a_code_set_into_a_power_of_two_less_that_and_its_zero_is_exact(dtype, recipes, one, minus):
    from salient.kernels import triton_kernels

    codes, zeros = torch.arange(16)[:, None], torch.arange(16)[None]
    left, right = (
        (n | bits).to(torch.int16).view(dtype) for n, bits in ((codes, one), (zeros, minus))
    )
    assert torch.equal((left + right).int(), (codes - zeros).int())
    for plane, recipe in enumerate(getattr(triton_kernels, recipes).value):
        assert f"0x{one:04X}{one:04X}, 0xEA" in recipe  # (word & mask) | one
        assert (f"$1, {4 * plane};" in recipe) == (plane > 0)
