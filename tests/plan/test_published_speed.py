"""Forecasts against published figures: speed within a factor of 1.5, weight memory within 10 %."""

from dataclasses import dataclass

import pytest

from helpers.shapes import released
from salient.plan.device_names import find_gpu
from salient.plan.engine_kernels import route_of
from salient.plan.engine_profiles import ENGINES, GIB
from salient.plan.memory import Workload, utilization
from salient.plan.speed import forecast
from salient.plan.vllm.route import Route, ServingTarget, WeightPacking, route
from salient.plan.weight_formats import FORMATS, stored_weights

SMALL, QWEN, LLAMA = "Mistral-Small-24B-Instruct-2501", "Qwen2.5-14B", "Llama-3.1-8B"


@dataclass(frozen=True)
class Row:
    """Tokens a second of one sequence, as published."""

    model: str
    gpu: str
    form: str
    low: float
    high: float
    engine: str = "vllm"
    version: tuple[int, int] = (0, 9)  # when the figures were published
    forced: str = ""  # --quantization


# Users' reports of vLLM (24 B on an RTX 4090; 14 B on an H100; 8 B on an Instinct whose model is
# not named, here MI100 and MI210); llama.cpp's discussion 4167 for Apple, scaled from 7 B to 8 B.
PUBLISHED = [
    Row(SMALL, "RTX 4090", "awq-g128", 60, 65),
    Row(SMALL, "RTX 4090", "awq-g128", 6, 6, forced="awq"),
    Row(SMALL, "RTX 4090", "gptq-g128", 45, 55),
    Row(SMALL, "RTX 4090", "q4_k_m", 6, 6),
    Row(SMALL, "RTX 4090", "nf4", 15, 20),
    Row(QWEN, "H100", "fp16", 71.5, 71.5),
    Row(QWEN, "H100", "awq-g128", 126.7, 126.7, version=(0, 32)),
    Row(QWEN, "H100", "awq-g128", 126.7, 126.7),
    Row(QWEN, "H100", "awq-g128", 11.5, 13.7, forced="awq"),
    Row(LLAMA, "MI100", "fp16", 28, 28),
    Row(LLAMA, "MI210", "fp16", 28, 28),
    Row(LLAMA, "MI100", "awq-g128", 19, 19),
    Row(LLAMA, "MI210", "awq-g128", 19, 19),
    Row(LLAMA, "M2 Ultra", "q4_0", 77, 77, engine="llama.cpp"),
    Row(LLAMA, "M3 Max", "q4_0", 54, 54, engine="llama.cpp"),
]


def routed(row: Row) -> Route:
    shape, form, gpu = released(row.model), FORMATS[row.form], find_gpu(row.gpu)
    if row.forced:
        target = ServingTarget(gpu, 1, row.version, "float16", row.forced)
        return route(shape, WeightPacking(form.method, form.group), target)
    return route_of(shape, form, Workload(ENGINES[row.engine], gpu, 2048, version=row.version))


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda r: f"{r.model}-{r.gpu}-{r.form}-{r.forced}")
def test_a_forecast_is_within_a_factor_of_the_published_speed(row):
    load = Workload(ENGINES[row.engine], find_gpu(row.gpu), context=2048)
    speed = forecast(released(row.model), FORMATS[row.form], load, routed(row))
    assert speed is not None
    assert row.low / 1.5 <= speed.decode.middle <= row.high * 1.5
    assert speed.decode.low < speed.decode.middle < speed.decode.high


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
    fast, slow = (
        forecast(
            released(row.model),
            FORMATS[row.form],
            Workload(ENGINES["vllm"], find_gpu(row.gpu), 2048),
            routed(row),
        )
        for row in PUBLISHED[:2]
    )
    assert fast
    assert slow
    assert 5 < fast.decode.middle / slow.decode.middle < 15
