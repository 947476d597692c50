"""Reading serving settings: the same from every form, nothing run, nothing secret kept."""

import random
import time
from pathlib import Path

import pytest

from salient.core.errors import RequestError
from salient.diagnose.serving.read_settings import FILE_LIMIT, read_settings
from salient.diagnose.serving.server_arguments import (
    CHOICES,
    KINDS,
    REMOVED,
    SHORT,
    fits,
    full_name,
    nearest,
    value_of,
)
from salient.diagnose.serving.serving_rules import RULES, judge_settings
from salient.diagnose.serving.settings import UNKNOWN, ServingSettings
from salient.diagnose.serving.yaml_reader import YAML_LIMIT
from salient.plan.gpus import Gpu

GPU = Gpu("RTX 4090", "nvidia", "Ada", 24.0, 1008, 165, capability=89)
SECRET = "sk-verysecret-0123456789"


def read(folder: Path, name: str, text: str | bytes) -> ServingSettings:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_settings(path)


# the same settings, as people write them
SAME = {
    "model": "Qwen/Qwen2.5-7B-Instruct-AWQ",
    "quantization": "awq",
    "tensor_parallel_size": 2,
    "gpu_memory_utilization": 0.9,
    "trust_remote_code": True,
    "enable_prefix_caching": False,
    "max_model_len": 32768,
    "model_loader_extra_config": {"enable_weights_track": True},
}
_FLAGS = """--quantization awq -tp 2 --gpu-memory-utilization=0.9 --trust-remote-code
    --no-enable-prefix-caching --max_model_len 32K
    --model-loader-extra-config '{"enable_weights_track": true}'""".replace("\n", " \\\n")
_LIST = """["--model", "Qwen/Qwen2.5-7B-Instruct-AWQ", "-q", "awq",
    "--tensor-parallel-size=2", "--gpu-memory-utilization", "0.9", "--trust-remote-code",
    "--no-enable-prefix-caching", "--max-model-len", "32768",
    "--model-loader-extra-config", '{"enable_weights_track": true}']"""
_FOLDED = _FLAGS.replace(" \\\n", "\n     ")
_EXEC = """["vllm", "serve", "Qwen/Qwen2.5-7B-Instruct-AWQ", "-q", "awq", \\
    "--tensor-parallel-size=2", "--gpu-memory-utilization", "0.9", "--trust-remote-code", \\
    "--no-enable-prefix-caching", "--max-model-len", "32768", \\
    "--model-loader-extra-config", "{\\"enable_weights_track\\": true}"]"""
