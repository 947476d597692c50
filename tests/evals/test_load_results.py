"""What was measured: events read, percentiles, and the results of other tools."""

import copy
import json
import random
import shutil
import statistics
from array import array
from itertools import pairwise
from pathlib import Path

import pytest

from salient.core.errors import RequestError
from salient.evals.load.client import Outcome
from salient.evals.load.events import EventReader, read_chunk
from salient.evals.load.foreign import foreign_command, from_guidellm, from_vllm_bench
from salient.evals.load.latencies import spread, summarize
from salient.evals.load.plans import LoadPlan, Step, Target

RESULTS = Path(__file__).parent / "load_results"
HERE = Target("http://localhost:8000/v1", "org/toy")


def vllm_result() -> dict:
    """What vLLM 0.32 wrote."""
    return json.loads((RESULTS / "vllm_bench.json").read_text(encoding="utf-8"))


def guidellm_result() -> dict:
    """Written by hand after the schemas of guidellm 0.7.3, with the fields that are read."""
    return json.loads((RESULTS / "guidellm.json").read_text(encoding="utf-8"))


# Events


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_events_are_the_same_however_they_are_cut(size, end):
    stream = ": hello|event: x|data: {a|data:b}||id: 7|data: ü||||data: [DONE]"
    raw = stream.replace("|", end).encode()
    reader, found = EventReader(), []
    for start in range(0, len(raw), size):
        found += reader.feed(raw[start : start + size])
    assert found == ["{a\nb}", "ü"]
    assert list(reader.end()) == ["[DONE]"]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"choices": [{"text": "a"}]}, True),
        ({"choices": [{"text": ""}]}, False),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, False),
        ({"choices": [{"delta": {"content": "a"}}]}, True),
        ({"choices": [{"delta": {"reasoning": "a"}}]}, True),
        ({"choices": [{"delta": {"reasoning_content": "a"}}]}, True),
        ({"choices": [{"delta": None}]}, False),
        ({"choices": []}, False),
        ({}, False),
    ],
)
def test_a_chunk_counts_if_it_carries_text(said, text):
    assert read_chunk(json.dumps(said)).text is text


@pytest.mark.parametrize(
    ("choice", "silent"),
    [
        ({"text": ""}, True),
        ({"text": "", "finish_reason": None}, True),
        ({"text": "", "finish_reason": "stop"}, False),
        ({"text": "a"}, False),
        ({"text": None}, False),
        ({}, False),
        ({"delta": {"content": ""}}, True),
        ({"delta": {"role": "assistant", "content": ""}}, False),
        ({"delta": {"content": "", "reasoning": "a"}}, False),
        ({"delta": {}}, False),
    ],
)
def test_a_token_without_text_neither_opens_nor_closes_an_answer(choice, silent):
    assert read_chunk(json.dumps({"choices": [choice]})).silent is silent


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4)),
        ({"completion_tokens": 4}, (0, 4)),
        ({"prompt_tokens": 3}, None),
        ({"prompt_tokens": 3, "completion_tokens": -4}, None),
        ({"prompt_tokens": 3, "completion_tokens": "4"}, None),
        ({"prompt_tokens": 3, "completion_tokens": True}, None),
        (None, None),
        ([1], None),
    ],
)
def test_token_counts_are_taken_only_where_they_are_counts(usage, found):
    assert read_chunk(json.dumps({"choices": [], "usage": usage})).usage == found


# Percentiles


def test_percentiles_are_linear_between_the_nearest_values():
    chance = random.Random(0)
    values = [chance.expovariate(10) for _ in range(237)]
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    found = spread(values)
    assert (found.p50, found.p90, found.p99) == pytest.approx(
        (1e3 * cuts[49], 1e3 * cuts[89], 1e3 * cuts[98])
    )
    assert found.mean == pytest.approx(1e3 * statistics.mean(values))
    assert spread([]) is None


