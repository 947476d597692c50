"""Rules about serving settings: each applies where it should, and its steps fix the finding."""

from pathlib import Path

import pytest

from salient.diagnose.finding import BAD, LEVELS, SECURITY, Finding
from salient.diagnose.serving.read_settings import read_settings
from salient.diagnose.serving.rule_context import RuleContext
from salient.diagnose.serving.server_conditions import cache_bytes
from salient.diagnose.serving.serving_rules import CONDITIONS, RULES, judge_settings
from salient.diagnose.serving.settings import ServingSettings
from salient.plan.gpus import Gpu

RTX4090 = Gpu("RTX 4090", "nvidia", "Ada", 24.0, 1008, 165, capability=89)
A100 = Gpu("A100 80GB", "nvidia", "Ampere", 80.0, 2039, 312, capability=80)
T4 = Gpu("T4", "nvidia", "Turing", 16.0, 320, 65, capability=75)
V100 = Gpu("V100", "nvidia", "Volta", 32.0, 900, 125, capability=70)
MI300 = Gpu("MI300X", "amd", "CDNA 3", 192.0, 5300, 1307, gfx="gfx942")
CPU = Gpu("CPU", "cpu", "", 64.0, 80, 2)
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
# published config.json figures
LLAMA = {
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072,
    "quantization_config": AWQ,
}  # fmt: skip
QWEN_VL_72B = {
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "hidden_size": 8192, "intermediate_size": 29568, "quantization_config": AWQ,
}  # fmt: skip
MIXTURE = {
    "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "hidden_size": 2048, "moe_intermediate_size": 768, "num_experts": 128,
    "quantization_config": AWQ,
}  # fmt: skip
PLAIN = {key: value for key, value in LLAMA.items() if key != "quantization_config"}
M = "model: Qwen/Qwen2.5-7B-Instruct-AWQ\n"
SGLANG = "model-path: Qwen/Qwen2.5-7B-Instruct-AWQ\n"


def read(folder: Path, text: str, name: str = "serve.yaml") -> ServingSettings:
    (folder / name).write_text(text)
    return read_settings(folder / name)


