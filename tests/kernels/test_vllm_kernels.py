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
def test_without_vllm_it_says_what_is_missing(kernel):
    words = kernel.unsupported(LAYER)
    assert words.startswith("vllm._custom_ops cannot be imported (No module named 'vllm')")
    assert words.endswith("run the benchmark in an environment that has vLLM.")


@each_kernel
def test_a_vllm_without_the_operator_is_told_from_none(kernel, monkeypatch):
    monkeypatch.setattr(vllm_kernels, "_vllm", ModuleType)
    assert kernel.unsupported(LAYER).endswith(f"has no {kernel.operator}: it is not a CUDA build")


@each_kernel
@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (LAYER, "it takes 4 bits, float16 or bfloat16, and an NVIDIA GPU"),
        (Layer(128, 256, Scheme(16), torch.device("cuda"), torch.float16), "it takes groups of"),
        (Layer(96, 256, Scheme(128), torch.device("cuda"), torch.float16), "multiples of 128"),
    ],
)
def test_what_it_does_not_take_it_refuses_in_words(kernel, layer, words, monkeypatch):
    monkeypatch.setattr(vllm_kernels, "_vllm", ModuleType)
    monkeypatch.setattr(torch.ops._C, kernel.operator, None, raising=False)
    assert words in kernel.unsupported(layer)


@pytest.mark.parametrize("held", [vllm_kernels.MarlinWeight, vllm_kernels.MacheteWeight])
def test_a_vllm_whose_functions_take_other_arguments_is_told(held, monkeypatch):
    monkeypatch.setattr(vllm_kernels, "_vllm", ModuleType)  # has nothing that is looked for
    weight = quantize(torch.randn(128, 256), Scheme(128), name="toy")
    words = f"vLLM's {held.name} does not take what that of vLLM 0.32 takes: .*without it"
    with pytest.raises(ModelError, match=words):
        held(weight, LAYER)


def test_eight_codes_stand_in_a_word_the_first_in_its_low_bits():
    codes = torch.arange(16, dtype=torch.uint8).repeat(2, 1)
    words = pack_gptq(codes)
    assert words.shape == (2, 2)
    found = [f"{word % 2**32:08x}" for word in words[:, 0].tolist()]
    assert found == ["76543210", "fedcba98"]


def test_vllm_is_not_imported_by_the_module():
    assert "vllm" not in sys.modules
