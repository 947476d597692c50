"""Laws of the choice: what cannot run is never chosen, and each reason is steps."""

import re
from dataclasses import replace

import pytest

from helpers.shapes import released, small_shape
from salient.plan.commands import commands
from salient.plan.engine_profiles import ENGINES
from salient.plan.gpus import find_gpu, gpu_of_memory
from salient.plan.memory import Workload
from salient.plan.ranking import candidates
from salient.plan.requirements import Requirements
from salient.plan.weight_formats import FORMATS

ANY = Requirements()


def load(gpu="RTX 4090", engine="vllm", context=4096, **changes) -> Workload:
    device = gpu_of_memory(gpu) if isinstance(gpu, float) else find_gpu(gpu)
    return replace(Workload(ENGINES[engine], device, context), **changes)


def ranked(model, required=ANY, **changes):
    return candidates(released(model), load(**changes), required)


def names(ranked_formats) -> list[str]:
    return [one.form.name for one in ranked_formats]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_format_of_the_engine_is_judged_once(engine):
    ranked_formats = ranked("Llama-3.1-8B", engine=engine)
    assert sorted(names(ranked_formats)) == sorted(
        n for n, f in FORMATS.items() if engine in f.engines
    )


@pytest.mark.parametrize("gpu", ["RTX 4090", "T4", "V100", "H100", "MI300X", "M3 Max", 24.0])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_best_runs_if_any_does(gpu, engine):
    ranked_formats = ranked("Llama-3.1-8B", gpu=gpu, engine=engine)
    assert ranked_formats[0].runs == any(one.runs for one in ranked_formats)


def test_a_model_too_large_in_16_bit_is_quantized():
    ranked_formats = ranked("Mistral-Small-24B-Instruct-2501")
    assert ranked_formats[0].form.method == "awq"
    assert not next(one for one in ranked_formats if one.form.name == "fp16").runs


def test_4_bits_are_chosen_for_their_speed_where_16_bits_fit_too():
    ranked_formats = ranked("Llama-3.1-8B", gpu="H100")
    assert ranked_formats[0].form.name == "awq-g128"


def test_on_amd_the_slow_awq_kernel_is_not_chosen_over_16_bits():
    ranked_formats = ranked("Llama-3.1-8B", gpu="MI300X")
    assert names(ranked_formats).index("fp16") < names(ranked_formats).index("awq-g128")


@pytest.mark.parametrize(
    ("required", "message"),
    [
        (Requirements(ttft=1e-6), "first token in .* s, required"),
        (Requirements(decode=1e6), "tokens a second, required"),
        (Requirements(throughput=1e9), "tokens a second in all, required"),
        (Requirements(memory=1e6), "takes .*, required 977 KiB"),
    ],
)
def test_a_requirement_that_nothing_meets_is_named_with_both_figures(required, message):
    best = ranked("Llama-3.1-8B", required)[0]
    assert not best.good
    assert any(re.search(message, miss) for miss in best.unmet)


def test_fine_tuning_later_rules_out_formats_that_cannot():
    for one in ranked("Llama-3.1-8B", Requirements(tune=True)):
        if one.good:
            assert not one.form.tuning.startswith("no")


def test_a_bound_in_time_cannot_be_met_on_an_unknown_device():
    best = ranked("Llama-3.1-8B", Requirements(decode=1.0), gpu=24.0)[0]
    assert best.unmet == ("no forecast without a device of the catalogue",)


def test_the_serving_line_of_awq_names_no_quantization_and_tracks_weights():
    shape, at = released("Llama-3.1-8B"), load(sequences=4)
    chosen = next(c for c in candidates(shape, at, ANY) if c.form.name == "awq-g128")
    make, serve = commands("meta-llama/Llama-3.1-8B", shape, chosen, at)
    assert make == (
        "salient quantize meta-llama/Llama-3.1-8B --scheme w4-g128 -o Llama-3.1-8B-w4-g128"
    )
    assert serve.startswith("vllm serve Llama-3.1-8B-w4-g128 --dtype bfloat16 --max-model-len 4096")
    assert "--quantization" not in serve
    assert "enable_weights_track" in serve
    assert "--enable-prefix-caching" in serve


def test_the_slow_kernel_is_served_in_the_one_type_that_it_takes():
    shape, at = released("Llama-3.1-8B"), load("T4", context=2048, version=(0, 9))
    ranked_formats = candidates(shape, at, ANY)
    chosen = next(one for one in ranked_formats if one.form.name == "awq-g128")
    assert chosen.route.kernel == "awq_gemm"
    assert "--dtype float16" in commands("m", shape, chosen, at)[1]


def test_a_device_without_bfloat16_is_served_in_float16():
    shape, at = released("Llama-3.1-8B"), load("T4", context=2048)
    assert shape.dtype == "bfloat16"
    for chosen in candidates(shape, at, ANY):
        if chosen.runs:
            assert "--dtype float16" in commands("m", shape, chosen, at)[-1]
    assert next(one for one in candidates(small_shape(), at, ANY) if one.form.name == "fp16").runs


def test_llama_cpp_gets_the_context_of_all_its_slots():
    shape, at = released("Llama-3.1-8B"), load("M3 Max", "llama.cpp", sequences=4)
    chosen = candidates(shape, at, ANY)[0]
    assert f"-c {4 * 4096} -np 4" in commands("m", shape, chosen, at)[-1]


def test_tensor_parallelism_is_refused_where_whole_groups_are_lost():
    shape = small_shape()  # inner width 512: 4 groups of 128
    ranked_formats = candidates(shape, load(tp=2), ANY)
    assert next(one for one in ranked_formats if one.form.name == "awq-g128").runs
    odd = next(o for o in candidates(shape, load(tp=8), ANY) if o.form.name == "awq-g128")
    assert odd.route.pace != "fast"
    assert odd.route.fallen
