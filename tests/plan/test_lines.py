"""Printed lines run: they name folders and ids, and engines' tables and doctor accept them."""

import json
import random
import re
import shlex
from pathlib import Path

import pytest
from safetensors.torch import save_file

from helpers.cli import invoke
from helpers.shapes import released
from helpers.toy_models import toy_folder, toy_text
from salient.core.errors import RequestError
from salient.diagnose.doctor import diagnose
from salient.diagnose.options import DoctorOptions
from salient.plan.engine_options import accepts
from salient.plan.engine_profiles import ENGINES, find_engine
from salient.plan.model_source import model_source
from salient.plan.options import PlanOptions
from salient.plan.planner import Plan, make_plan
from salient.shapes.resolve import CONFIGS

DEVICES = ("RTX 3090", "RTX 4090", "2xRTX 5090", "L40S", "A100", "8xH100", "H200", "B200",
           "DGX Spark", "T4", "MI300X", "M3 Max 64GB")  # fmt: skip
SHIPPED = sorted(CONFIGS.glob("*.json"))


def planned(model: object, **options: object) -> Plan:
    return make_plan(PlanOptions(str(model), **options))  # pyright: ignore[reportArgumentType]


def lines_of(plan: Plan) -> list[str]:
    return [line for device in plan.devices for line in device.commands]


def folder_of(path: Path, **config: object) -> Path:
    """A folder with the config of a small released model and no weights."""
    path.mkdir(parents=True)
    original = next(one for one in SHIPPED if "Qwen3-8B" in one.name)
    text = json.loads(original.read_text()) | config
    (path / "config.json").write_text(json.dumps(text))
    return path


# The model in a line


@pytest.mark.parametrize(
    ("place", "argument"),
    [
        ("Qwen--Qwen3-8B", "Qwen/Qwen3-8B"),
        ("models--Qwen--Qwen3-8B/snapshots/0a1b2c", "Qwen/Qwen3-8B"),
        ("qwen3-8b", "Qwen/Qwen3-8B"),  # its _name_or_path has that last part
    ],
)
def test_a_config_without_weights_stands_for_the_models_id(tmp_path, place, argument):
    folder = folder_of(tmp_path / place, _name_or_path="Qwen/Qwen3-8B")
    for model in (folder, folder / "config.json"):
        source = model_source(str(model))
        assert (source.argument, source.name, source.note) == (argument, "Qwen3-8B", "")


def test_a_config_next_to_weights_stands_for_its_folder(tmp_path):
    import torch

    folder = folder_of(tmp_path / "org--name")
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    source = model_source(str(folder / "config.json"))
    assert (source.argument, source.name, source.local) == (str(folder), "name", True)


def test_a_config_of_an_unknown_model_says_where_its_weights_belong(tmp_path):
    folder = folder_of(tmp_path / "mine", _name_or_path="Qwen/Qwen3-8B")  # what it was tuned from
    plan = planned(folder / "config.json", gpu="RTX 4090")
    assert f"{folder} has no weights yet" in " ".join(plan.shape.notes)
    assert shlex.split(lines_of(plan)[0])[2] == str(folder)
    other = tmp_path / "shape.json"
    other.write_text((folder / "config.json").read_text())
    plan = planned(other, gpu="RTX 4090")
    assert "MODEL in the lines stands for" in " ".join(plan.shape.notes)
    assert lines_of(plan)[0].startswith("salient quantize MODEL ")


def test_a_folder_of_pickles_is_converted_first(tmp_path):
    folder = folder_of(tmp_path / "old")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    convert, make, _ = lines_of(planned(folder, gpu="RTX 4090", format="awq-g128"))
    assert f'M.from_pretrained("{folder}")' in shlex.split(convert)[2]
    assert make.startswith("salient quantize old-safetensors ")


def test_a_local_model_is_served_under_its_name_and_nowhere_but_here(tmp_path):
    folder = folder_of(tmp_path / "mine")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    line = lines_of(planned(folder / "config.json", gpu="RTX 4090", format="fp16"))[-1]
    assert "--served-model-name mine" in line
    assert "--host 127.0.0.1" in line


def test_llama_cpp_fetches_converts_and_serves_with_flash_attention_for_its_small_caches():
    plan = planned("Qwen/Qwen3-8B", gpu="RTX 4090", engine="llama.cpp", kv_dtype="q8_0")
    lines = lines_of(plan)
    assert lines[0] == "hf download Qwen/Qwen3-8B --local-dir Qwen3-8B"
    assert lines[1].startswith("python convert_hf_to_gguf.py Qwen3-8B --outfile Qwen3-8B-F16.gguf")
    assert "-fa on -ctk q8_0 -ctv q8_0" in lines[-1]


