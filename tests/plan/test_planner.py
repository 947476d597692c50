"""Laws of the verb plan: one answer for people and programs, and messages for invalid options."""

import json

import pytest

from salient import api
from salient.core.errors import ModelError, RequestError, ResourceError
from salient.plan.options import PlanOptions
from salient.plan.planner import make_plan
from salient.plan.weight_formats import FORMATS

LLAMA = "meta-llama/Llama-3.1-8B"


def test_people_and_programs_get_the_same_plan():
    report = api.plan(LLAMA, gpu="RTX 4090", context_length=16384, concurrency=4).report
    data = json.loads(report.to_json())
    device = data["devices"][0]
    assert report.passed
    assert data["parameters"] == sum(data["parts"].values())
    assert set(data["weights"]) == set(FORMATS)
    assert device["choice"] == device["formats"][0]["format"]
    best = device["formats"][0]
    assert best["taken_bytes"] == sum(line["bytes"] for line in best["memory"])
    assert device["commands"]
    serve = next(line.text for line in report.summary if line.label == "Serve")
    assert serve == "AWQ w4-g128 on RTX 4090 with vLLM 0.32, 4 sequences of 16,384 tokens"


@pytest.mark.parametrize(
    ("options", "shown"), [({}, False), ({"details": True}, True), ({"format": "awq"}, True)]
)
def test_refused_formats_are_listed_with_their_reason_on_demand_and_never_in_a_table(
    options, shown
):
    # Qwen2.5-14B over 8 GPUs: 13824 inputs are no whole groups of 128
    report = api.plan("Qwen/Qwen2.5-14B", gpu="H100", tensor_parallel_size=8, **options).report
    refused = "\n".join(line.text for line in report.notes if line.label == "Refused")
    assert ("AWQ w4-g128" in refused) == ("13824 inputs / 8" in refused) == shown
    assert "AWQ w4-g128" not in [row[0] for table in report.tables for row in table.rows]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ("fp8", {"fp8"}),
        ("awq,16-bit", {"awq-g32", "awq-g64", "awq-g128", "fp16"}),
        ("w4-g128", {"awq-g128", "ct-g128", "gptq-g128"}),
        ("GGUF Q4_0", {"q4_0"}),
    ],
)
def test_only_the_formats_that_are_named_are_planned(names, chosen):
    report = api.plan(LLAMA, gpu="RTX 4090", format=tuple(names.split(","))).report
    assert {row["format"] for row in report.data["devices"][0]["formats"]} == chosen


def test_devices_are_compared_side_by_side():
    report = api.plan(LLAMA, gpu=["H100", "RTX 4090", "T4"], require="decode=50").report
    assert [d["gpu"]["name"] for d in report.data["devices"]] == ["H100 SXM", "RTX 4090", "T4"]
    (table,) = report.tables
    assert [row[0] for row in table.rows] == ["RTX 4090", "H100 SXM", "T4"]


def test_of_several_devices_the_smallest_that_meets_everything_is_taken():
    names = ["H100", "RTX 4090", "T4"]
    for require, taken in (("", "T4"), ("decode=50", "RTX 4090"), ("decode=160", "H100 SXM")):
        report = api.plan(LLAMA, gpu=names, require=require).report
        assert f" on {taken} with" in next(o.text for o in report.summary if o.label == "Serve")


def test_without_a_device_sizes_are_listed_and_nothing_is_refused():
    report = api.plan(LLAMA).report
    assert report.passed
    assert report.data["devices"] == []
    assert "--gpu NAME" in " ".join(line.text for line in report.summary)


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("qwen3-8b", "Qwen/Qwen3-8B"),
        ("Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M"),
    ],
)
def test_commands_name_the_model_as_other_tools_take_it(typed, named):
    lines = api.plan(typed, gpu="RTX 4090").report.data["devices"][0]["commands"]
    assert named in " ".join(lines)


def test_a_plan_without_a_good_format_does_not_pass_and_says_what_to_change():
    report = api.plan("meta-llama/Llama-3.1-70B", gpu="RTX 4060").report
    assert not report.passed
    assert report.data["devices"][0]["choice"] is None
    assert "Change" in [line.label for line in report.summary]


