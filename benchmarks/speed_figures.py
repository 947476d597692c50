"""Published figures of speed (published_speeds.json) as what plan would forecast.

A row has the device, the model (`models`: a shipped config or the keys of its shape), the format,
the engine and its version, and `rate`, tokens a second of all streams:

    context           mean tokens in the cache while decoding
    prompt, answer    tokens of each, where the rate includes reading prompts
    prefill           [tokens, tokens a second] of a prompt
    ttft              [tokens, seconds] to the first token
    eager             without CUDA graphs
    kernel            where the source selects one: `--quantization gptq` (the 100 requests of
                      AccelMark's suite C, whose 68 mean streams drain), builds of llama.cpp of
                      2023 and 2024; "Marlin" of Qwen2.5-72B, whose quantized checkpoints have
                      wider matrices

`left_out` has the figures that cannot be compared, each with the reason.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from salient.plan.device_names import find_gpu
from salient.plan.engine_kernels import route_of
from salient.plan.engine_profiles import ENGINES
from salient.plan.gpus import Gpu
from salient.plan.memory import Workload, sequence_bytes
from salient.plan.roofline import (
    ModelWork,
    loaded_prompt_seconds,
    model_work,
    prompt_seconds,
    step_seconds,
)
from salient.plan.speed_rates import (
    SpeedConstants,
    device_class,
    engine_name,
    is_graphless,
    kernel_name,
    step_rates,
)
from salient.plan.vllm.route import Route, ServingTarget, WeightPacking, route
from salient.plan.vllm.versions import NEWEST, Version
from salient.plan.weight_formats import FORMATS
from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import LinearShape, ModelShape

FIGURES = Path(__file__).with_name("published_speeds.json")
CONFIGS = Path(__file__).parent.parent / "src/salient/shapes/configs"
# Bits of dense matrices, of experts and of the head, of formats that plan makes no checkpoint of.
BITS = {
    "gptq-8bit": (8.25, 8.25, 16), "mxfp4": (16, 4.25, 16), "nvfp4": (4.5, 4.5, 16),
    "mxfp4-gguf": (8.5, 4.25, 8.5), "mxfp4-mlx": (8.5, 4.25, 8.5), "q6_k": (6.56, 6.56, 6.56),
    "q3_k_m": (3.9, 3.9, 6.56), "q4_k_xl": (4.95, 4.95, 6.56), "mlx4": (4.5, 4.5, 4.5),
    "mlx8": (8.5, 8.5, 8.5),
}  # fmt: skip
PLANNED = {"16-bit": "fp16", "awq": "awq-g128", "gptq": "gptq-g128"}


@dataclass(frozen=True)
class Figure:
    """A published figure, ready to be forecast.

    what: of all streams' tokens a second, of a prompt's, or of the seconds to the first token
    group, engine, kernel: rows of the constants
    """

    name: str
    what: Literal["rate", "prefill", "ttft"]
    value: float
    work: ModelWork
    load: Workload
    group: str
    engine: str
    kernel: str
    eager: bool
    cached: float
    prompt: int = 0
    answer: int = 1

    def forecast(self, constants: SpeedConstants) -> float:
        rates = step_rates(self.load, self.kernel, constants, eager=self.eager)
        prompt = prompt_seconds(self.work, rates, self.prompt) if self.prompt else 0.0
        if self.what == "prefill":
            return self.prompt / prompt
        if self.what == "ttft":
            return prompt + rates.first
        rows = self.load.sequences
        seconds = step_seconds(self.work, rates, rows, self.cached)
        if self.prompt and rows == 1:
            seconds += (prompt + rates.first) / self.answer
        elif self.prompt:
            together = rows / self.answer
            loaded = loaded_prompt_seconds(self.work, rates, self.prompt, together)
            seconds += rows * loaded / self.answer
        return rows / seconds

    def error(self, constants: SpeedConstants) -> float:
        """The logarithm of forecast over figure, above 0 where the forecast is too fast."""
        ratio = math.log(self.forecast(constants) / self.value)
        return -ratio if self.what == "ttft" else ratio


@cache
def published() -> dict:
    return json.loads(FIGURES.read_text(encoding="utf-8"))


@cache
def figure_shape(model: str) -> ModelShape:
    config = published()["models"][model]
    if isinstance(config, str):
        config = json.loads((CONFIGS / f"{config}.json").read_text(encoding="utf-8"))
    return read_shape(config)


@cache
def figure_work(model: str, form: str) -> ModelWork:
    shape = figure_shape(model)
    if form not in BITS:
        return model_work(shape, FORMATS[PLANNED.get(form, form)])
    dense, experts, head = BITS[form]

    def bits(linear: LinearShape) -> float:
        return experts if linear.part == "experts" else dense

    work = model_work(shape, replace(FORMATS["fp16"], bits=bits))
    return replace(work, dense=work.dense + (head - 16) / 8 * work.head)


@cache
def figure_gpu(name: str) -> Gpu:
    table = published()["devices"]
    return Gpu(name=name, memory=64, **table[name]) if name in table else find_gpu(name)


def release(text: str) -> Version:
    """vLLM's release: "0.7.3", "~0.9" or a date."""
    if text.startswith(("2023", "2024")):
        return 0, 6
    parts = text.lstrip("~").split(".")[:2]
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and parts[0] == "0" else NEWEST