@pytest.mark.parametrize("form", ["awq-g32", "ct-g128"])
def test_quantize_accepts_the_line_where_the_model_is(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, text = toy_folder(tmp_path / "org--toy", hidden_size=128), toy_text(tmp_path)
    options = {"context_length": 256, "format": form}
    line = lines_of(planned(folder / "config.json", gpu="RTX 4090", **options))[0]
    small = ["--calibration", str(text), "--samples", "6", "--sequence-length", "64"]
    result = invoke(*shlex.split(line)[1:], "--dry-run", *small)
    assert (result.exit_code, result.stderr) == (0, ""), line


# What engines accept


def errors(line: str, config: Path, gpu: str, folder: Path) -> list[str]:
    (folder / "serve.sh").write_text(line + "\n")
    options = DoctorOptions(config=str(folder / "serve.sh"), target=str(config), gpu=gpu)
    return [one.title for one in diagnose(options).findings if one.level == "error"]


def test_doctor_has_no_error_for_a_line_of_plan(tmp_path):
    """A sample; benchmarks/plan_lines.py takes every config and device."""
    choose = random.Random(21)
    for config in choose.sample(SHIPPED, 5):
        for gpu in choose.sample(DEVICES, 3):
            for line in lines_of(planned(config, gpu=gpu)):
                assert ".json" not in line
                if line.startswith("vllm serve"):
                    assert errors(line, config, gpu, tmp_path) == [], line


def test_sglang_takes_every_option_of_its_line(tmp_path):
    plan = planned("Qwen/Qwen3-8B", gpu="2xH100", engine="sglang", kv_dtype="fp8", format="fp8")
    (line,) = lines_of(plan)
    assert line.startswith("python -m sglang.launch_server --model-path Qwen/Qwen3-8B ")
    assert "--tp-size 2" in line
    assert "--kv-cache-dtype fp8_e4m3" in line
    assert "--quantization fp8" in line
    options = re.findall(r" --([\w-]+)", line)
    assert all(accepts("sglang", name.replace("-", "_"), None) for name in options)
    config = next(one for one in SHIPPED if "Qwen3-8B" in one.name)
    assert errors(line, config, "H100", tmp_path) == []
    unlisted = folder_of(tmp_path / "a", architectures=["MllamaForConditionalGeneration"])
    assert errors(line, unlisted / "config.json", "H100", tmp_path) == []  # vLLM's registry alone


def test_a_class_that_the_engine_lacks_is_refused_with_the_releases_that_have_it(tmp_path):
    folder = folder_of(tmp_path / "a", architectures=["MllamaForConditionalGeneration"])
    best = planned(folder, gpu="H100").devices[0].best
    assert best.route.pace == "refused"
    assert "vLLM 0.32 has no class for MllamaForConditionalGeneration" in best.route.why
    assert "before 0.11" in best.route.why
    assert planned(folder, gpu="H100", engine_version="0.10").devices[0].best.runs
    typed = folder_of(tmp_path / "b", architectures=["Qwen3ForCausalML"])
    route = planned(typed, gpu="H100").devices[0].best.route
    assert "Qwen3ForCausalLM" in route.do[0]


# Names of engines


@pytest.mark.parametrize(
    ("name", "engine"),
    [("vLLM", "vllm"), ("llama-cpp", "llama.cpp"), ("LlamaCpp", "llama.cpp"), ("SGLang", "sglang"),
     ("hf", "transformers"), ("embedded", "salient"), ("mlx-lm", "mlx")],
)  # fmt: skip
def test_an_engine_is_known_by_its_other_names(name, engine):
    assert find_engine(name) is ENGINES[engine]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("ollama", "llama.cpp"), ("LM Studio", "llama.cpp"), ("tensorrt-llm", "vllm"),
     ("TensorRT-LLM", "vllm"), ("trt-llm", "vllm"), ("tgi", "vllm"), ("ray-serve", "vllm"),
     ("exllamav2", "vllm")],
)  # fmt: skip
def test_an_engine_that_plan_lacks_is_answered_with_the_nearest_and_why(name, nearest):
    with pytest.raises(RequestError, match=f"The nearest is --engine {nearest}: .*Known engines"):
        find_engine(name)
    with pytest.raises(RequestError, match=r"Unknown engine 'x'. Known engines: vllm, sglang"):
        find_engine("x")


def test_sglang_is_planned_with_the_kernels_of_vllm():
    vllm, sglang = (
        planned("Qwen/Qwen3-8B", gpu="L40S", engine=engine).devices[0]
        for engine in ("vllm", "sglang")
    )
    assert {one.form.name: one.route for one in vllm.candidates} == {
        one.form.name: one.route for one in sglang.candidates
    }
    assert released("Llama-3.1-8B").architecture == "LlamaForCausalLM"