# YAML, other known facts, and the first finding
CASES = [
    (M + "quantization: awq\n", {}, "awq-forced-slow"),
    (M + "quantization: awq\n", {"version": (0, 9)}, "awq-forced-slow"),
    (M + "quantization: awq\n", {"version": (0, 23), "gpu": T4}, "awq-forced-slow"),
    (M + "quantization: awq\n", {"version": (0, 32)}, "awq-named-needlessly"),
    (SGLANG + "quantization: awq\n", {}, "awq-forced-slow"),
    ("model: mistralai/Mistral-7B-Instruct-v0.3\nquantization: awq\n", {}, "base-model-named"),
    ("model: mine\nquantization: awq\n", {"config": PLAIN}, "base-model-named"),
    ("model: mine\nquantization: awq_marlin\n", {"config": PLAIN}, "base-model-named"),
    (M + "quantization: gptq\n", {"config": LLAMA}, "quantization-mismatch"),
    (M + "quantization: awq\n", {"config": {"quantization_config": {
        "quant_method": "compressed-tensors"}}}, "quantization-mismatch"),
    (M + "quantization: awq_marlin\n", {"gpu": CPU}, "awq-marlin-on-cpu"),
    (M + "quantization: awq_marlin\n", {"gpu": T4, "version": (0, 10)}, "awq-marlin-on-old-gpu"),
    (M, {"gpu": V100}, "capability-too-low"),
    (M, {"gpu": MI300}, "awq-rocm"),
    (M + "quantization: awq-marlin\n", {}, "quantization-unknown"),
    ("model: mine\n", {"config": PLAIN}, "model-not-quantized"),
    (M + "host: 127.0.0.1\n", {"config": LLAMA}, "tensors-untracked"),
    (M + "dtype: float32\n", {}, "float32-with-awq"),
    (M + "dtype: bfloat16\nquantization: awq\n", {"version": (0, 9)}, "bfloat16-with-slow-awq"),
    (M + "dtype: bfloat16\n", {"gpu": T4}, "bfloat16-on-old-gpu"),
    (M + "dtype: float16\n", {"gpu": CPU}, "cpu-float16"),
    (M + "host: 127.0.0.1\nmodel-loader-extra-config: {enable_weights_track: true}\n",
     {"gpu": CPU}, "cpu-w4a8"),
    (M + "linear-backend: exllama\n", {}, "linear-backend-slow"),
    (M + "load-format: dummy\n", {}, "dummy-weights"),
    (M + "load-format: pt\n", {}, "load-format"),
    (M + "gpu-memory-utilization: 90\n", {}, "memory-in-percent"),
    (M + "gpu-memory-utilization: 0\n", {}, "memory-out-of-range"),
    (M + "gpu-memory-utilization: -1\n", {}, "memory-out-of-range"),
    (M + "gpu-memory-utilization: 0.98\n", {}, "memory-too-high"),
    (M + "gpu-memory-utilization: 0.3\n", {}, "memory-low"),
    (M + "kv-cache-memory-bytes: 8G\ngpu-memory-utilization: 0.3\nhost: 127.0.0.1\n", {},
     "memory-ignored"),
    (M + "max-model-len: 200000\n", {"config": LLAMA}, "context-too-long"),
    (M, {"config": LLAMA, "gpu": T4}, "context-no-room"),
    (M, {"config": LLAMA, "gpu": RTX4090}, "context-long"),
    (M + "max-model-len: 128K\n", {"gpu": RTX4090}, "context-long"),
    (M + "max-num-seqs: 1\n", {}, "few-sequences"),
    (SGLANG + "max-running-requests: 2\n", {}, "few-sequences"),
    (M + "max-num-batched-tokens: 2048\nmax-model-len: 8192\nno-enable-chunked-prefill: true\n",
     {}, "prompt-too-long-for-batch"),
    (M + "max-num-batched-tokens: 256\n", {}, "small-batches"),
    (M + "no-enable-chunked-prefill: true\n", {}, "chunked-prefill-off"),
    (M + "no-enable-prefix-caching: true\n", {}, "prefix-caching-off"),
    (SGLANG + "disable-radix-cache: true\n", {}, "prefix-caching-off"),
    (M + "enforce-eager: true\n", {}, "eager"),
    (M + "optimization-level: 0\n", {}, "not-compiled"),
    (M + "compilation-config: 0\n", {}, "not-compiled"),
    (M + "cpu-offload-gb: 4\n", {"gpu": RTX4090}, "weights-offloaded"),
    (M + "swap-space: 4\nhost: 127.0.0.1\n", {"version": (0, 9)}, "swap-space"),
    (M + "kv-cache-dtype: fp8\n", {"gpu": A100}, "fp8-cache-on-old-gpu"),
    (M + "disable-log-stats: true\nhost: 127.0.0.1\n", {"version": (0, 9)}, "stats-off"),
    (M + "tensor-parallel-size: 5\n", {"config": LLAMA}, "heads-not-divisible"),
    (M + "tensor-parallel-size: 2\n", {"config": QWEN_VL_72B}, "groups-cut"),
    (M + "tensor-parallel-size: 4\n", {"config": MIXTURE}, "groups-cut"),
    (M + "tensor-parallel-size: 16\nnnodes: 2\nmaster-addr: a\npipeline-parallel-size: 2\n"
     "host: 127.0.0.1\n", {"config": {**LLAMA, "intermediate_size": 16384}}, "cache-copied"),
    (M + "tensor-parallel-size: 16\n", {}, "nodes-missing"),
    (M + "tensor-parallel-size: 8\npipeline-parallel-size: 2\nnnodes: 2\n", {},
     "nodes-without-address"),
    (M + "nnodes: 2\nmaster-addr: a\ndistributed-executor-backend: ray\n", {}, "ray-with-nodes"),
    (M + "nnodes: 2\nmaster-addr: a\ntensor-parallel-size: 8\n", {},
     "tensor-parallel-over-network"),
    (M + "nnodes: 2\nmaster-addr: a\nnode-rank: 1\nhost: 127.0.0.1\n", {"version": (0, 14)},
     "worker-not-headless"),
    (M + "data-parallel-size: 2\ndata-parallel-external-lb: true\n", {"config": LLAMA},
     "external-copies-of-dense"),
    (M + "data-parallel-size: 2\nhost: 127.0.0.1\n", {"config": LLAMA, "version": (0, 9)},
     "copies-of-dense"),
    (M + "enable-expert-parallel: true\n", {"config": LLAMA}, "experts-of-dense"),
    (M + "distributed-executor-backend: ray\nhost: 127.0.0.1\n", {"version": (0, 9)},
     "ray-for-one-node"),
    (M + "disable-custom-all-reduce: true\ntensor-parallel-size: 2\n", {},
     "custom-all-reduce-off"),
    (M + "trust-remote-code: true\n", {}, "remote-code"),
    (M + "host: 0.0.0.0\n", {}, "open-to-network"),
    (M, {"version": (0, 9)}, "open-by-default"),
    (M + "api-key: [abc]\n", {"version": (0, 9)}, "secret-in-settings"),
    (M + "tensor-parallel-size: two\n", {}, "wrong-type"),
    (M + "enforce-eager: 'true'\n", {}, "wrong-type"),
    (M + "quantisation: awq\n", {}, "unknown-argument"),
    (M + "swap-space: 4\n", {}, "argument-gone"),
    (M + "task: embed\n", {"version": (0, 32)}, "argument-gone"),
    (M + "attention-backend: FLASHINFER\n", {"version": (0, 10)}, "argument-newer"),
    (M + "kv-cache-dtype: int8\n", {}, "not-a-choice"),
    ("model: org/Some-GPTQ-Int4\nquantization: awq\n", {}, "quantization-mismatch"),
    ("model: cpatonn/Some-AWQ-4bit\nquantization: awq\n", {}, "quantization-mismatch"),
    (M + "max-model-len: -1\ngpu-memory-utilization: 0.95\n", {}, "context-fills-memory"),
    (SGLANG + "enable-torch-compile: true\n", {}, "compiled-awq"),
    (M + "dtype: fp16\n", {"version": (0, 32)}, "not-a-choice"),
]  # fmt: skip
# variables before `vllm serve MODEL --host 127.0.0.1`
VARIABLES = [
    ("VLLM_BATCH_INVARIANT=1", {}, "batch-invariant"),
    ("VLLM_DISABLED_KERNELS=MarlinLinearKernel,MacheteLinearKernel", {}, "kernels-disabled"),
    ("VLLM_USE_TRITON_AWQ=1", {}, "triton-awq"),
    ("VLLM_MARLIN_INPUT_DTYPE=int8", {}, "marlin-input-type"),
    ("CUDA_LAUNCH_BLOCKING=1", {}, "launch-blocking"),
    ("VLLM_ALLOW_LONG_MAX_MODEL_LEN=1", {}, "context-beyond-model"),
    ("VLLM_LOGGING_LEVEL=ERROR", {"version": (0, 9)}, "log-too-quiet"),
    ("VLLM_ATTENTION_BACKEND=FLASHINFER", {"version": (0, 32)}, "variable-gone"),
]
GOOD = [
    (M, "method-from-checkpoint"),
    (M + "model-loader-extra-config: {enable_weights_track: true}\n", "tensors-tracked"),
    (M + "api-key: [abc]\n", "key-set"),
]


