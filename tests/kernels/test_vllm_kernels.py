"""Adapters to other kernels: they refuse in words where the other project is not installed."""

import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from salient.core.errors import ModelError
from salient.core.quant import quantize
from salient.core.scheme import Scheme
from salient.kernels import vllm_kernels
from salient.kernels.base import Layer
from salient.kernels.vllm_kernels import MacheteWeight, MarlinWeight, pack_gptq

LAYER = Layer(128, 256, Scheme(128), torch.device("cpu"), torch.bfloat16)
each_kernel = pytest.mark.parametrize("kernel", [MarlinWeight, MacheteWeight], ids=lambda k: k.name)


@each_kernel
@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_reason_names_the_module(kernel):
    message = kernel.unsupported(LAYER)
    assert message.startswith("vllm._custom_ops cannot be imported (No module named 'vllm')")
    assert message.endswith("run the benchmark in an environment that has vLLM.")


@each_kernel
def test_a_vllm_without_the_operator_has_its_own_reason(kernel, monkeypatch):
    monkeypatch.setattr(vllm_kernels, "_vllm", ModuleType)
    assert kernel.unsupported(LAYER).endswith(f"has no {kernel.operator}: it is not a CUDA build")


@each_kernel
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LAYER, "it takes 4 bits, float16 or bfloat16, and an NVIDIA GPU"),
        (Layer(128, 256, Scheme(16), torch.device("cuda"), torch.float16), "it takes groups of"),
        (Layer(96, 256, Scheme(128), torch.device("cuda"), torch.float16), "multiples of 128"),
    ],
)
def test_an_unsupported_layer_has_a_reason(kernel, layer, message, monkeypatch):
    monkeypatch.setattr(vllm_kernels, "_vllm", ModuleType)
    monkeypatch.setattr(torch.ops._C, kernel.operator, None, raising=False)
    assert message in kernel.unsupported(layer)


@pytest.mark.parametrize("packed", [vllm_kernels.MarlinWeight, vllm_kernels.MacheteWeight])
def test_a_vllm_with_other_signatures_is_an_error_with_its_version(packed, monkeypatch):
    monkeypatch.setattr(vllm_kernels, "_vllm", ModuleType)  # has nothing that is looked for
    weight = quantize(torch.randn(128, 256), Scheme(128), name="toy")
    message = f"vLLM's {packed.name} does not take what that of vLLM 0.32 takes: .*without it"
    with pytest.raises(ModelError, match=message):
        packed(weight, LAYER)


def test_eight_codes_are_packed_per_word_the_first_in_its_low_bits():
    codes = torch.arange(16, dtype=torch.uint8).repeat(2, 1)
    packed = pack_gptq(codes)
    assert packed.shape == (2, 2)
    actual = [f"{word % 2**32:08x}" for word in packed[:, 0].tolist()]
    assert actual == ["76543210", "fedcba98"]


def test_vllm_is_not_imported_by_the_module():
    assert "vllm" not in sys.modules