def test_a_step_is_summed_over_its_completed_requests_alone():
    outcomes = [
        Outcome(0.1, 0.5, 3, array("d", [0.1, 0.3]), usage=(10, 5)),
        Outcome(0.3, 0.3, 1, array("d")),
        Outcome(9.0, 9.0, 9, array("d", [9.0]), failed="timeout", words="first"),
        Outcome(failed="HTTP 500", words="oh"),
        Outcome(failed="timeout", words="second"),
    ]
    found = summarize(Step(2), outcomes, seconds=2.0, peak=2, prompt_tokens=20)
    assert (found.requests, found.totals.completed, found.failed) == (5, 2, 3)
    assert [(f.kind, f.count, f.words) for f in found.totals.failures] == [
        ("timeout", 2, "first"),
        ("HTTP 500", 1, "oh"),
    ]
    assert found.ttft.mean == pytest.approx(200)
    assert found.itl.p50 == pytest.approx(200)
    assert found.tpot.mean == pytest.approx(100)  # of the first alone: 0.4 s over 4 tokens
    assert found.e2e.mean == pytest.approx(400)
    assert (found.totals.input_tokens, found.totals.output_tokens) == (30, 6)
    assert (found.request_rate, found.output_rate, found.total_rate) == (1, 3, 18)
    assert found.counted == "chunks"
    assert "3 of 5 failed: 2 timeout (first); 1 HTTP 500 (oh)" in found.words
    assert json.loads(json.dumps(found.data()))["failed"] == 3


# Others' results


def test_what_vllm_bench_wrote_says_the_same_here():
    raw = vllm_result()
    found = from_vllm_bench(raw)
    assert (found.requests, found.totals.completed, found.concurrency) == (12, 12, 4)
    assert found.rate is None  # "inf"
    assert found.request_rate == pytest.approx(raw["request_throughput"])
    assert found.output_rate == pytest.approx(raw["output_throughput"])
    assert found.total_rate == pytest.approx(raw["total_token_throughput"])
    for name, ours in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2el", "e2e")):
        got = getattr(found, ours)
        keys = (f"{key}_{name}_ms" for key in ("mean", "p50", "p90", "p99"))
        assert (got.mean, got.p50, got.p90, got.p99) == tuple(raw[key] for key in keys)


def test_percentiles_of_vllm_bench_are_ours():
    raw = vllm_result()
    found = spread(raw["latencies"])
    assert found.p90 == pytest.approx(raw["p90_e2el_ms"])
    assert found.p99 == pytest.approx(raw["p99_e2el_ms"])


def test_a_run_of_vllm_bench_where_all_failed_has_no_times():
    raw = vllm_result() | {"completed": 0, "failed": 12, "mean_ttft_ms": 0.0}
    found = from_vllm_bench(raw)
    assert (found.ttft, found.itl, found.tpot, found.e2e) == (None, None, None, None)
    assert (found.requests, found.failed) == (12, 12)
    assert "no request completed: 12 failed" in found.words


def test_percentiles_that_vllm_bench_was_not_asked_for_are_unknown():
    raw = {key: value for key, value in vllm_result().items() if not key.startswith("p90")}
    assert from_vllm_bench(raw).ttft.p90 is None
    assert from_vllm_bench(raw).ttft.p99 is not None


@pytest.mark.parametrize("value", [None, "12", True, float("nan"), -1, 10**400, [1]])
@pytest.mark.parametrize("key", ["completed", "failed", "duration", "total_output_tokens"])
def test_a_damaged_result_of_vllm_bench_names_the_field(key, value):
    with pytest.raises(RequestError, match=f"{key}' is no number"):
        from_vllm_bench(vllm_result() | {key: value})


@pytest.mark.parametrize("found", [[], None, "x", {}])
def test_what_is_no_result_is_refused(found):
    with pytest.raises(RequestError, match="completed' is no number"):
        from_vllm_bench(found)
    with pytest.raises(RequestError, match="no list 'benchmarks'"):
        from_guidellm(found)


