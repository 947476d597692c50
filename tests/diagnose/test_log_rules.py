"""Rules over several lines of a log; a part of a log proves nothing."""

import io

import pytest

from salient.diagnose.finding import Finding
from salient.diagnose.log.log_facts import LogFacts
from salient.diagnose.log.log_reader import read_stream

ENGINE = (
    "(EngineCore pid=1) INFO 11-21 01:25:14 [core.py:133] Initializing a V1 LLM engine "
    "(v{version}) with config: model='org/m', speculative_config=None, tokenizer='org/m', "
    "dtype=torch.{dtype}, max_seq_len=32768, tensor_parallel_size=2, pipeline_parallel_size=1, "
    "quantization={quantization}, enforce_eager={eager}, kv_cache_dtype=auto, "
    "device_config={device}, seed=0, served_model_name=org/m"
)
KERNEL = "INFO 11-21 01:25:22 [auto_awq.py:451] Using {} for AutoAWQMarlinLinearMethod"
LOADED = "INFO 11-21 01:25:30 [a.py:5150] Model loading took 5.37 GiB memory and 9.1 seconds"
CACHE = "INFO 11-21 01:25:31 [kv_cache_utils.py:2327] GPU KV cache size: {:,} tokens"
FITS = "INFO 11-21 01:25:31 [a.py:8] Maximum concurrency for 32,768 tokens per request: {}x"
STATS = (
    "INFO 11-21 01:39:02 [loggers.py:335] Engine 000: Avg prompt throughput: {prompt} tokens/s, "
    "Avg generation throughput: {out} tokens/s, Running: {running} reqs, Waiting: {waiting} reqs,"
    "{more} GPU KV cache usage: {cache}%, Prefix cache hit rate: {hits}%"
)
STATS_V0 = (
    "INFO 08-21 00:27:46 metrics.py:345] Avg prompt throughput: 11.5 tokens/s, Avg generation "
    "throughput: 23.4 tokens/s, Running: 3 reqs, Swapped: 0 reqs, Pending: 2 reqs, GPU KV cache "
    "usage: 99.1%, CPU KV cache usage: 0.0%."
)


def engine(**fields: str) -> str:
    usual = {
        "version": "0.32.0", "dtype": "float16", "quantization": "auto_awq", "eager": "False",
        "device": "cuda",
    }  # fmt: skip
    return ENGINE.format(**(usual | fields))


def stats(times: int = 1, **fields: object) -> list[str]:
    usual: dict[str, object] = {
        "prompt": "76.8", "out": "37.3", "running": 4, "waiting": 0, "more": "", "cache": "1.1",
        "hits": "30.0",
    }  # fmt: skip
    return [STATS.format(**(usual | fields))] * times


def read(*lines: str) -> tuple[LogFacts, dict[str, Finding]]:
    data = "\n".join(lines).encode()
    reading = read_stream(io.BytesIO(data), "a.log", size=None)
    return reading.facts, {finding.id: finding for finding in reading.findings}


def test_awq_on_a_gpu_without_a_kernel_line_is_slow_for_listed_reasons():
    _, findings = read(engine(), LOADED)
    slow = findings["awq-slow-kernel"]
    assert (slow.level, slow.certainty) == ("slow", "likely")
    for reason in ("VLLM_BATCH_INVARIANT", "zero_point", "group_size", "7.5"):
        assert reason in " ".join(slow.do)


@pytest.mark.parametrize(
    "lines",
    [
        [engine(), KERNEL.format("MarlinLinearKernel"), LOADED],
        [engine(), "Using 'MARLIN' WNA16 MoE backend.", LOADED],
        [engine(), KERNEL.format("MacheteLinearKernel")],
        [engine()],
        [LOADED],
        [engine(device="cpu", quantization="awq"), LOADED],
        [engine(device="xpu"), LOADED],
        [engine(quantization="None"), LOADED],
        [engine(quantization="compressed-tensors"), LOADED],
        [engine(version="0.10.1", quantization="awq_marlin"), LOADED],
        [engine(version="0.5.5", quantization="awq_marlin"),
         "The model is convertible to awq_marlin during runtime. Using awq_marlin kernel.", LOADED],
    ],
)  # fmt: skip
def test_awq_is_not_slow_unless_the_log_proves_it(lines):
    _, findings = read(*lines)
    assert not [finding for finding in findings.values() if finding.level == "slow"]


@pytest.mark.parametrize("version", ["0.6.3.post1", "0.9.2", "0.20.1"])
def test_quantization_awq_on_a_gpu_was_slow_before_auto_awq(version):
    _, findings = read(engine(version=version, quantization="awq"), LOADED)
    assert findings["awq-slow-kernel"].level == "slow"
    assert "--quantization awq" in findings["awq-slow-kernel"].do[0]


def test_a_signature_of_the_slow_kernel_replaces_the_rule():
    line = (
        "INFO 06-17 13:04:11 [awq_marlin.py:120] Detected that the model can run with awq_marlin, "
        "however you specified quantization=awq explicitly, so forcing awq."
    )
    _, findings = read(line, engine(version="0.9.2", quantization="awq"), LOADED)
    assert "awq-slow-kernel" not in findings
    assert findings["awq-forced-slow"].level == "slow"


