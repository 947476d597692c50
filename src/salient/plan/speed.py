"""A forecast of speed: a roofline with constants that are fitted to published figures.

`roofline` has the law, `speed_rates` the constants of devices, engines and kernels. Ranges are as
wide as the errors of forecasts of figures that the fit did not read; every forecast states them.
"""

import math
from dataclasses import dataclass

from salient.plan.vllm.route import Route
from salient.shapes.model_shape import ModelShape

from .memory import Workload, sequence_bytes
from .roofline import (
    StepRates,
    loaded_prompt_seconds,
    model_work,
    prompt_seconds,
    step_seconds,
)
from .speed_rates import (
    KernelEfficiency,
    SpeedConstants,
    device_class,
    engine_name,
    is_graphless,
    kernel_name,
    speed_constants,
    step_rates,
)
from .weight_formats import WeightFormat

LEAST_ANSWER = 128  # tokens of an answer where the prompt fills the context
UNSEEN = 1.5  # wider ranges where no figure of the class is of the engine
UNMEASURED = 2.0  # where no figure of any class is


@dataclass(frozen=True)
class SpeedRange:
    """A range with its middle."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """Tokens a second of one sequence and of all together; seconds to the first token.

    prompt: seconds by which reading a prompt holds up the other sequences
    """

    decode: SpeedRange
    together: SpeedRange
    ttft: SpeedRange
    assumptions: tuple[str, ...]
    prompt: float = 0.0


def forecast(
    shape: ModelShape, form: WeightFormat, load: Workload, route: Route
) -> Forecast | None:
    """Speeds of `shape` in `form` by the kernel of `route`; None where the device is unknown or the
    engine refuses the format."""
    if not load.gpu.bandwidth or not load.gpu.tflops or route.pace == "refused":
        return None
    constants = speed_constants()
    kernel = kernel_name(route, form.title, constants)
    rates = step_rates(load, kernel, constants, eager=is_graphless(shape, load))
    work = model_work(shape, form)
    cached = sequence_bytes(shape, load, load.context // 2)
    alone = step_seconds(work, rates, 1, cached)
    together = step_seconds(work, rates, load.sequences, cached)
    ttft = prompt_seconds(work, rates, load.prompt) + rates.first
    width, prompt_width = widths(load, constants)
    slow = math.log(1 / load.gpu.slowest)
    return Forecast(
        _range(1 / alone, width + slow, width),
        _range(load.sequences / together, width + slow, width),
        _range(ttft, prompt_width, prompt_width + slow),
        (
            *_assumptions(shape, load, constants.kernels[kernel], rates),
            _accuracy(load, constants),
        ),
        loaded_prompt_seconds(work, rates, load.prompt, load.sequences / answer_tokens(load)),
    )


def answer_tokens(load: Workload) -> int:
    """What a sequence writes after its prompt."""
    return max(load.context - load.prompt, LEAST_ANSWER)


def widths(load: Workload, constants: SpeedConstants) -> tuple[float, float]:
    """The ranges of rates and of first tokens: logarithms of their ends over the middle."""
    accuracy = constants.accuracy[device_class(load.gpu, constants).name]
    engine = engine_name(load, constants)
    factor = 1.0
    if engine not in accuracy.engines:
        measured = {name for row in constants.accuracy.values() for name in row.engines}
        factor = UNSEEN if engine in measured else UNMEASURED
    return accuracy.width * factor, accuracy.prompt_width * factor


def _range(middle: float, below: float, above: float) -> SpeedRange:
    return SpeedRange(middle / math.exp(below), middle, middle * math.exp(above))


def _assumptions(
    shape: ModelShape, load: Workload, efficiency: KernelEfficiency, rates: StepRates
) -> tuple[str, ...]:
    gpu, engine = load.gpu, load.engine.name
    peak = efficiency.peak(gpu)
    lines = [
        f"{gpu.name}: {gpu.bandwidth:g} GB/s, of which "
        f"{rates.reads / load.tp / gpu.bandwidth / 1e9:.0%} while decoding; {peak:g} TFLOP/s, of "
        f"which {rates.multiplies / load.tp / peak / 1e12:.0%} for a prompt",
        f"{rates.block * 1e3:.2f} ms a block and {rates.step * 1e3:.2f} ms a step besides their "
        f"bytes ({engine})",
        f"a prompt of {load.prompt} tokens, nothing queued; decoding at half of {load.context}",
    ]
    if efficiency.limit:
        lines.append(f"the kernel unpacks at most {efficiency.limit:.3g} x 10^9 weights a second")
    if is_graphless(shape, load):
        lines.append(f"{engine} launches every kernel itself: no CUDA graphs")
    return tuple(lines)


def _accuracy(load: Workload, constants: SpeedConstants) -> str:
    """How good such forecasts were."""
    group = device_class(load.gpu, constants).name
    accuracy = constants.accuracy[group]
    engine = engine_name(load, constants)
    if not accuracy.figures:
        text = f"no published figure of this class ({group}) checks the forecast: a wide range"
    else:
        plural = "s" * (accuracy.figures != 1)
        text = (
            f"{accuracy.figures} published figure{plural} of this class ({group}) that the fit did "
            f"not read: median error {accuracy.median:.0%}"
        )
    if engine not in accuracy.engines:
        text += f"; none of {load.engine.name} on it: a wider range"
    return text