@pytest.mark.parametrize(("text", "known", "expected"), CASES)
def test_the_rule_about_a_setting_is_the_first_finding(text, known, expected, tmp_path):
    ids = [finding.id for finding in judge_settings(read(tmp_path, text), **known)]
    # those about security come last
    assert next(id for id in ids if (id in SECURITY) == (expected in SECURITY)) == expected


@pytest.mark.parametrize(("variable", "known", "expected"), VARIABLES)
def test_the_rule_about_a_variable_is_the_first_finding(variable, known, expected, tmp_path):
    text = f"{variable} vllm serve Qwen/Qwen2.5-7B-Instruct-AWQ --host 127.0.0.1"
    findings = judge_settings(read(tmp_path, text, "serve.sh"), **known)
    assert findings[0].id == expected


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_good_settings_are_findings_too(text, expected, tmp_path):
    findings = judge_settings(read(tmp_path, text))
    assert expected in [finding.id for finding in findings if finding.level == "good"]


def test_a_number_that_is_none_is_out_of_range(tmp_path):
    findings = judge_settings(read(tmp_path, M + "gpu-memory-utilization: .nan\n"))
    assert findings[0].id == "memory-out-of-range"


def test_every_rule_has_a_case():
    expected = {case[-1] for case in CASES + VARIABLES + GOOD}
    assert {rule.id for rule in RULES} <= expected
    assert len({rule.id for rule in RULES}) >= 25
    assert len(RULES) == len(CONDITIONS)


@pytest.mark.parametrize(
    ("command", "known"),
    [
        ("vllm serve Qwen/Qwen2.5-7B-Instruct-AWQ", {}),
        ("vllm serve Qwen/Qwen2.5-7B-Instruct-AWQ -tp 2 --max-model-len 32768",
         {"gpu": RTX4090, "config": LLAMA, "version": (0, 32)}),
        ("vllm serve /models/llama-awq --gpu-memory-utilization 0.9 --seed 1 --port 8080 "
         "--served-model-name llama --host 127.0.0.1 --enable-prefix-caching",
         {"gpu": A100, "config": LLAMA, "version": (0, 9)}),
        ("vllm serve m-AWQ -tp 8 -pp 2 --nnodes 2 --node-rank 0 --master-addr 10.0.0.1",
         {"gpu": A100}),
        ("vllm serve m-AWQ --data-parallel-size 8 --enable-expert-parallel", {"config": MIXTURE}),
        ("vllm serve m --dtype bfloat16 --quantization compressed-tensors",
         {"gpu": MI300, "config": {"quantization_config": {"quant_method": "compressed-tensors"}}}),
        ("python -m sglang.launch_server --model-path m-AWQ --tp 2 --mem-fraction-static 0.8", {}),
    ],
)  # fmt: skip
def test_a_clean_command_yields_nothing_above_a_note(command, known, tmp_path):
    findings = judge_settings(read(tmp_path, command, "serve.sh"), **known)
    assert not [f for f in findings if LEVELS.index(f.level) < LEVELS.index("note")]