FORMS = {
    "serve.yaml": """
model: Qwen/Qwen2.5-7B-Instruct-AWQ
quantization: awq
tensor-parallel-size: 2
gpu_memory_utilization: 0.9
trust-remote-code: true
no-enable-prefix-caching: true
max-model-len: 32K
model-loader-extra-config:
  enable_weights_track: true
""",
    "serve.sh": f"""#!/bin/bash
set -euo pipefail
# vllm serve in a comment is none
MODEL="Qwen/Qwen2.5-7B-Instruct-AWQ"
nohup vllm serve "$MODEL" \\
    {_FLAGS} > vllm.log 2>&1 &
""",
    "note.md": f"Don't forget:\n\n```bash\n$ vllm serve {SAME['model']} {_FLAGS}\n```\n",
    "module.txt": f"CUDA_VISIBLE_DEVICES=0,1 python3 -m vllm.entrypoints.openai.api_server "
    f"--model {SAME['model']} {_FLAGS}",
    "docker.sh": f"docker run --gpus all -v ~/.cache:/root/.cache -p 8000:8000 --ipc=host \\\n"
    f"  vllm/vllm-openai:latest --model {SAME['model']} {_FLAGS}",
    "Dockerfile": f"FROM vllm/vllm-openai:latest\nCMD {_EXEC}\n",
    "vllm.service": f"[Service]\nExecStart=/opt/venv/bin/vllm serve {SAME['model']} {_FLAGS}\n",
    "compose.yaml": f"""
services:
  llm:
    image: vllm/vllm-openai:latest
    command: {_LIST}
""",
    "compose-text.yaml": f"""
services:
  llm:
    image: vllm/vllm-openai:latest
    command: >
      --model {SAME["model"]}
      {_FOLDED}
""",
    "pod.yaml": f"""
apiVersion: v1
kind: Service
---
apiVersion: apps/v1
spec:
  template:
    spec:
      containers:
      - name: llm
        image: registry.example/vllm-openai:latest
        command: ["python3", "-m", "vllm.entrypoints.openai.api_server"]
        args: {_LIST}
""",
    "pod-shell.yaml": f"""
spec:
  containers:
  - image: vllm/vllm-openai
    command: ["/bin/sh", "-c"]
    args:
    - |
      vllm serve {SAME["model"]} {_FLAGS.replace(chr(10), chr(10) + 6 * " ")}
""",
    "call.py": """
from vllm import LLM
import torch

MODEL = "Qwen/Qwen2.5-7B-Instruct-AWQ"
more = {"trust_remote_code": True, "enable_prefix_caching": False}
llm = LLM(
    MODEL,
    quantization="awq",
    tensor_parallel_size=2,
    gpu_memory_utilization=0.9,
    max_model_len=32768,
    model_loader_extra_config={"enable_weights_track": True},
    **more,
)
""",
    "args.py": f"args = dict(**{{}}, **base)\nengine = AsyncEngineArgs(**{SAME!r})\n",
    "dict.py": f"settings = {SAME!r}\n",
    "run.py": f"subprocess.run(['vllm', 'serve', '{SAME['model']}', *[], '-q', 'awq', '-tp', '2',"
    " '--gpu-memory-utilization', '0.9', '--trust-remote-code', '--no-enable-prefix-caching',"
    " '--max-model-len', '32768', '--model-loader-extra-config.enable_weights_track', 'true'])\n",
    "engine.json": """{
  "model": "Qwen/Qwen2.5-7B-Instruct-AWQ", "quantization": "awq", "tensor_parallel_size": 2,
  "gpu_memory_utilization": 0.9, "trust_remote_code": true, "enable_prefix_caching": false,
  "max_model_len": 32768, "model_loader_extra_config": {"enable_weights_track": true}
}""",
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_settings_read_the_same_in_every_form(name, tmp_path):
    settings = read(tmp_path, name, FORMS[name])
    assert settings.values == SAME
    assert settings.engine == "vllm"


@pytest.mark.parametrize("name", FORMS)
def test_the_line_of_a_setting_is_the_line_in_the_file(name, tmp_path):
    settings = read(tmp_path, name, FORMS[name])
    lines = FORMS[name].splitlines()
    for key in ("tensor_parallel_size", "max_model_len"):
        line = lines[settings.lines[key] - 1]
        assert str(settings.values[key])[:2] in line, (key, line)
        assert settings.place(key)[0] == f"{name}:{settings.lines[key]}"


def test_every_argument_has_one_kind_and_every_short_form_a_known_argument():
    assert len(KINDS) == 318  # 316 of the server's parser, 2 of EngineArgs alone
    assert set(SHORT.values()) <= set(KINDS)
    assert set(CHOICES) <= set(KINDS)
    assert not REMOVED.keys() & set(KINDS)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("--tensor-parallel-size", "tensor_parallel_size"),
        ("--tensor_parallel_size", "tensor_parallel_size"),
        ("tensor-parallel-size", "tensor_parallel_size"),
        ("-tp", "tensor_parallel_size"),
        ("-pp", "pipeline_parallel_size"),
        ("-dp", "data_parallel_size"),
        ("-q", "quantization"),
        ("-O", "optimization_level"),
        ("--tensor-parallel", "tensor_parallel_size"),  # argparse takes a clear beginning
        ("--quant", "quant"),  # quantization or quantization-config: argparse refuses it
        ("--device-memory-utilization", "gpu_memory_utilization"),
        ("--swap-space", "swap_space"),
        ("--nonsense", "nonsense"),
    ],
)
def test_spellings_of_arguments_resolve_as_in_vllm(written, name):
    assert full_name(written) == name


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("tensor_parallel_size", "2", 2),
        ("tensor_parallel_size", "two", "two"),
        ("tensor_parallel_size", "2.0", "2.0"),  # argparse: invalid int value
        ("max_model_len", "32k", 32000),
        ("max_model_len", "32K", 32768),
        ("max_model_len", "auto", -1),
        ("max_model_len", "9" * 400 + "k", "9" * 400 + "k"),
        ("gpu_memory_utilization", ".9", 0.9),
        ("compilation_config", "3", 3),
        ("compilation_config", '{"mode": 3}', {"mode": 3}),
        ("compilation_config", "[" * 5000, "[" * 5000),
        ("dtype", "half", "half"),
    ],
)
def test_texts_are_parsed_as_in_vllm(name, text, value):
    assert value_of(name, text) == value


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("tensor_parallel_size", 2, True),
        ("tensor_parallel_size", True, False),
        ("tensor_parallel_size", 2.0, False),
        ("enforce_eager", True, True),
        ("enforce_eager", "true", False),
        ("gpu_memory_utilization", 1, True),
        ("gpu_memory_utilization", "0.9", False),
        ("model", ["a"], False),
        ("served_model_name", ["a"], True),
        ("hf_overrides", {}, True),
        ("not_ours", object(), True),
        ("max_model_len", None, True),
    ],
)
def test_a_value_fits_its_argument_or_not(name, value, good):
    assert fits(name, value) is good


