"""Forecasts against published figures, and laws of the roofline.

benchmarks/published_speeds.json has the figures, benchmarks/fit_speed.py fits the constants to half
of them and prints the errors of the other half.
"""

import math
import statistics
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from helpers.shapes import released, small_shape
from salient.plan.device_names import find_gpu
from salient.plan.engine_kernels import route_of
from salient.plan.engine_profiles import ENGINES, GIB
from salient.plan.gpus import catalogue
from salient.plan.memory import Workload, utilization
from salient.plan.roofline import loaded_prompt_seconds, model_work, prompt_seconds, step_seconds
from salient.plan.speed import Forecast, forecast, widths
from salient.plan.speed_rates import device_class, speed_constants, step_rates
from salient.plan.vllm.route import ServingTarget, WeightPacking, route
from salient.plan.weight_formats import FORMATS, stored_weights

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from speed_figures import Figure, halves, published, read_figures

QWEN, LLAMA, MIXTURE = "Qwen2.5-14B", "Llama-3.1-8B", "Qwen3-30B-A3B"
LARGEST_FACTOR = 1.5


@cache
def unread(what: str) -> tuple[Figure, ...]:
    _, rest = halves(list(read_figures(speed_constants())))
    return tuple(figure for figure in rest if figure.what == what)


def speed(model: str = LLAMA, form: str = "fp16", gpu: str = "RTX 4090", **knobs) -> Forecast:
    load = Workload(ENGINES[knobs.pop("engine", "vllm")], find_gpu(gpu), 2048)
    load = replace(load, **knobs)
    shape = released(model)
    result = forecast(shape, FORMATS[form], load, route_of(shape, FORMATS[form], load))
    assert result
    return result


def test_the_median_error_of_figures_that_the_fit_did_not_read_is_under_15_percent():
    errors = [abs(figure.error(speed_constants())) for figure in unread("rate")]
    assert len(errors) >= 150
    assert math.expm1(statistics.median(errors)) < 0.15


def test_almost_no_forecast_is_off_by_more_than_a_factor_of_one_and_a_half():
    errors = [abs(figure.error(speed_constants())) for figure in unread("rate")]
    assert sum(error > math.log(LARGEST_FACTOR) for error in errors) <= 0.02 * len(errors)


def test_ranges_cover_about_as_many_figures_as_they_promise():
    constants = speed_constants()
    inside = [
        abs(figure.error(constants)) <= widths(figure.load, constants)[figure.what != "rate"]
        for what in ("rate", "prefill", "ttft")
        for figure in unread(what)
    ]
    assert 0.78 <= sum(inside) / len(inside) <= 0.95


def test_every_published_figure_has_an_address_and_every_one_left_out_a_reason():
    table = published()
    sources = table["sources"]
    assert all(sources[row["source"]] for row in table["figures"])
    assert all(row["reason"] and row["source"] for row in table["left_out"])
    names = [row["id"] for row in table["figures"] + table["left_out"]]
    assert len(names) == len(set(names))


def test_the_accuracy_that_a_forecast_states_is_that_of_figures_outside_the_fit():
    constants = speed_constants()
    for name, row in constants.accuracy.items():
        errors = [abs(f.error(constants)) for f in unread("rate") if f.group == name]
        assert row.figures == len(errors)
        assert row.median == pytest.approx(statistics.median(errors or [0]), abs=0.01)


def test_every_device_has_a_class_with_an_accuracy():
    constants = speed_constants()
    assert {device_class(gpu, constants).name for gpu in catalogue()} <= constants.accuracy.keys()


def test_every_engine_has_a_row_of_costs():
    constants = speed_constants()
    assert ENGINES.keys() <= constants.engines.keys()


def test_a_forecast_states_how_many_figures_check_it():
    assert any("published figures of this class" in line for line in speed().assumptions)
    alone = speed(gpu="GTX 1080 Ti", engine="llama.cpp", form="q4_0").assumptions
    assert any("no published figure of this class" in line for line in alone)