def figure_route(row: dict, shape: ModelShape, load: Workload) -> Route:
    """The kernel that plan's rules select, or that the source names."""
    engine, form = load.engine.name, row["format"]
    if "kernel" in row:
        return Route(row["kernel"], "slow", "")
    if engine in ("llama.cpp", "mlx"):
        return Route({"mlx": "MLX"}.get(engine, engine), "fast", "")
    vllm = replace(load, engine=ENGINES["vllm"])
    if form in ("mxfp4", "nvfp4"):
        target = ServingTarget(load.gpu, load.tp, NEWEST, "bfloat16")
        return route(shape, WeightPacking(form), target)
    planned = FORMATS[PLANNED.get(form.removesuffix("-8bit"), form.removesuffix("-8bit"))]
    for load in (vllm, replace(vllm, version=(0, 9)), replace(vllm, version=NEWEST)):
        first = route_of(shape, planned, load)
        if first.pace != "refused":
            return first
    raise ValueError(f"{row['id']}: vLLM runs {form} on no release: {first.why}")


def read_figures(constants: SpeedConstants) -> Iterator[Figure]:
    for row in published()["figures"]:
        yield from _figures(row, constants)


def _figures(row: dict, constants: SpeedConstants) -> Iterator[Figure]:
    shape, context = figure_shape(row["model"]), row["context"]
    engine = ENGINES.get(row["engine"]) or replace(ENGINES["vllm"], name=row["engine"])
    load = Workload(
        engine,
        figure_gpu(row["gpu"]),
        context,
        row.get("streams", 1),
        row.get("tp", 1),
        version=release(row["version"]) if row["engine"] == "vllm" else NEWEST,
        eager=row.get("eager", False),
    )
    kernel = row.get("kernel", "")
    if kernel not in constants.kernels:
        kernel = kernel_name(figure_route(row, shape, load), row["format"], constants)
    figure = Figure(
        name=row["id"],
        what="rate",
        value=row["rate"],
        work=figure_work(row["model"], row["format"]),
        load=load,
        group=device_class(load.gpu, constants).name,
        engine=engine_name(load, constants),
        kernel=kernel,
        eager=is_graphless(shape, load),
        cached=sequence_bytes(shape, load, context),
        prompt=row.get("prompt", 0),
        answer=row.get("answer", 1),
    )
    yield figure
    for what in ("prefill", "ttft"):
        if what in row:
            tokens, value = row[what]
            name = f"{row['id']} {what}"
            yield replace(figure, name=name, what=what, value=value, prompt=tokens)


def halves(figures: list[Figure]) -> tuple[list[Figure], list[Figure]]:
    """Those of the fit and those held out: every other by hash, in each class of devices."""
    return _split(figures, 2, 0), _split(figures, 2, 1)


def _split(figures: list[Figure], ways: int, part: int) -> list[Figure]:
    strata: dict[tuple[str, str], list[Figure]] = defaultdict(list)
    for figure in figures:
        strata[figure.group, figure.what].append(figure)
    return [
        figure
        for stratum in strata.values()
        for index, figure in enumerate(sorted(stratum, key=_hash))
        if index % ways == part
    ]


def folds(figures: list[Figure], ways: int) -> Iterator[tuple[list[Figure], list[Figure]]]:
    """`ways` splits into the larger part and the part left out of it."""
    for part in range(ways):
        left_out = _split(figures, ways, part)
        names = {figure.name for figure in left_out}
        yield [figure for figure in figures if figure.name not in names], left_out


def _hash(figure: Figure) -> str:
    return hashlib.sha256(figure.name.encode()).hexdigest()