def test_a_misspelled_name_finds_its_neighbour():
    assert nearest("quantisation") == "quantization"
    assert nearest("gpu_memory_utilisation") == "gpu_memory_utilization"
    assert nearest("xyzzy") is None


@pytest.mark.parametrize(
    ("name", "text", "variables"),
    [
        ("a.sh", "VLLM_USE_TRITON_AWQ=1 vllm serve m", {"VLLM_USE_TRITON_AWQ": "1"}),
        ("a.sh", "env VLLM_A=1 nohup vllm serve m", {"VLLM_A": "1"}),
        ("a.sh", "export VLLM_A=1 NCCL_DEBUG=INFO; vllm serve m",
         {"VLLM_A": "1", "NCCL_DEBUG": "INFO"}),
        ("a.sh", "N=2\nexport VLLM_A=${N}\nvllm serve m", {"VLLM_A": "2"}),
        ("a.sh", "export VLLM_A=$(nproc)\nvllm serve m", {"VLLM_A": UNKNOWN}),
        ("a.sh", "VLLM_A=1\nvllm serve m", {}),  # not exported: the server does not see it
        ("a.sh", "export PATH=/x EDITOR=vi\nvllm serve m", {}),
        ("a.sh", "docker run -e VLLM_A=1 --env 'HF_HOME=/a b' vllm/vllm-openai --model m",
         {"VLLM_A": "1", "HF_HOME": "/a b"}),
        ("Dockerfile", "ENV VLLM_A 1\nENV VLLM_B=2\nCMD vllm serve m",
         {"VLLM_A": "1", "VLLM_B": "2"}),
        ("a.service", '[Service]\nEnvironment="VLLM_A=1"\nExecStart=/v/bin/vllm serve m\n',
         {"VLLM_A": "1"}),
        ("a.yaml", "image: vllm/vllm-openai\ncommand: vllm serve m\nenvironment:\n  - VLLM_A=1\n",
         {"VLLM_A": "1"}),
        ("a.yaml", "image: vllm\ncommand: [vllm, serve, m]\nenvironment: {VLLM_A: 1}\n",
         {"VLLM_A": "1"}),
        ("a.yaml", "image: vllm\nargs: [vllm, serve, m]\nenv: [{name: VLLM_A, value: '1'}]\n",
         {"VLLM_A": "1"}),
        ("a.py", 'import os\nos.environ["VLLM_A"] = "1"\nLLM("m")\n', {"VLLM_A": "1"}),
        ("a.py", 'os.environ.setdefault("VLLM_A", str(n))\nLLM("m")\n', {"VLLM_A": UNKNOWN}),
    ],
)  # fmt: skip
def test_variables_that_reach_the_server_are_read(name, text, variables, tmp_path):
    settings = read(tmp_path, name, text)
    assert settings.environment == variables
    assert settings.values["model"] == "m"


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("a.sh", "vllm serve m -tp $GPUS", "tensor_parallel_size"),
        ("a.sh", "vllm serve m -tp $(nvidia-smi -L | wc -l) --dtype half", "tensor_parallel_size"),
        ("a.sh", "vllm serve ${MODEL:?none} --dtype half", "model"),
        ("a.yaml", "model: m\ntensor-parallel-size: '{{ .Values.gpus }}'\n",
         "tensor_parallel_size"),
        ("a.yaml", "image: vllm\nargs: [vllm, serve, m, -tp, $(GPUS)]", "tensor_parallel_size"),
        ("a.py", "LLM('m', tensor_parallel_size=torch.cuda.device_count())",
         "tensor_parallel_size"),
        ("a.py", "LLM('m', tensor_parallel_size=1 + 1 if big else 2)", "tensor_parallel_size"),
        ("a.py", "LLM(sys.argv[1], dtype='half')", "model"),
    ],
)  # fmt: skip
def test_values_known_only_at_run_time_are_unknown_and_judged_by_no_rule(name, text, key, tmp_path):
    settings = read(tmp_path, name, text)
    assert settings.values[key] == UNKNOWN
    assert not [f for f in judge_settings(settings) if any(key in e.text for e in f.evidence)]


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("M=a/b\nvllm serve $M", "a/b"),
        ('M=a/b\nvllm serve "${M}"', "a/b"),
        ("vllm serve ${M:-a/b}", "a/b"),
        ("vllm serve 'a/$b'", "a/$b"),
        ("vllm serve --dtype half a/b", "a/b"),
        ("vllm serve a/b  # --dtype float32", "a/b"),
        ("if true; then vllm serve a/b; fi", "a/b"),
        ("(cd /x && vllm serve a/b) | tee log", "a/b"),
    ],
)
def test_the_model_of_a_command_is_read(text, model, tmp_path):
    settings = read(tmp_path, "a.sh", text)
    assert settings.values["model"] == model
    assert set(settings.values) <= {"model", "dtype"}
    assert settings.values.get("dtype") in (None, "half")


