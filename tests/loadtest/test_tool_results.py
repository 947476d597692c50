"""Results of other tools, read in our format."""

import copy
import json
from pathlib import Path

import pytest

from salient.core.errors import RequestError
from salient.core.progress import silent
from salient.loadtest.other_tools import parse_guidellm, parse_vllm_bench
from salient.loadtest.plan import LoadPlan, LoadTarget
from salient.loadtest.report import run_tool, to_report
from salient.loadtest.result import summarize_latencies

RESULTS = Path(__file__).parent / "results"


def vllm_json() -> dict:
    """What vLLM 0.32 wrote."""
    return json.loads((RESULTS / "vllm_bench.json").read_text(encoding="utf-8"))


def guidellm_json() -> dict:
    """Written by hand after the schemas of guidellm 0.7.3, with the fields that are read."""
    return json.loads((RESULTS / "guidellm.json").read_text(encoding="utf-8"))


def test_results_of_vllm_bench_are_read_unchanged():
    raw = vllm_json()
    result = parse_vllm_bench(raw)
    assert (result.requests, result.completed, result.concurrency) == (12, 12, 4)
    assert result.rate is None  # "inf"
    assert result.request_rate == pytest.approx(raw["request_throughput"])
    assert result.output_rate == pytest.approx(raw["output_throughput"])
    assert result.total_rate == pytest.approx(raw["total_token_throughput"])
    for name, ours in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2el", "e2e")):
        latency = getattr(result, ours)
        keys = (f"{key}_{name}_ms" for key in ("mean", "p50", "p90", "p99"))
        ends = (latency.mean, latency.p50, latency.p90, latency.p99)
        assert ends == tuple(raw[key] for key in keys)


def test_percentiles_are_those_of_vllm_bench():
    raw = vllm_json()
    latency = summarize_latencies(raw["latencies"], len(raw["latencies"]))
    assert latency.p90 == pytest.approx(raw["p90_e2el_ms"])
    assert latency.p99 == pytest.approx(raw["p99_e2el_ms"])


def test_a_run_of_vllm_bench_where_all_failed_has_no_times():
    result = parse_vllm_bench(vllm_json() | {"completed": 0, "failed": 12, "mean_ttft_ms": 0.0})
    assert (result.ttft, result.itl, result.tpot, result.e2e) == (None, None, None, None)
    assert (result.requests, result.failed) == (12, 12)
    assert "no request completed: 12 failed" in result.summary


def test_missing_percentiles_of_vllm_bench_are_unknown():
    raw = {key: value for key, value in vllm_json().items() if not key.startswith("p90")}
    assert parse_vllm_bench(raw).ttft.p90 is None
    assert parse_vllm_bench(raw).ttft.p99 is not None


@pytest.mark.parametrize("value", [None, "12", True, float("nan"), -1, 10**400, [1]])
@pytest.mark.parametrize("key", ["completed", "failed", "duration", "total_output_tokens"])
def test_a_damaged_result_of_vllm_bench_names_the_field(key, value):
    with pytest.raises(RequestError, match=f"{key}' is not a number"):
        parse_vllm_bench(vllm_json() | {key: value})


@pytest.mark.parametrize("value", [[], None, "x", {}, {"benchmarks": []}])
def test_other_documents_are_refused(value):
    with pytest.raises(RequestError, match="completed' is not a number"):
        parse_vllm_bench(value)
    with pytest.raises(RequestError, match="no list 'benchmarks'"):
        parse_guidellm(value)


def test_results_of_guidellm_are_read_by_its_definitions():
    one, many = parse_guidellm(guidellm_json())
    assert (one.concurrency, one.rate) == (1, None)
    assert (many.concurrency, many.rate) == (64, 8.0)
    assert (many.requests, many.completed, many.failed) == (42, 40, 2)
    assert many.output_rate == pytest.approx(5120 / 10)
    assert many.e2e.p50 == pytest.approx(2500)  # seconds there
    assert many.ttft.p99 == 90
    assert many.tpot.mean == 19  # its inter-token latency, a mean without the first token
    assert many.itl is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("metrics",), "'metrics.request_totals.successful' is not a number"),
        (("metrics", "request_totals", "errored"), "'metrics.request_totals.errored'"),
        (("metrics", "time_to_first_token_ms", "successful"), "'metrics.time_to_first_token_ms."),
        (("metrics", "request_latency", "successful", "percentiles"), "'metrics.request_latency."),
        (("duration",), "'duration' is not a number"),
    ],
)
def test_a_damaged_result_of_guidellm_names_the_place(path, message):
    raw = copy.deepcopy(guidellm_json())
    parent = raw["benchmarks"][1]
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    with pytest.raises(RequestError, match=f"benchmark 1: {message}"):
        parse_guidellm(raw)


def test_a_results_file_of_guidellm_replaces_the_server():
    path = str(RESULTS / "guidellm.json")
    report = to_report(*run_tool("guidellm", LoadTarget(path), LoadPlan(), silent))
    assert not report.passed  # two requests failed
    assert [step["tool"] for step in report.data["steps"]] == ["guidellm", "guidellm"]
    assert any("Measured by guidellm" in line for line in report.lines)
    with pytest.raises(RequestError, match=r"cannot be read .* Run guidellm with --output"):
        run_tool("guidellm", LoadTarget("http://localhost:8000"), LoadPlan(), silent)
