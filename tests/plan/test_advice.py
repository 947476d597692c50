"""Laws of advice: every change is planned again; its format runs, fits and meets the bounds."""

import json
import random
from dataclasses import fields, replace
from importlib.resources import files

import pytest

from helpers.shapes import released
from salient.plan.advice import MOST_CHANGES, changes
from salient.plan.device_names import find_gpu
from salient.plan.engine_profiles import ENGINES
from salient.plan.gpus import gpu_of_memory
from salient.plan.knobs import EAGER, free_knobs, option_text, with_options
from salient.plan.memory import Workload, budget
from salient.plan.options import PlanOptions
from salient.plan.planner import make_plan
from salient.plan.ranking import candidates
from salient.plan.requirements import Requirements
from salient.plan.weight_formats import FORMATS
from salient.shapes.from_config import read_shape

ANY = Requirements()
MODELS = ("Llama-3.1-8B", "Llama-3.1-70B", "Qwen3-30B-A3B", "gpt-oss-20b", "gemma-3-27b-it",
          "DeepSeek-V3", "Qwen2.5-14B")  # fmt: skip
DEVICES = ("RTX 4060", "RTX 4090", "L4", "T4", "2x RTX 3090", "H100", "A100", "DGX Spark", "V100",
           "MI300X", "M3 Max", "24 GiB")  # fmt: skip
BOUNDS = ("", "", "decode=40", "throughput=400", "ttft=500ms", "memory=20GB")


def load(gpu="RTX 4090", engine="vllm", context=4096, **knobs) -> Workload:
    device = gpu_of_memory(gpu) if isinstance(gpu, float) else find_gpu(gpu)
    return replace(Workload(ENGINES[engine], device, context), **knobs)


def advice(model, required=ANY, **options):
    shape, at = released(model), load(**options)
    return changes(shape, at, required, candidates(shape, at, required))


def planned(options: PlanOptions):
    """The one device of a plan, and whether each of its changes does when it is typed."""
    device = make_plan(options).devices[0]
    for change in device.advice:
        again = replace(options, **change.options)
        again = replace(again, vram=None) if "gpu" in change.options else again
        if isinstance(again.gpu, str):
            again = replace(again, gpu=tuple(again.gpu.split(",")))
        for one in make_plan(again).devices:
            assert one.best.good, (change.text, one.gpu.name, one.best.reasons, one.best.unmet)
    return device


def cases(count: int) -> list[PlanOptions]:
    pick = random.Random(21).choice
    sample = []
    for _ in range(count):
        device = pick(DEVICES)
        sample.append(
            PlanOptions(
                pick(MODELS),
                gpu=() if device == "24 GiB" else (device,),
                vram=24.0 if device == "24 GiB" else None,
                context_length=pick((4096, 32768)),
                concurrency=pick((1, 4, 32)),
                require="" if device == "24 GiB" else pick(BOUNDS),
            )
        )
    return sample


@pytest.mark.parametrize("options", cases(6), ids=lambda one: f"{one.model}-{one.gpu}")
def test_every_change_does_when_it_is_typed(options):
    device = planned(replace(options, model=_full(options.model)))
    assert len(device.advice) <= MOST_CHANGES
    if device.best.good:
        assert device.advice == ()
    costs = [change.cost for change in device.advice]
    assert costs == sorted(costs)


def _full(name: str) -> str:
    makers = {"Llama": "meta-llama", "Qwen": "Qwen", "gpt-o": "openai", "gemma": "google",
              "DeepS": "deepseek-ai"}  # fmt: skip
    return next(f"{maker}/{name}" for start, maker in makers.items() if name.startswith(start))


def test_what_fits_needs_no_advice():
    assert advice("Llama-3.1-8B") == ()


def test_knobs_are_combined_where_one_is_too_little():
    # 8 sequences of 32768 on 24 GiB: one fits, three with a smaller cache and step, all on two
    fewer, smaller, more = advice("Qwen3-30B-A3B", context=32768, sequences=8)
    assert fewer.options == {"concurrency": 1}
    assert smaller.options["kv_dtype"] == "fp8"
    assert smaller.options["concurrency"] > 1
    assert more.options["tensor_parallel_size"] == 2