def test_torch_types_are_read_by_their_names(tmp_path):
    settings = read(tmp_path, "a.py", "LLM('m', dtype=torch.float16)")
    assert settings.values["dtype"] == "float16"


def test_another_packages_llm_is_no_engine(tmp_path):
    text = "from crewai import LLM\nfrom vllm import EngineArgs\nLLM('x')\nEngineArgs(model='m')\n"
    assert read(tmp_path, "a.py", text).values == {"model": "m"}


def test_sglang_arguments_get_vllm_names(tmp_path):
    text = "python -m sglang.launch_server --model-path m --tp 2 --disable-cuda-graph --tool x"
    settings = read(tmp_path, "a.sh", text)
    assert settings.engine == "sglang"
    assert settings.values == {
        "model": "m", "tensor_parallel_size": 2, "enforce_eager": True, "tool": "x",
    }  # fmt: skip
    assert settings.current("tensor_parallel_size") == "--tp 2"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("docker run vllm/vllm-openai:v0.9.2 --model m", (0, 9)),
        ("pip install vllm==0.11.0\nvllm serve m", (0, 11)),
        ("vllm serve m", None),
    ],
)
def test_a_release_is_read_off_an_image_or_a_pin(text, version, tmp_path):
    assert read(tmp_path, "a.sh", text).version == version


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("a.sh", "vllm serve a\nvllm serve b", "several-commands"),
        ("a.py", "LLM('a')\nLLM('b')", "several-commands"),
        ("a.sh", "vllm serve a --dtype half --dtype auto", "given-twice"),
        ("a.sh", "vllm serve a --dtype --seed 1", "argument-without-value"),
        ("a.sh", "vllm serve a --enforce-eager true --seed 1", "flag-with-value"),
        ("a.sh", "vllm serve a \\ \n  --dtype half", "broken-continuation"),
        ("a.sh", "vllm serve --config serve.yaml", "settings-elsewhere"),
        ("a.yaml", "model: m\nenable_prefix_caching: false\n", "false-overlooked"),
    ],
)
def test_oddities_of_a_file_are_notes(name, text, note, tmp_path):
    settings = read(tmp_path, name, text)
    assert [finding.id for finding in settings.notes] == [note]
    assert note in [finding.id for finding in judge_settings(settings)]


