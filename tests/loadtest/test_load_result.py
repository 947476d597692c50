"""Measurements: events, percentiles and sums."""

import json
import random
import statistics
from array import array

import pytest

from salient.loadtest.client import add_event
from salient.loadtest.plan import LoadStep
from salient.loadtest.result import RequestTiming, summarize_latencies, summarize_step

# Events


@pytest.mark.parametrize(
    ("body", "chunks"),
    [
        ({"choices": [{"text": "a"}]}, 1),
        ({"choices": [{"text": ""}]}, 0),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, 0),
        ({"choices": [{"delta": {"content": "a"}}]}, 1),
        ({"choices": [{"delta": {"reasoning": "a"}}]}, 1),
        ({"choices": [{"delta": {"reasoning_content": "a"}}]}, 1),
        ({"choices": [{"delta": None}]}, 0),
        ({"choices": []}, 0),
        ({}, 0),
    ],
)
def test_an_answer_begins_with_a_chunk_that_has_text(body, chunks):
    timing = RequestTiming()
    assert not add_event(timing, json.dumps(body), 0.5)
    assert (timing.chunks, timing.ttft) == (chunks, 0.5 * chunks)


@pytest.mark.parametrize(
    ("choice", "counted"),
    [
        ({"text": ""}, True),
        ({"text": "", "finish_reason": None}, True),
        ({"text": "", "finish_reason": "stop"}, False),
        ({"text": None}, False),
        ({}, False),
        ({"delta": {"content": ""}}, True),
        ({"delta": {"role": "assistant", "content": ""}}, False),
        ({"delta": {"content": "", "reasoning": "a"}}, True),
        ({"delta": {}}, False),
    ],
)
def test_a_token_without_text_counts_within_an_answer(choice, counted):
    timing = RequestTiming(ttft=0.5, e2e=0.5, chunks=1)
    finished = add_event(timing, json.dumps({"choices": [choice]}), 0.75)
    assert finished is bool(choice.get("finish_reason"))
    assert list(timing.gaps) == [0.25] * counted


@pytest.mark.parametrize(
    ("usage", "counts"),
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
def test_token_counts_are_whole_numbers_from_0_on(usage, counts):
    timing = RequestTiming()
    add_event(timing, json.dumps({"choices": [], "usage": usage}), 0.0)
    assert timing.usage == counts


# Percentiles


def test_percentiles_are_linear_between_the_nearest_values():
    generator = random.Random(0)
    values = [generator.expovariate(10) for _ in range(237)]
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    latency = summarize_latencies(values, len(values))
    assert (latency.p50, latency.p90, latency.p99) == pytest.approx(
        (1e3 * cuts[49], 1e3 * cuts[89], 1e3 * cuts[98])
    )
    assert latency.mean == pytest.approx(1e3 * statistics.mean(values))
    assert summarize_latencies([], 0) is None


def test_a_step_sums_its_completed_requests_only():
    timings = [
        RequestTiming(0.1, 0.5, 3, array("d", [0.1, 0.3]), usage=(10, 5)),
        RequestTiming(0.3, 0.3, 1),
        RequestTiming(9.0, 9.0, 9, array("d", [9.0]), failure="timeout", message="first"),
        RequestTiming(failure="HTTP 500", message="oh"),
        RequestTiming(failure="timeout", message="second"),
    ]
    result = summarize_step(LoadStep(2), timings, seconds=2.0, peak=2, prompt_tokens=20)
    assert (result.requests, result.completed, result.failed) == (5, 2, 3)
    assert [(f.kind, f.count, f.message) for f in result.failures] == [
        ("timeout", 2, "first"),
        ("HTTP 500", 1, "oh"),
    ]
    assert result.ttft.mean == pytest.approx(200)
    assert result.itl.p50 == pytest.approx(200)
    assert result.tpot.mean == pytest.approx(100)  # of the first alone: 0.4 s over 4 tokens
    assert result.e2e.mean == pytest.approx(400)
    assert (result.input_tokens, result.output_tokens) == (30, 6)
    assert (result.request_rate, result.output_rate, result.total_rate) == (1, 3, 18)
    assert result.counted == "chunks"
    assert "3 of 5 failed: 2 timeout (first); 1 HTTP 500 (oh)" in result.summary
    assert json.loads(json.dumps(result.to_dict()))["failed"] == 3
