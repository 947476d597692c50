"""Registries of models in Python: each entry is judged, and its diff is the file's own."""

import pytest

from salient.diagnose.doctor import diagnose
from salient.diagnose.options import DoctorOptions
from salient.diagnose.serving.read_settings import read_all_settings

REGISTRY = """
class Quantization(str, Enum):
    AWQ = "awq"

@dataclass
class ModelConfig:
    model_id: str
    quantization: str | None = None
    dtype: str = "auto"
    description: str = ""

COMMON = {"gpu_mem": 0.9, "seed": 1}
CONFIGS = {
    "forced": ModelConfig(model_id="org/A-AWQ", quantization=Quantization.AWQ, dtype="half"),
    "base": ModelConfig("mistralai/Mistral-7B-Instruct-v0.3", "awq", description="chat"),
    "clean": ModelConfig(model_id="org/B-AWQ"),
}
OTHERS = [
    {"name": "other", "hf_model_id": "org/C-GPTQ", "quant_method": "awq", **COMMON, "tp": 2},
    {"name": "nested", "repo": "org/D-AWQ", "vllm_args": {"max_model_len": 4096, "kv": 1}},
]
client.create(model="org/E", seed=3)
"""


@pytest.fixture
def registry(tmp_path):
    path = tmp_path / "model_configs.py"
    path.write_text(REGISTRY)
    return path


def test_every_entry_is_read_with_its_name_and_values(registry):
    entries = {one.entry: one.values for one in read_all_settings(registry)}
    assert entries == {
        "forced": {"model": "org/A-AWQ", "quantization": "awq", "dtype": "half"},
        "base": {
            "model": "mistralai/Mistral-7B-Instruct-v0.3", "quantization": "awq", "dtype": "auto",
        },
        "clean": {"model": "org/B-AWQ", "dtype": "auto"},
        "other": {
            "model": "org/C-GPTQ", "quantization": "awq", "gpu_memory_utilization": 0.9, "seed": 1,
            "tensor_parallel_size": 2,
        },
        "nested": {"model": "org/D-AWQ", "max_model_len": 4096},
    }  # fmt: skip


def test_each_entry_is_judged_with_the_diff_that_fixes_it(registry):
    findings = diagnose(DoctorOptions(config=registry, engine_version="0.10")).findings
    serious = {f.title.split(":")[0]: f for f in findings if f.level in ("error", "slow")}
    assert {name: one.id for name, one in serious.items()} == {
        "forced": "awq-forced-slow",
        "base": "base-model-named",
        "other": "quantization-mismatch",
    }
    assert serious["forced"].do == ("- quantization=Quantization.AWQ", "+ (leave it out)")
    assert serious["other"].do[0] == "- \"quant_method\": 'awq'"
    assert serious["base"].evidence[0].where == "model_configs.py:15"


def test_a_script_with_one_engine_call_is_no_registry(tmp_path):
    path = tmp_path / "run.py"
    path.write_text("from vllm import LLM\nllm = LLM(model='org/A-AWQ', quantization='awq')\n")
    (settings,) = read_all_settings(path)
    assert settings.entry == ""