def test_false_counts_in_yaml_where_vllm_sees_it(tmp_path):
    # 0.32 looks for the option --no-KEY, spelled with dashes, and knows none with underscores
    flags = "enable-prefix-caching: false\nenable_chunked_prefill: false\nenforce_eager: false\n"
    settings = read(tmp_path, "a.yaml", "model: m\n" + flags)
    assert settings.values == {
        "model": "m", "enable_prefix_caching": False, "enforce_eager": False,
    }  # fmt: skip
    assert "enable_chunked_prefill: false" in settings.notes[0].title


def test_a_flag_with_a_value_swallows_no_argument(tmp_path):
    settings = read(tmp_path, "a.sh", "vllm serve --enforce-eager false m --seed 1")
    assert settings.values == {"model": "m", "enforce_eager": False, "seed": 1}


def test_python_is_never_run(tmp_path):
    trace = tmp_path / "trace"
    text = f"""
open({str(trace)!r}, "w").write("run")
raise SystemExit(3)
from vllm import LLM
LLM("m", seed=open({str(trace)!r}, "w").write("run"), dtype=__import__("os").system("true"))
"""
    settings = read(tmp_path, "evil.py", text)
    assert settings.values == {"model": "m", "seed": UNKNOWN, "dtype": UNKNOWN}
    assert not trace.exists()


def test_yaml_makes_no_objects(tmp_path):
    trace = tmp_path / "trace"
    text = f"model: !!python/object/apply:os.system ['touch {trace}']\n"
    with pytest.raises(RequestError, match=r"evil\.yaml is no YAML on line 1"):
        read(tmp_path, "evil.yaml", text)
    assert not trace.exists()


