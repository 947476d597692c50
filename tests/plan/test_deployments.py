"""salient.toml: its entries, what an error names, and what doctor, plan and serve do with it."""

import json
import os

import pytest

from salient import api
from salient.core.errors import RequestError
from salient.plan.deployments import find_deployment, read_deployments
from salient.serve.deployment import with_deployment
from salient.serve.options import ServeOptions

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128,
                            "zero_point": True, "version": "gemm"},
}  # fmt: skip
FILE = """
[defaults]
device = "A100 SXM 80GB"
environment = { VLLM_LOGGING_LEVEL = "DEBUG" }

[deployments.chat]
checkpoint = "llama"
engine_version = "0.9"
arguments = { quantization = "awq", max_model_len = 4096, enable-prefix-caching = false }
targets = { ttft = "1s", decode = 30 }

[deployments.fast]
checkpoint = "llama"
targets = { decode = 1e6 }

[deployments.other]
model = "org/Model-AWQ"
engine = "sglang"
arguments = { tp = 2 }
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text(json.dumps(CONFIG))
    path = tmp_path / "salient.toml"
    path.write_text(FILE)
    return path


def test_a_deployment_has_its_own_values_and_the_defaults(file):
    chat = read_deployments(file)["chat"]
    assert (chat.device, chat.engine_version) == ("A100 SXM 80GB", "0.9")
    assert chat.required == "ttft=1s,decode=30"
    assert chat.argument("enable_prefix_caching") is False
    assert chat.argv() == [
        "--quantization", "awq", "--max-model-len", "4096", "--no-enable-prefix-caching",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", "is no TOML"),
        ("[deployment.a]\nmodel = 'x'", "deployment is unknown. Did you mean deployments?"),
        ("[deployments]", "there is no deployment"),
        ("[deployments]\na = 3", r"deployments.a is 3. Write it as a table: \[deployments.a\]"),
        ("[deployments.a]\nmodl = 'x'", "deployments.a.modl is unknown. Did you mean model?"),
        ("[defaults]\ndevize = 'T4'", "defaults.devize is unknown. Did you mean device?"),
        ("[deployments.a]\nmodel = 3", "deployments.a.model is int, not str"),
        ("[deployments.a]\nmodel = 'x'\nengine = 'v'", "deployments.a.engine is 'v', not one of"),
        ("[deployments.a]\ndevice = 'T4'", "deployments.a names no model. Set one"),
        (
            "[deployments.a]\nmodel = 'x'\ncheckpoint = '.'",
            "a sets model and checkpoint",
        ),
        ("[deployments.a]\ncheckpoint = 'none'", "deployments.a.checkpoint: there is no folder"),
        ("[deployments.a]\nmodel = 'x'\ndevice = 'T44'", "deployments.a.device: Unknown device"),
        ("[deployments.a]\nmodel = 'x'\nengine_version = 'new'", "deployments.a.engine_version: "),
        ("[deployments.a]\nmodel = 'x'\ntargets = {ttft = 'x'}", "deployments.a.targets: "),
        ("[deployments.a]\nmodel = 'x'\nconcurrency = 0", "deployments.a.concurrency is 0"),
    ],
)
def test_an_error_names_the_entry_and_the_field(file, text, message):
    file.write_text(text)
    with pytest.raises(RequestError, match=message):
        read_deployments(file)


def test_an_unknown_name_lists_those_that_there_are(file):
    with pytest.raises(RequestError, match=r"has no deployment 'x'\. It has: chat, fast"):
        find_deployment(file, "x")
    with pytest.raises(RequestError, match="There is no file"):
        read_deployments(file.with_name("none.toml"))


def test_doctor_judges_every_deployment_with_its_device_release_and_config(file):
    findings = api.doctor(config=file).findings
    forced = next(one for one in findings if one.id == "awq-forced-slow")
    assert forced.title.startswith("chat: ")
    assert forced.do == ('- quantization = "awq"', "+ (leave it out)")
    assert forced.evidence[0].where == "salient.toml:9"
    assert any(one.title.startswith("fast: vLLM will take Marlin") for one in findings)
    assert not any(one.id == "unknown-argument" for one in findings)


def test_plan_plans_every_deployment_and_fails_where_targets_are_missed(file):
    file.write_text(FILE.partition("[deployments.other]")[0])
    result = api.plan(config=file)
    assert not result.passed
    assert [row[0] for row in result.report.tables[0].rows] == ["chat", "fast"]
    assert [row[-1] for row in result.report.tables[0].rows] == ["met", "missed"]
    assert set(result.report.data["deployments"]) == {"chat", "fast"}


def test_plan_takes_a_model_or_a_file(file):
    with pytest.raises(RequestError, match="Leave out MODEL"):
        api.plan("llama", config=file)
    with pytest.raises(RequestError, match="--adr records one decision"):
        api.plan(config=file, adr="adr.md")
    with pytest.raises(RequestError, match="Name a model to plan for"):
        api.plan()


def test_serve_starts_a_deployment_by_its_name(file, monkeypatch):
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    monkeypatch.chdir(file.parent)
    options = with_deployment(ServeOptions("chat", ["--seed", "1"]))
    assert options.checkpoint == "llama"
    assert (options.engine, options.served_model_name) == ("vllm", "chat")
    assert options.vllm_args[-4:] == ("4096", "--no-enable-prefix-caching", "--seed", "1")
    assert os.environ.pop("VLLM_LOGGING_LEVEL") == "DEBUG"
    folder = ServeOptions("llama")
    assert with_deployment(folder) is folder


def test_serve_says_how_to_start_an_engine_that_it_does_not_start(file):
    message = r"python -m sglang\.launch_server --model-path org/Model-AWQ --tp 2"
    with pytest.raises(RequestError, match=message):
        with_deployment(ServeOptions("other", config=file))


def test_a_pipe_in_place_of_the_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "salient.toml")
    with pytest.raises(RequestError, match=r"salient\.toml is a pipe \(FIFO\), not a regular file"):
        read_deployments(tmp_path / "salient.toml")
