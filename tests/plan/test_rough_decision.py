"""Laws of the decision on a model that was counted roughly: both ends of its range must agree."""

import json
from dataclasses import replace

import pytest

from helpers.shapes import released, released_config
from salient import api
from salient.plan.device_names import find_gpu
from salient.plan.engine_profiles import find_engine
from salient.plan.memory import Workload
from salient.plan.ranking import candidates
from salient.plan.requirements import Requirements, parse_requirements
from salient.plan.rough_decision import decide

LLAMA = released("Llama-3.1-8B")
GB = 10**9


def decision(gpu, low, high, require="", **changes):
    """Of Llama-3.1-8B, counted as between `low` and `high` billion parameters."""
    shape = replace(
        LLAMA, rough=("not read: x",), low=int(low * GB), high=int(high * GB), **changes
    )
    load = Workload(find_engine("vllm"), find_gpu(gpu), 8192, 1)
    required = parse_requirements(require)
    return decide(shape, candidates(shape, load, required), required)


def test_an_exact_count_is_decided_by_its_best_format():
    load = Workload(find_engine("vllm"), find_gpu("H100"), 8192, 1)
    ranked = candidates(LLAMA, load, Requirements())
    assert decide(LLAMA, ranked, Requirements()) == "yes"


@pytest.mark.parametrize(
    ("gpu", "low", "high", "answer"),
    [
        ("H200", 4, 16, "yes"),  # whatever the count, it fits
        ("T4", 4, 60, "unsure"),
        ("T4", 400, 900, "no"),  # nothing of that size fits
    ],
)
def test_a_rough_count_is_decided_where_both_ends_agree(gpu, low, high, answer):
    assert decision(gpu, low, high) == answer


def test_an_unknown_cache_leaves_the_decision_open():
    assert decision("RTX 4090", 8, 8.1, cache_high=1.5) == "yes"
    assert decision("RTX 4090", 8, 8.1, cache_high=20.0) == "unsure"


def test_a_speed_that_is_required_is_not_decided_for_a_wide_range():
    assert decision("H200", 8, 8.1, "decode=20") == "yes"
    assert decision("H200", 4, 16, "decode=20") == "unsure"


def plan_of(folder, gpu, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**released_config("Llama-3.1-8B"), **changes}))
    return api.plan(str(folder), gpu=gpu, context_length=131072, concurrency=4)


def test_an_undecided_plan_ends_with_exit_code_2_and_without_advice(tmp_path):
    result = plan_of(tmp_path / "Novel-8B", "RTX 4090", moe_latent_size=1024)
    assert result.exit_code == 2
    assert result.report.data["decision"] == "unsure"
    assert result.report.data["devices"][0]["advice"] == []
    assert result.report.data["parameters_low"] < result.report.data["parameters_high"]


def test_the_reasons_of_a_rough_count_are_always_shown(tmp_path):
    for gpu in ("RTX 4090", "B300"):
        report = plan_of(tmp_path / "Novel-8B", gpu, moe_latent_size=1024).report
        shown = " ".join(line.text for line in (*report.summary, *report.notes))
        assert "not read: moe_latent_size" in shown
        assert "a folder with its safetensors is counted exactly" in shown