SECRETS = {
    "a.sh": f"export HF_TOKEN={SECRET}\nvllm serve m --api-key {SECRET} --hf-token={SECRET}",
    "b.sh": f"docker run -e HUGGING_FACE_HUB_TOKEN={SECRET} vllm/vllm-openai --model m",
    "c.sh": f"export HF_ENDPOINT=https://me:{SECRET}@hub.example/\nvllm serve m",
    "a.yaml": f"model: m\napi-key: [{SECRET}]\nkv-transfer-config: {{a: {{api_key: {SECRET}}}}}",
    "b.yaml": f"image: vllm\nargs: [vllm, serve, m]\nenv: [{{name: HF_TOKEN, value: {SECRET}}}]",
    "a.py": f"import os\nos.environ['HF_TOKEN'] = '{SECRET}'\nLLM('m', hf_token='{SECRET}')",
    "a.json": f'{{"model": "m", "hf_token": "{SECRET}", "otlp_traces_endpoint": '
    f'"http://u:{SECRET}@x"}}',
    "d.sh": f"python -m sglang.launch_server --model m --api-key {SECRET} --admin-api-key {SECRET}",
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_never_shown(name, tmp_path):
    settings = read(tmp_path, name, SECRETS[name])
    assert SECRET not in repr(settings)
    assert SECRET not in repr(judge_settings(settings))
    assert "(set)" in repr(settings) or "(hidden)" in repr(settings)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", f"api-key: {SECRET}: [\n"),
        ("a.yaml", f"api-key: !!int {SECRET}\n"),
        ("a.json", f'{{"api_key": "{SECRET}", '),
        ("a.py", f"LLM(api_key='{SECRET}'"),
        ("a.txt", f"nothing here but {SECRET}"),
    ],
)
def test_a_secret_is_not_in_a_refusal(name, text, tmp_path):
    with pytest.raises(RequestError) as refused:
        read(tmp_path, name, text)
    assert SECRET not in str(refused.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", BOMB, "holds more than 100,000 values"),
        ("a.yaml", "a: &a [*a]", "holds more than 100,000 values"),
        ("a.yaml", "a: " + "[" * 1000, "is no YAML of plain values"),
        ("a.yaml", "a: 2026-13-45\n", "is no YAML of plain values"),
        ("a.yaml", "a: !!bool x\n", "is no YAML of plain values"),
        ("a.yaml", "a: [1\n", "is no YAML on line 2"),
        ("a.yaml", "# " + "x" * YAML_LIMIT, "characters of YAML"),
        ("a.yaml", "- a\n- b\n", "holds no settings of vLLM or SGLang"),
        ("a.yaml", "seed: 1\noutput_dir: x\nlr: 3\nepochs: 4\n", "holds no settings"),
        ("a.yaml", "", "holds no settings"),
        ("a.json", "[1, 2]", "holds no settings"),
        ("a.json", "[" * 100_000, "is no JSON"),
        ("a.json", '{"model": "m",}', r"is no JSON \(line 1\)"),
        ("config.json", '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
         "is a model's config.json"),
        ("a.py", "def f(:\n", r"is no Python that can be read \(line 1\)"),
        ("a.py", "(" * 5000, "is no Python that can be read"),
        ("a.py", "x = " + "-" * 100_000 + "1", "is no Python that can be read"),
        ("a.py", "print(1)\n", "holds no settings"),
        ("a.sh", "echo vllm serve m\npip install vllm\n", "holds no settings"),
        ("a.txt", "just words\n", "holds no settings"),
        ("a.txt", "just: words\nmore: [words", "holds no settings"),
        ("a.bin", b"\x7fELF\0\0vllm serve m", "null bytes"),
        ("a.sh", b"vllm serve \xff\xfe", r"no UTF-8 text \(byte 11\)"),
        ("a.sh", b"x" * (FILE_LIMIT + 1), "at most 4,194,304 fit"),
        ("a.sh", "vllm serve m " + " ".join(f"--x{i} 1" for i in range(1001)),
         "more than 1,000 arguments"),
        ("a.json", '{"model": "m", ' + ", ".join(f'"x{i}": 1' for i in range(1001)) + "}",
         "more than 1,000 arguments"),
    ],
)  # fmt: skip
def test_a_file_without_settings_is_refused_with_the_reason(name, text, message, tmp_path):
    began = time.monotonic()
    with pytest.raises(RequestError, match=message) as refused:
        read(tmp_path, name, text)
    assert str(tmp_path / name) in str(refused.value)
    assert time.monotonic() - began < 5


def test_a_folder_and_a_missing_file_are_refused_with_the_reason(tmp_path):
    with pytest.raises(RequestError, match="is a folder"):
        read_settings(tmp_path)
    with pytest.raises(RequestError, match="is not there"):
        read_settings(tmp_path / "missing.yaml")
    with pytest.raises(RequestError, match=r"What fits: a YAML file for `vllm serve --config`"):
        read_settings(tmp_path / "x\0.yaml")


def test_letters_that_would_move_a_terminal_are_not_shown(tmp_path):
    text = '{"model": "m\\u001b[31m\\ud800", "quantization": "awq", "\\u001b[2Jx": 1}'
    for finding in judge_settings(read(tmp_path, "a.json", text)):
        texts = (finding.title, *finding.do, *(e.text for e in finding.evidence))
        assert all(text.isprintable() for text in texts)
        assert "".join(texts).encode()