@pytest.mark.parametrize(
    "line",
    [
        "INFO 11-21 01:25:20 [rocm.py:850] Using TRITON_ATTN backend out of potential backends: x",
        "INFO 11-21 01:25:01 [__init__.py:239] Automatically detected platform rocm.",
    ],
)
def test_awq_on_rocm_is_slow_and_compressed_tensors_the_remedy(line):
    facts, findings = read(line, engine(), line, LOADED)
    assert facts.device == "rocm"
    assert "compressed-tensors" in " ".join(findings["awq-rocm"].do)


def test_bfloat16_with_the_slow_kernel_gives_a_warning():
    assert "awq-slow-bfloat16" in read(engine(dtype="bfloat16"), LOADED)[1]
    assert "awq-slow-bfloat16" not in read(engine(), LOADED)[1]
    fast = read(engine(dtype="bfloat16"), KERNEL.format("MarlinLinearKernel"), LOADED)[1]
    assert "awq-slow-bfloat16" not in fast


def test_a_restart_resets_the_facts():
    marlin = KERNEL.format("MarlinLinearKernel")
    facts, findings = read(engine(), marlin, LOADED, engine(), LOADED)
    assert facts.kernels == []
    assert "awq-slow-kernel" in findings


@pytest.mark.parametrize(
    ("kernel", "device", "warned"),
    [
        ("TritonW4A16LinearKernel", "cuda", True),
        ("ConchLinearKernel", "cuda", True),
        ("MarlinLinearKernel", "cuda", False),
        ("CPUWNA16LinearKernel", "cpu", False),
    ],
)
def test_a_slower_kernel_gives_a_warning(kernel, device, warned):
    _, findings = read(engine(device=device), KERNEL.format(kernel), LOADED)
    assert ("kernel-other" in findings) is warned


@pytest.mark.parametrize(("device", "slow"), [("cuda", True), ("cpu", False)])
def test_eager_mode_is_slow_on_a_gpu_only(device, slow):
    _, findings = read(engine(eager="True", device=device))
    assert ("eager" in findings) is slow
    assert "eager" not in read(engine(device=device))[1]


@pytest.mark.parametrize(
    ("times", "level"), [("1.52", "warning"), ("3.99", "warning"), ("4.00", None)]
)
def test_low_concurrency_gives_a_warning(times, level):
    facts, findings = read(CACHE.format(49_000), FITS.format(times))
    assert (facts.kv_tokens, facts.concurrency_context) == (49_000, 32_768)
    assert ("concurrency-low" in findings) is (level is not None)
    assert ("concurrency" in findings) is (level is None)


def test_cache_and_concurrency_are_read_from_one_line():
    line = CACHE.format(49_000) + ", Maximum concurrency for 32,768 tokens per request: 1.50x"
    assert read(line)[0].concurrency == 1.5


def test_waiting_with_a_full_cache_is_slow_and_with_room_a_limit():
    full = read(*stats(6, waiting=9, cache="99.3"))[1]
    assert full["waiting-cache-full"].level == "slow"
    assert "waiting-slots" not in full
    room = read(*stats(6, waiting=9, cache="20.0", running=256))[1]
    assert "Raise --max-num-seqs above 256" in room["waiting-slots"].do[0]
    assert "waiting-cache-full" not in room


@pytest.mark.parametrize("lines", [stats(5, waiting=9, cache="99.3"),
                                   [*stats(6, waiting=9, cache="99.3"), *stats(60)]])  # fmt: skip
def test_a_short_peak_gives_no_finding(lines):
    assert set(read(*lines)[1]) == {"throughput"}


def test_preemptions_are_taken_from_the_statistics():
    facts, findings = read(*stats(3, more=" Preemptions: 12,"))
    assert (facts.traffic.preemptions, findings["preemptions"].count) == (12, 12)


def test_corrupted_requests_are_an_error():
    line = stats()[0] + ", Corrupted: 3 reqs"
    assert read(line)[1]["not-a-number-requests"].level == "error"
    assert "not-a-number-requests" not in read(stats()[0] + ", Corrupted: 0 reqs")[1]


def test_a_low_hit_rate_is_noted_after_many_requests_only():
    requests = ['INFO:     127.0.0.1:5 - "POST /v1/completions HTTP/1.1" 200 OK'] * 100
    assert read(*stats(hits="1.5"), *requests)[1]["prefix-hits-low"].level == "note"
    assert "prefix-hits-low" not in read(*stats(hits="1.5"), *requests[1:])[1]
    assert "prefix-hits-low" not in read(*stats(hits="30.0"), *requests)[1]


def test_rejected_drafts_give_a_warning():
    line = (
        "INFO 09-04 11:01:16 [metrics.py:125] SpecDecoding metrics: Mean acceptance length: 1.30, "
        "Accepted: 30 tokens, Drafted: 300 tokens, Avg Draft acceptance rate: {}%"
    )
    assert read(line.format("10.0"))[1]["drafts-refused"].level == "warning"
    assert "drafts-refused" not in read(line.format("83.1"))[1]