def test_what_guidellm_wrote_is_read_by_its_own_definitions():
    one, many = from_guidellm(guidellm_result())
    assert (one.concurrency, one.rate) == (1, None)
    assert (many.concurrency, many.rate) == (64, 8.0)
    assert (many.requests, many.totals.completed, many.failed) == (42, 40, 2)
    assert many.output_rate == pytest.approx(5120 / 10)
    assert many.e2e.p50 == pytest.approx(2500)  # seconds there
    assert many.ttft.p99 == 90
    assert many.tpot.mean == 19  # its inter-token latency, its mean without the first token
    assert many.itl is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("metrics",), "no object 'metrics'"),
        (("metrics", "request_totals", "successful"), "'successful' is no number"),
        (("metrics", "time_to_first_token_ms", "successful"), "no object 'successful'"),
        (("metrics", "request_latency", "successful", "percentiles"), "no object 'percentiles'"),
        (("config", "strategy"), "no object 'strategy'"),
        (("duration",), "'duration' is no number"),
    ],
)
def test_a_damaged_result_of_guidellm_names_the_place(path, words):
    raw = copy.deepcopy(guidellm_result())
    holder = raw["benchmarks"][1]
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    with pytest.raises(RequestError, match=f"benchmark 1: {words}"):
        from_guidellm(raw)


# Others' command lines


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: f"/opt/{tool}")


def options(words: list[str]) -> dict[str, str]:
    return {a: b for a, b in pairwise(words) if a.startswith("--")}


@pytest.mark.usefixtures("installed")
def test_vllm_bench_is_asked_for_what_its_result_is_read_by():
    plan = LoadPlan((Step(8, rate=2.5, arrivals="constant"),), requests=20, seed=3)
    words = foreign_command("vllm", HERE, plan, Path("out/r.json"), tokenizer="/m/toy")
    given = options(words)
    assert words[:3] == ["/opt/vllm", "bench", "serve"]
    assert given["--base-url"] + given["--endpoint"] == "http://localhost:8000/v1/completions"
    assert (given["--model"], given["--tokenizer"]) == ("org/toy", "/m/toy")
    assert (given["--request-rate"], given["--burstiness"]) == ("2.5", "inf")
    assert (given["--max-concurrency"], given["--num-prompts"]) == ("8", "20")
    assert given["--metric-percentiles"] == "50,90,99"
    assert (given["--result-dir"], given["--result-filename"]) == ("out", "r.json")
    assert "--ignore-eos" in words


@pytest.mark.usefixtures("installed")
def test_guidellm_is_asked_in_objects_that_commas_cannot_break():
    plan = LoadPlan((Step(8),), requests=20, seconds=30.0)
    chat = Target("https://a.example", "m", api="chat")
    words = foreign_command("guidellm", chat, plan, Path("a,b/r.json"))
    assert words[:2] == ["/opt/guidellm", "run"]
    parsed = [(a, json.loads(b)) for a, b in zip(words[2::2], words[3::2], strict=True)]
    given = dict(parsed)
    assert given["--backend"]["request_format"] == "/v1/chat/completions"
    assert given["--profile"] == {"kind": "concurrent", "streams": 8}
    assert given["--output"] == {"kind": "json", "path": "a,b/r.json"}
    assert [o["kind"] for name, o in parsed if name == "--constraint"] == [
        "max_requests",
        "max_duration",
    ]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("tool", "target", "plan", "words"),
    [
        ("wrk", HERE, LoadPlan((Step(1),)), "Known: vllm, guidellm"),
        ("vllm", HERE, LoadPlan(), "runs one step a command; the plan has 3"),
        ("vllm", HERE, LoadPlan((Step(1),), None, 9.0), "not of seconds"),
        ("guidellm", Target("http://a", "m", api_key="k"), LoadPlan((Step(1),)), "others can read"),
        ("vllm", Target("a", "m"), LoadPlan((Step(1),)), "no http or https address"),
    ],
)
def test_what_a_tool_cannot_do_is_refused(tool, target, plan, words):
    with pytest.raises(RequestError, match=words):
        foreign_command(tool, target, plan, Path("r.json"))


def test_a_tool_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(RequestError, match="No 'guidellm' on PATH"):
        foreign_command("guidellm", HERE, LoadPlan((Step(1),)), Path("r.json"))