def test_the_context_is_the_models_own_where_that_is_less_than_the_default():
    assert make_plan(PlanOptions(LLAMA, gpu="H100")).devices[0].load.context == 8192
    small = make_plan(PlanOptions("mistralai/Mixtral-8x7B-v0.1", gpu="H200", context_length=32768))
    assert small.devices[0].load.context == 32768


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"model": "no/such/thing"}, ModelError, "no/such/thing"),
        ({"model": ""}, ModelError, "Give a folder"),
        ({"gpu": "RTX 9999"}, RequestError, "Unknown device 'RTX 9999'"),
        ({"vram": 0.0}, RequestError, "No device has 0 GiB"),
        ({"vram": float("nan")}, RequestError, "No device has nan GiB"),
        ({"gpu": "H100", "vram": 80.0}, RequestError, "--gpu and --vram"),
        ({"format": "int3"}, RequestError, "--format 'int3' is unknown. Formats .* FP8"),
        ({"engine": "tgi"}, RequestError, "Unknown engine 'tgi'"),
        ({"context_length": 0}, RequestError, "--context-length 0 is out of range: give 1 to"),
        (
            {"gpu": "H100", "context_length": 10**6},
            RequestError,
            "more than the model was made for",
        ),
        ({"concurrency": -1}, RequestError, "--concurrency -1"),
        ({"tensor_parallel_size": 0}, RequestError, "--tensor-parallel-size 0"),
        ({"engine": "llama.cpp", "tensor_parallel_size": 2}, RequestError, "does not support --te"),
        ({"kv_dtype": "int3"}, RequestError, "has no KV cache in 'int3'"),
        ({"require": "speed=1"}, RequestError, "--require does not take 'speed=1'"),
        ({"prompt_tokens": 0}, RequestError, "--prompt-tokens 0"),
        ({"engine_version": "new"}, RequestError, "new"),
        ({"adr": "/no/such/folder/adr.md"}, ResourceError, "The record .* cannot be written"),
    ],
)
def test_invalid_options_are_refused_with_what_fits(options, error, match):
    with pytest.raises(error, match=match):
        api.plan(**{"model": LLAMA, "gpu": () if "vram" in options else "H100", **options})


def test_tp_sizes_are_listed_for_every_group():
    sizes = api.plan(LLAMA).report.data["tensor_parallel_sizes"]
    assert set(sizes) == {"g32", "g64", "g128"}
    assert all(1 in tp for tp in sizes.values())


@pytest.mark.parametrize(
    ("gpu", "options", "tp", "note"),
    [
        ("2x3090", {}, 2, ""),
        ("g5.48xlarge", {}, 8, "8 x A10G"),
        ("8xH100 SXM", {"tensor_parallel_size": 4}, 4, ""),
        ("3x3090", {}, 2, "planned on 2 of the 3: the model cannot be cut into 3 equal parts"),
        ("2x3090", {"engine": "llama.cpp"}, 1, "one of the 2: there is no tensor parallelism"),
        ("2x EPYC 9654", {}, 1, "planned on one of the 2"),
    ],
)
def test_the_number_of_devices_is_the_tensor_parallel_size(gpu, options, tp, note):
    (device,) = make_plan(PlanOptions(LLAMA, gpu=gpu, **options)).devices
    assert device.load.tp == tp
    assert note in "; ".join(device.notes)


def test_more_parts_than_devices_are_refused():
    with pytest.raises(RequestError, match="--tp 4 is more than the 2 devices of '2xRTX 3090'"):
        make_plan(PlanOptions(LLAMA, gpu="2x3090", tensor_parallel_size=4))


def test_a_device_that_is_named_twice_is_planned_once():
    plan = make_plan(PlanOptions(LLAMA, gpu=("H100", "H100 SXM", "2xH100")))
    assert [(device.gpu.name, device.load.tp) for device in plan.devices] == [
        ("H100 SXM", 1),
        ("H100 SXM", 2),
    ]


def test_what_a_devices_name_leaves_open_is_reported():
    report = api.plan(LLAMA, gpu="M3 Max", engine="llama.cpp").report
    assert any("128 GiB of memory assumed" in line.text for line in report.notes)
    assert "128 GiB of memory assumed" in report.data["devices"][0]["notes"][0]
