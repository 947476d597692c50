"""Laws of advice: every change is planned again; its format runs, fits and meets the bounds."""

from dataclasses import replace

import pytest

from helpers.shapes import released
from salient.plan.advice import MOST_CHANGES, changes
from salient.plan.device_names import find_gpu
from salient.plan.engine_profiles import ENGINES
from salient.plan.gpus import gpu_of_memory
from salient.plan.memory import Workload
from salient.plan.ranking import candidates
from salient.plan.requirements import Requirements

ANY = Requirements()


def load(gpu="RTX 4090", engine="vllm", context=4096, **knobs) -> Workload:
    device = gpu_of_memory(gpu) if isinstance(gpu, float) else find_gpu(gpu)
    return replace(Workload(ENGINES[engine], device, context), **knobs)


def advice(model, required=ANY, **options):
    shape, at = released(model), load(**options)
    return changes(shape, at, required, candidates(shape, at, required))


def test_what_fits_needs_no_advice():
    assert advice("Llama-3.1-8B") == ()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("Llama-3.1-70B", {"gpu": "RTX 4090"}),
        ("Llama-3.1-8B", {"gpu": 10.0, "context": 65536}),
        ("Llama-3.1-8B", {"gpu": "RTX 4090", "sequences": 100}),
        ("Llama-3.1-8B", {"gpu": 24.0, "context": 131072}),
        ("DeepSeek-V3", {"gpu": "M3 Max", "engine": "llama.cpp"}),
    ],
)
def test_every_change_was_planned_again_and_fits(model, options):
    steps = advice(model, **options)
    assert len(steps) <= MOST_CHANGES
    for step in steps:
        again = candidates(released(model), step.load, ANY)[0]
        assert again == step.candidate
        assert again.good
        assert step.options