def test_the_step_of_sequences_that_never_come_is_the_first_thing_to_shrink():
    # vLLM keeps room for the logits of 256 sequences, of 262208 entries each
    taken = budget(released("gemma-3-27b-it"), FORMATS["awq-g128"], load(sequences=2)).taken
    gpu = (taken - 2**29) / 0.92 / 2**30
    assert advice("gemma-3-27b-it", gpu=gpu, sequences=2)[0].options == {"max_num_seqs": 2}


def test_the_published_fit_of_a_tight_checkpoint_is_advised():
    # gpt-oss-120b is served from one H100 as it is stored, by vLLM's recipes with a small step
    text = files("salient.shapes").joinpath("configs/openai--gpt-oss-20b.json").read_text()
    config = json.loads(text) | {"num_hidden_layers": 36, "num_local_experts": 128}
    config["layer_types"] = ["sliding_attention", "full_attention"] * 18
    shape, at = read_shape(config), load("H100", context=32768, sequences=4)
    first, *others = changes(shape, at, ANY, candidates(shape, at, ANY))
    assert first.options == {"max_num_seqs": 4}
    assert {change.candidate.form.name for change in (first, *others)} == {"stored"}


def test_a_model_with_towers_may_drop_them():
    shape = replace(released("Llama-3.1-8B"), towers={"vision tower": 6 * 10**8})
    names = [name for knob in free_knobs(shape, load()) for name in knob.options]
    assert "language_model_only" in names
    assert "language_model_only" not in [
        name for knob in free_knobs(shape, load(version=(0, 16))) for name in knob.options
    ]


@pytest.mark.parametrize("gpu", ["RTX 4090", "RTX 3090", "H100", "MI300X", "DGX Spark"])
def test_every_knob_lowers_what_is_taken_or_raises_what_is_there(gpu):
    shape, at = replace(released("Llama-3.1-8B"), towers={"vision tower": 10**9}), load(gpu)
    plain = budget(shape, FORMATS["fp16"], at)
    for knob in free_knobs(shape, at):
        changed = budget(shape, FORMATS["fp16"], with_options(at, knob.options))
        assert changed.available - changed.taken >= plain.available - plain.taken
        assert 0 < knob.cost <= EAGER


def test_the_cache_takes_fp8_of_the_kind_that_the_device_has():
    kinds = {
        gpu: [knob.options.get("kv_dtype") for knob in free_knobs(released("Llama-3.1-8B"), at)]
        for gpu in ("RTX 4090", "RTX 3090", "MI210")
        for at in [load(gpu)]
    }
    assert "fp8" in kinds["RTX 4090"]
    assert "fp8_e5m2" in kinds["RTX 3090"]
    assert not any(kinds["MI210"])


def test_an_fp8_e5m2_cache_is_planned_with_no_fp8_weights():
    # vLLM: "fp8_e5m2 kv-cache is not supported with fp8 checkpoints"
    ranked = candidates(released("Llama-3.1-8B"), load("RTX 3090", kv_dtype="fp8_e5m2"), ANY)
    paces = {one.form.name: one.route.pace for one in ranked}
    assert paces["fp8"] == "refused"
    assert paces["awq-g128"] == "fast"


def test_devices_that_are_named_run_the_format_and_are_no_slower_kind():
    for change in advice("Llama-3.1-70B", gpu="H100", context=32768, sequences=16):
        for name in str(change.options.get("gpu", "H100")).split(","):
            gpu = find_gpu(name)
            assert not gpu.unified
            assert gpu.capability >= 75
            assert gpu.bandwidth >= 0.8 * find_gpu("H100").bandwidth


def test_where_vllm_runs_nothing_another_engine_is_planned():
    (change,) = advice("Llama-3.1-8B", gpu="M3 Max")
    assert change.options == {"engine": "llama.cpp"}
    assert change.load.engine.name == "llama.cpp"
    assert change.text.startswith("--engine llama.cpp: GGUF ")


def test_too_little_throughput_is_answered_with_more_sequences():
    first = advice("Llama-3.1-8B", Requirements(throughput=900), gpu="RTX 4090")[0]
    assert first.options["concurrency"] > 1
    assert first.candidate.forecast.together.middle >= 900


def test_options_are_those_of_plan():
    known = {field.name for field in fields(PlanOptions)}
    for change in advice("Qwen2.5-14B", gpu="RTX 4060", sequences=4):
        assert change.options.keys() <= known
        assert option_text(change.options).startswith("--")
