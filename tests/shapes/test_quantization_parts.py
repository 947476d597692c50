"""Laws of where a quantization is declared: a name, a file next to config.json, mlx-lm's key."""

import json

import pytest

from salient.plan.device_names import find_gpu
from salient.plan.engine_kernels import route_of
from salient.plan.engine_profiles import ENGINES
from salient.plan.memory import Workload
from salient.plan.stored_format import stored_format
from salient.shapes.resolve import CONFIGS, resolve_shape

LLAMA = CONFIGS / "meta-llama--Llama-3.1-8B.json"
MLX = {"group_size": 64, "bits": 4}


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("Qwen3-235B-A22B-NVFP4", "NVFP4"),
        ("Llama-3.1-70B-Instruct-FP8", "FP8 per tensor"),
        ("Some-7B-AWQ", "AWQ w4-g128"),
        ("Some-7B-GPTQ-Int8", "GPTQ w8-g128"),
        ("Some-7B-MLX-4bit", "MLX 4-bit g64"),
        ("Some-7B-unsloth-bnb-4bit", "bitsandbytes NF4"),
        ("Some-7B", None),
        ("hawqeye-7B", None),
    ],
)
def test_a_name_that_says_how_it_is_quantized_is_planned_so_with_a_note(name, title, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(LLAMA.read_text())
    shape, _ = resolve_shape(str(folder / "config.json"))
    stored = stored_format(shape)
    assert (stored.title if stored else None) == title
    assert any("declares no quantization" in note for note in shape.notes) is bool(title)


@pytest.mark.parametrize(
    ("file", "settings", "title"),
    [
        ("hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4"}}, "NVFP4"),
        ("quantize_config.json", {"bits": 4, "group_size": 64, "desc_act": False}, "GPTQ w4-g64"),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 64, "version": "GEMM"}, "AWQ w4-g64"),
    ],
)
def test_a_file_next_to_config_json_declares_the_quantization(file, settings, title, tmp_path):
    (tmp_path / "config.json").write_text(LLAMA.read_text())
    (tmp_path / file).write_text(json.dumps(settings))
    for name in (tmp_path, tmp_path / "config.json"):
        assert stored_format(resolve_shape(str(name))[0]).title == title


def test_mlx_lm_declares_its_quantization_under_a_key_of_its_own(tmp_path):
    config = json.loads(LLAMA.read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization": MLX}))
    shape, _ = resolve_shape(str(tmp_path / "config.json"))
    assert stored_format(shape).title == "MLX 4-bit g64"
    route = route_of(
        shape, stored_format(shape).form, Workload(ENGINES["mlx"], find_gpu("M3 Max"), 4096)
    )
    assert (route.kernel, route.pace) == ("MLX", "fast")