def read_or_refuse(folder: Path, name: str, text: bytes) -> None:
    """Reading and judging end with settings or with our own error, whatever the bytes."""
    try:
        settings = read(folder, name, text)
    except RequestError:
        return
    for finding in judge_settings(settings):
        assert finding.title
        assert finding.evidence or finding.level == "good"


TOKENS = (
    "vllm serve -- --tp -q ' \" \\ \n {{ $( ) { } [ ] : , = model dtype awq &a *a !!int - "
    'sglang.launch_server LLM( ** lambda 0x 1e999 .nan null args: image: command: CMD ["a" '
    "--model-loader-extra-config. -O3 docker run vllm/vllm-openai # sh -c 'vllm env: -e A=1"
)
SUFFIXES = (".yaml", ".json", ".py", ".sh", ".txt")


@pytest.mark.parametrize("seed", range(4))
def test_random_texts_end_in_settings_or_a_refusal(seed, tmp_path):
    draw = random.Random(seed)
    for _ in range(40):
        noise = draw.randbytes(draw.randrange(80))
        text = " ".join(draw.choices(TOKENS.split(" "), k=draw.randrange(1, 40))).encode()
        for suffix in SUFFIXES:
            read_or_refuse(tmp_path, "x" + suffix, draw.choice((noise, text, text + noise)))


@pytest.mark.parametrize("name", FORMS)
def test_a_damaged_file_ends_in_settings_or_a_refusal(name, tmp_path):
    whole, draw = FORMS[name].encode(), random.Random(name)
    for _ in range(15):
        text = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            text[draw.randrange(len(text))] = draw.randrange(9, 127)
        read_or_refuse(tmp_path, name, bytes(text[: draw.randrange(1, len(text) + 1)]))


ODD = [None, True, -1, 0, 2**70, 1.5, float("nan"), float("inf"), "", "x", UNKNOWN, [], [1], {},
       {"a": 1}, {1: {2: 3}}, [[["x"]]], b"x", 1j]  # fmt: skip
JUDGED = {key for rule in RULES for key in rule.subjects if key.islower()} | set(CHOICES)
CONFIGURED = ("quantization_config", "num_attention_heads", "num_hidden_layers", "text_config")


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_value_of_any_type_in_any_argument_is_judged_without_a_crash(value, tmp_path):
    for key in JUDGED:
        settings = ServingSettings(tmp_path / "a.yaml", "yaml", {"model": "m-awq", key: value})
        findings = judge_settings(settings, gpu=GPU)
        assert "wrong-type" in [f.id for f in findings] or fits(key, value) or value == UNKNOWN
    for key in CONFIGURED:
        settings = ServingSettings(
            tmp_path / "a.yaml", "yaml", {"model": "m", "tensor_parallel_size": 3}
        )
        for config in ({key: value}, {"text_config": {key: value}}, {"quantization_config": value}):
            judge_settings(settings, gpu=GPU, config=config)


KUBERNETES = """
kind: Deployment
spec:
  containers:
  - image: vllm/vllm-openai:v0.8.5
    command: [python3, -m, vllm.entrypoints.openai.api_server]
    args:
    - --model=$(MODEL_ID)
    - --quantization=awq
    - --dtype=$(DTYPE)
    - --max-model-len=${LEN:-4096}
    env:
    - {name: MODEL_ID, value: org/Model-AWQ}
    - {name: DTYPE, valueFrom: {secretKeyRef: {name: a}}}
"""


def test_variables_of_a_container_are_resolved_or_unknown(tmp_path):
    path = tmp_path / "deployment.yaml"
    path.write_text(KUBERNETES)
    settings = read_settings(path)
    assert settings.values == {
        "model": "org/Model-AWQ",
        "quantization": "awq",
        "dtype": UNKNOWN,
        "max_model_len": 4096,
    }
    assert settings.release == (0, 8, 5)