def fixed(text: str, finding: Finding) -> str:
    """The YAML after the finding's diff: lines that begin with - go, those with + come."""
    lines = text.splitlines()
    for step in finding.do:
        if step.startswith("- "):
            lines.remove(step[2:])
        elif step.startswith("+ ") and not step.startswith("+ ("):
            lines.append(step[2:])
    return "\n".join(lines) + "\n"


# findings with a diff of the file; the two of contexts leave a length that may still be long
WITH_DIFF = {rule.id for rule in RULES if any(key.islower() for key in rule.change)} | {
    "unknown-argument", "argument-gone", "not-a-choice",
}  # fmt: skip
WITH_DIFF -= {"context-no-room", "context-long"}


@pytest.mark.parametrize(
    ("text", "known", "expected"), [case for case in CASES if case[-1] in WITH_DIFF]
)
def test_the_steps_of_a_finding_fix_it(text, known, expected, tmp_path):
    findings = [f for f in judge_settings(read(tmp_path, text), **known) if f.id == expected]
    after = fixed(text, findings[0])
    assert after != text
    if expected == "base-model-named":
        known = {}  # another model has another config
    assert expected not in [f.id for f in judge_settings(read(tmp_path, after), **known)]


@pytest.mark.parametrize(
    ("name", "text", "steps"),
    [
        ("a.yaml", M + "quantization: awq\n", ("- quantization: awq", "+ (leave it out)")),
        ("a.sh", "vllm serve m-awq -q awq", ("- -q awq", "+ (leave it out)")),
        ("a.py", "LLM('m-awq', quantization='awq')", ('- quantization="awq"', "+ (leave it out)")),
        ("a.json", '{"model": "m-awq", "quantization": "awq"}',
         ('- "quantization": "awq"', "+ (leave it out)")),
    ],
)  # fmt: skip
def test_a_diff_is_spelled_as_the_file_is(name, text, steps, tmp_path):
    finding = judge_settings(read(tmp_path, text, name))[0]
    assert finding.id == "awq-forced-slow"
    assert finding.do == steps
    assert finding.evidence[0].where == f"{name}:{2 if name == 'a.yaml' else 1}"
    assert "5x" in finding.why


@pytest.mark.parametrize(
    ("version", "level", "certainty"),
    [
        (None, "slow", "likely"),
        ((0, 6), "slow", "certain"),
        ((0, 23), "slow", "certain"),
        ((0, 24), "note", "certain"),
        ((0, 32), "note", "certain"),
        ((0, 99), "note", "certain"),
    ],
)
def test_a_forced_method_is_slow_only_where_releases_obey_it(version, level, certainty, tmp_path):
    findings = judge_settings(read(tmp_path, M + "quantization: awq\n"), version=version)
    assert (findings[0].level, findings[0].certainty) == (level, certainty)


def test_the_release_of_an_image_counts_unless_another_is_passed(tmp_path):
    text = "docker run vllm/vllm-openai:v0.9.2 --model m-awq --quantization awq"
    settings = read(tmp_path, text, "serve.sh")
    assert judge_settings(settings)[0].certainty == "certain"
    assert judge_settings(settings, version=(0, 32))[0].level == "note"


def test_a_base_model_and_its_forced_kernel_are_one_cause(tmp_path):
    text = "model: mistralai/Mistral-7B-Instruct-v0.3\nquantization: awq\n"
    findings = judge_settings(read(tmp_path, text), version=(0, 9))
    assert [f.id for f in findings if f.level in BAD] == ["base-model-named"]
    assert findings[0].do[:2] == (
        "- model: mistralai/Mistral-7B-Instruct-v0.3",
        "+ model: mistralai/Mistral-7B-Instruct-v0.3-AWQ",
    )
    assert any("salient quantize mistralai/Mistral-7B-Instruct-v0.3" in s for s in findings[0].do)