def test_a_class_or_an_engine_without_figures_has_a_wider_range():
    def width(result: Forecast) -> float:
        return result.decode.high / result.decode.low

    old, new = (speed(gpu=gpu, engine="llama.cpp") for gpu in ("GTX 1080 Ti", "RTX 4090"))
    assert width(old) > width(new)
    assert width(speed(engine="transformers")) > width(speed())


@pytest.mark.parametrize("gpu", ["T4", "RTX 4090", "H100", "MI300X", "M3 Max", "EPYC 9554"])
def test_the_middle_is_inside_its_range_and_more_streams_are_faster_together(gpu):
    engine = "llama.cpp" if gpu in ("M3 Max", "EPYC 9554") else "vllm"
    last = 0.0
    for sequences in (1, 4, 16):
        result = speed(gpu=gpu, engine=engine, sequences=sequences)
        for span in (result.decode, result.together, result.ttft):
            assert span.low < span.middle < span.high
        assert result.together.middle > last
        last = result.together.middle


def test_a_step_reads_every_weight_once_at_most():
    work = model_work(released(MIXTURE), FORMATS["fp16"])
    total = 2 * released(MIXTURE).parameters
    reads = [
        work.dense + sum(one.bytes * one.used(rows) for one in work.experts)
        for rows in (1, 8, 64, 10**6)
    ]
    assert reads == sorted(reads)
    assert reads[0] < 0.15 * total
    assert reads[-1] <= total


def test_longer_prompts_and_contexts_take_longer():
    work = model_work(small_shape(), FORMATS["fp16"])
    load = Workload(ENGINES["vllm"], find_gpu("L4"), 2048)
    rates = step_rates(load, "16-bit", speed_constants())
    prompts = [prompt_seconds(work, rates, tokens) for tokens in (16, 256, 4096, 65536)]
    assert prompts == sorted(prompts)
    assert loaded_prompt_seconds(work, rates, 4096) <= prompt_seconds(work, rates, 4096)
    steps = [step_seconds(work, rates, 4, cached) for cached in (0, 1e6, 1e9)]
    assert steps == sorted(steps)


def test_no_first_token_comes_before_the_engine_can_schedule_it():
    for gpu in ("H100", "B200"):
        assert speed(MIXTURE, gpu=gpu, prompt=16).ttft.middle > 0.003


def test_eager_steps_are_slower():
    assert speed(eager=True).decode.middle < speed().decode.middle


def test_half_the_gpus_are_less_than_twice_as_slow():
    one, two = (speed(QWEN, gpu="A100", tp=tp).decode.middle for tp in (1, 2))
    assert one < two < 2 * one


@pytest.mark.parametrize(
    ("model", "form", "gibibytes"), [(QWEN, "fp16", 27.6), (QWEN, "awq-g128", 9.4)]
)
def test_weights_take_what_was_published(model, form, gibibytes):
    assert stored_weights(released(model), FORMATS[form]).total / GIB == pytest.approx(
        gibibytes, rel=0.1
    )


def test_vllm_takes_what_was_published_of_a_24_gib_card():
    gpu = find_gpu("RTX 4090")
    taken = gpu.memory * utilization(ENGINES["vllm"], gpu) * GIB / 1e9
    assert 22 * 0.9 <= taken <= 23 * 1.1


def test_the_fast_kernel_is_forecast_several_times_the_slow_one():
    name, form = "Mistral-Small-24B-Instruct-2501", FORMATS["awq-g128"]
    load = Workload(ENGINES["vllm"], find_gpu("RTX 4090"), 2048, version=(0, 9))
    target = ServingTarget(load.gpu, 1, load.version, "float16", "awq")
    forced = route(released(name), WeightPacking(form.method, form.group), target)
    slow = forecast(released(name), form, load, forced)
    fast = forecast(released(name), form, load, route_of(released(name), form, load))
    assert fast
    assert slow
    assert 5 < fast.decode.middle / slow.decode.middle < 15
