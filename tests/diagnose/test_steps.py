"""Steps: conditions on what is known about a server, and values of braces."""

import pytest

from salient.diagnose.finding import Finding
from salient.diagnose.steps import ServerFacts, Step, consistent, fill, read_step, step_texts

KNOWN = ServerFacts(
    engine="vllm",
    version=(0, 10, 2),
    device="nvidia",
    capability=7.5,
    tp=1,
    dtype="float16",
    method="awq",
    group=128,
    utilization=0.95,
    draft=False,
    arguments={"enforce_eager": True, "quantization": "awq"},
    complete=True,
)


def applies(server: ServerFacts, **conditions: object) -> bool:
    return bool(step_texts([read_step({"step": "Do it.", **conditions})], server, {}))


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({"since": "0.10"}, True),
        ({"since": "0.10.2", "until": "0.11"}, True),
        ({"since": "0.21"}, False),
        ({"until": "0.10"}, False),
        ({"engine": "sglang", "until": "0.5"}, False),
        ({"engine": ["sglang", "vllm"]}, True),
        ({"device": "!amd"}, True),
        ({"capability": "<8.0"}, True),
        ({"capability": ">=7.5"}, True),
        ({"capability": ">=8.9"}, False),
        ({"tp": ">1"}, False),
        ({"dtype": "bfloat16"}, False),
        ({"method": ["gptq", "awq"], "group": ">32"}, True),
        ({"utilization": "<0.95"}, False),
        ({"draft": True}, False),
        ({"known": ["memory"]}, False),
        ({"arguments": {"enforce_eager": True}}, True),
        ({"arguments": {"quantization": "!awq"}}, False),
        ({"arguments": {"kv_cache_dtype": "fp8"}}, False),
        ({"arguments": {"enable_expert_parallel": False}}, True),
    ],
)
def test_a_step_applies_to_servers_that_fit_its_conditions(conditions, holds):
    assert applies(KNOWN, **conditions) is holds
    unknown = "known" not in conditions
    assert applies(ServerFacts(), **conditions) is unknown


def test_releases_are_those_of_the_engine_of_the_step():
    sglang = ServerFacts(engine="sglang", version=(0, 5, 3))
    assert not applies(sglang, until="0.8")
    assert applies(sglang, engine="sglang", since="0.5.3", until="0.6")


@pytest.mark.parametrize(
    "row", [{"tp": 2}, {"step": "x", "gpu": "T4"}, {"step": "x", "known": ["a"]}]
)
def test_an_unknown_condition_is_an_error(row):
    with pytest.raises(TypeError, match=r"there are|no text"):
        read_step(row)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Raise it (now {a}, up to {b}).", "Raise it."),
        ("Raise it (now {b}).", "Raise it (now 2)."),
        ("Lower it; what fits, by its estimate: {a}", "Lower it"),
        ("Serve with --max-model-len {a} or less.", ""),
        ("Of all: {a}; free: {b}.", "free: 2."),
        ("Use '{{\"x\": {b}}}'.", "Use '{\"x\": 2}'."),
    ],
)
def test_what_an_unknown_value_says_is_left_out(text, filled):
    assert fill(text, {"a": None, "b": 2}) == filled
    assert fill(text, {"a": "unknown", "b": 2}) == filled


def test_facts_of_one_source_fill_the_gaps_of_another():
    log = ServerFacts(engine="vllm", arguments={"tensor_parallel_size": 2}, complete=True)
    both = log.or_else(ServerFacts(engine="sglang", capability=8.6, arguments={"dtype": "half"}))
    assert (both.engine, both.capability, both.complete) == ("vllm", 8.6, True)
    assert both.arguments == {"dtype": "half", "tensor_parallel_size": 2}


def test_a_step_stands_once():
    assert step_texts([Step("a"), Step("b"), Step("a")], KNOWN, {}) == ("a", "b")


def test_a_step_does_not_contradict_that_of_an_earlier_finding():
    first = Finding("a", "error", "Full", do=("Lower --gpu-memory-utilization.",))
    later = Finding("b", "slow", "Waits", do=("Raise --gpu-memory-utilization.", "Add GPUs."))
    assert [one.do for one in consistent([first, later])] == [first.do, ("Add GPUs.",)]