@pytest.mark.parametrize("method", ["bitsandbytes", "gguf", "gptq_bitblas", "fp8", "awq"])
def test_a_method_of_some_release_is_no_misspelling(method, tmp_path):
    findings = judge_settings(read(tmp_path, f"model: m-awq\nquantization: {method}\n"))
    assert "quantization-unknown" not in [f.id for f in findings]


@pytest.mark.parametrize("name", ["TheBloke/X-AWQ", "x-int4", "x-4bit", "x.w4a16", "x-GPTQ-Int4"])
def test_a_name_that_says_quantized_is_no_base_model(name, tmp_path):
    findings = judge_settings(read(tmp_path, f"model: {name}\nquantization: awq\n"))
    assert "base-model-named" not in [f.id for f in findings]


def test_a_cache_is_counted_as_published(tmp_path):
    # Llama 3.1 8B keeps 128 KiB a token: 16 GiB for its whole context of 128 Ki tokens
    case = RuleContext(read(tmp_path, M), config=LLAMA)
    assert cache_bytes(case) == 16 * 2**30
    halved = RuleContext(read(tmp_path, M + "tensor-parallel-size: 2\n"), config=LLAMA)
    assert cache_bytes(halved) == 8 * 2**30
    assert (
        cache_bytes(RuleContext(read(tmp_path, M), config={**LLAMA, "sliding_window": 4096})) == 0
    )


def test_a_cut_group_says_which_layer_and_which_sizes_fit(tmp_path):
    # vLLM issue 21695: 29568 inputs are 231 groups of 128, which no even number of GPUs divides
    text = M + "tensor-parallel-size: 2\n"
    finding = judge_settings(read(tmp_path, text), config=QWEN_VL_72B)[0]
    assert "29568 / 2 inputs of down_proj with groups of 128; what fits: 1" in finding.title
    smaller = {**QWEN_VL_72B, "quantization_config": {**AWQ, "group_size": 64}}
    assert "groups-cut" not in [f.id for f in judge_settings(read(tmp_path, text), config=smaller)]


def test_groups_are_read_off_compressed_tensors_too(tmp_path):
    weights = {"num_bits": 4, "group_size": 128, "strategy": "group"}
    config = {
        **QWEN_VL_72B,
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": weights}},
        },
    }
    findings = judge_settings(read(tmp_path, M + "tensor-parallel-size: 4\n"), config=config)
    assert findings[0].id == "groups-cut"


@pytest.mark.parametrize(("gib", "factor"), [(RTX4090, "32x"), (A100, "64x"), (None, "10 to")])
def test_offloaded_weights_are_slower_by_the_ratio_of_the_buses(gib, factor, tmp_path):
    findings = judge_settings(read(tmp_path, M + "cpu-offload-gb: 4\n"), gpu=gib)
    assert factor in findings[0].why


def test_an_unknown_argument_is_replaced_by_the_nearest_with_its_value(tmp_path):
    finding = judge_settings(read(tmp_path, M + "gpu-memory-utilisation: 0.9\n"))[0]
    assert finding.do == ("- gpu-memory-utilisation: 0.9", "+ gpu-memory-utilization: 0.9")
    assert "it has gpu_memory_utilization" in finding.title


def test_sglang_is_judged_by_its_own_arguments(tmp_path):
    text = "python -m sglang.launch_server --model-path m-AWQ --attention-backend fa3 "
    own = read(tmp_path, text + "--chunked-prefill-size 1 --tp 2 --mem-fraction-static 0.8", "a.sh")
    assert not [f for f in judge_settings(own) if f.id in ("unknown-argument", "wrong-type")]
    foreign = read(tmp_path, text + "--gpu-memory-utilization 0.9", "b.sh")
    assert "it is one of vLLM" in judge_settings(foreign)[0].title
    image = "docker run lmsysorg/sglang:v0.5.4 " + text
    old = read(tmp_path, image + "--enable-ep-moe", "c.sh")
    (finding,) = (f for f in judge_settings(old) if f.id == "argument-gone")
    assert finding.title == "SGLang no longer has the argument enable_ep_moe (gone since 0.5.4)"


def test_an_argument_of_a_later_release_is_spelled_as_the_older_one(tmp_path):
    text = "vllm serve m-AWQ --attention-backend FLASHINFER"
    finding = judge_settings(read(tmp_path, text, "a.sh"), version=(0, 10))[0]
    assert finding.title == "vLLM 0.10 has no argument attention_backend yet: it came with 0.13"
    assert finding.do == (
        "- --attention-backend FLASHINFER",
        "+ VLLM_ATTENTION_BACKEND=FLASHINFER",
    )