def test_the_statistics_of_the_old_engine_are_read():
    traffic = read(STATS_V0)[0].traffic
    assert (traffic.running_most, traffic.waiting_most, traffic.cache_most) == (3, 2, 99.1)
    assert (traffic.best_generation, traffic.best_prompt) == (23.4, 11.5)


def test_the_statistics_of_sglang_are_read():
    facts, findings = read(
        "[2025-01-26 21:30:00] server_args=ServerArgs(model_path='org/m-AWQ', dtype='auto', "
        "tp_size=2, quantization=None, context_length=4096, mem_fraction_static=0.88)",
        "[2025-01-26 21:32:18 TP0] Decode batch. #running-req: 1, #token: 1351, token usage: 0.01, "
        "gen throughput (token/s): 11.19, #queue-req: 0, ",
        "[2025-01-26 21:32:19] The server is fired up and ready to roll!",
    )
    assert (facts.engine, facts.model, facts.tensor_parallel) == ("sglang", "org/m-AWQ", 2)
    assert (facts.context, facts.utilization, facts.complete) == (4096, "0.88", True)
    assert facts.traffic.alone == 11.19
    assert findings["throughput"].level == "good"


def test_last_and_best_throughput_survive_sampling():
    lines = stats(5000, out="10.0", running=1) + stats(1, out="99.0") + stats(1, out="3.0")
    traffic = read(*lines)[0].traffic
    assert (traffic.last_generation, traffic.alone) == (3.0, 10.0)


@pytest.mark.parametrize(
    ("lines", "model", "requested", "tracked"),
    [
        ("INFO 11-21 01:24:56 [a.py:1] non-default args: {'model_tag': 'org/m', "
         "'max_model_len': 512, 'quantization': 'awq', "
         "'model_loader_extra_config': {'enable_weights_track': True}}",
         "org/m", "awq", True),
        ("INFO 08-21 00:27:46 api_server.py:340] args: Namespace(host=None, model='org/m', "
         "quantization='awq', max_model_len=512, dtype='auto')", "org/m", "awq", False),
        ("INFO 11-21 01:24:56 [a.py:1] non-default args: {'model': 'org/m', 'max_model_len': 512, "
         "'served_model_name': ['x']}", "org/m", "", False),
    ],
)  # fmt: skip
def test_the_command_line_is_read(lines, model, requested, tracked):
    facts, _ = read(lines)
    assert (facts.model, facts.requested, facts.tracked) == (model, requested, tracked)
    assert (facts.context, facts.dtype) == (512, "")


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("(APIServer pid=1) INFO 11-21 01:37:40 [a.py:347]  ▄▄ ▄█ █   █   █ ▀▄▀ █  version 0.32.0",
         "0.32.0"),
        ("INFO 05-01 10:00:00 [a.py:1034] vLLM API server version 0.8.5.post1", "0.8.5.post1"),
        ("INFO 08-21 00:27:46 llm_engine.py:174] Initializing an LLM engine (v0.5.4) with config: "
         "model='a', quantization=awq", "0.5.4"),
        ("The version of torch is version 2.13", ""),
    ],
)  # fmt: skip
def test_the_version_is_read(line, version):
    assert read(line)[0].version == version


@pytest.mark.parametrize(
    ("version", "release"),
    [("0.32.0", (0, 32)), ("0.8.5.post1", (0, 8)), ("0.11.1rc2.dev1+g12", (0, 11)), ("", (0, 0))],
)
def test_a_release_is_major_and_minor(version, release):
    assert LogFacts(version=version).release == release


def test_a_request_that_quotes_a_log_states_no_fact():
    quoted = engine(version="0.1.0").replace("'", '"')
    line = f"INFO 11-21 01:25:22 [logger.py:43] Received request cmpl-1: prompt: '{quoted}'"
    facts, findings = read(line)
    assert (facts.version, facts.began) == ("", False)
    assert findings == {}


def test_dtypes_on_a_cpu_are_noted():
    cpu = {"device": "cpu", "quantization": "awq"}
    assert "cpu-w4a8" in read(engine(dtype="bfloat16", **cpu))[1]
    assert "cpu-w4a8" not in read(engine(dtype="bfloat16", version="0.12.0", **cpu))[1]
    assert "cpu-float16" in read(engine(**cpu), LOADED)[1]
    assert "cpu-float16" not in read(engine(dtype="bfloat16", **cpu), LOADED)[1]


def test_the_weights_track_option_silences_the_note():
    args = (
        "INFO 11-21 01:24:56 [a.py:1] non-default args: {'model': 'm', "
        "'model_loader_extra_config': {'enable_weights_track': True}}"
    )
    lines = engine(), KERNEL.format("MarlinLinearKernel"), LOADED
    assert "tensors-untracked" in read(*lines)[1]
    assert "tensors-untracked" not in read(args, *lines)[1]
