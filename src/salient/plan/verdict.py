"""The answer of a plan: what to serve on which device, whether it fits, how fast, why."""

from collections.abc import Iterator
from pathlib import Path

from salient.core.report import mebibytes
from salient.core.summary_lines import COMMAND, SummaryLine
from salient.shapes.model_shape import ModelShape

from .memory import Workload
from .planner import DevicePlan, Plan
from .ranking import Candidate
from .speed import Forecast, SpeedRange
from .weight_formats import WeightFormat

ENGINE_TITLES = {"vllm": "vLLM", "sglang": "SGLang", "salient": "Salient"}
STYLES = {"yes": "bold green", "no": "bold red", "unsure": "bold yellow"}  # of the decision
LARGEST_ITEMS = 3  # of the memory, where it is too little


def ranked_devices(plan: Plan) -> list[DevicePlan]:
    """The smallest device that meets everything first; what misses least before what misses more.

    Memory stands for the price, which Salient does not know.
    """
    return sorted(plan.devices, key=_distance)


def chosen(plan: Plan) -> DevicePlan | None:
    """The device to take; None where no device was named."""
    return next(iter(ranked_devices(plan)), None)


def _distance(device: DevicePlan) -> tuple[bool, bool, float, float, float]:
    best = device.best
    refused = best.route.pace == "refused"
    too_much = max(1.0, best.budget.taken / max(1, best.budget.available))
    speed = best.forecast.decode.middle if best.forecast else 0.0
    return not best.good, refused, too_much, device.gpu.memory * device.load.tp, -speed


def verdict(plan: Plan) -> list[SummaryLine]:
    """The model, then the answer for the chosen device with the lines to type."""
    lines = [SummaryLine("Model", f"{model_label(plan)}: {size_text(plan.shape)}")]
    device = chosen(plan)
    if device is None:
        hint = "name a device for memory and speed: --gpu NAME, or --vram GB"
        return [*lines, SummaryLine("Next", hint)]
    style = STYLES[plan.decision]
    lines.append(SummaryLine("Serve", _choice(plan, device), style))
    if not _refused(device.best):
        lines.append(SummaryLine("Fits", fit_text(device.best, device.load), style))
        lines.append(SummaryLine("Speed", speed_text(device.best, device.load)))
    lines.append(SummaryLine("Why", "; ".join(reasons(plan, device))))
    lines += [SummaryLine("Change", step) for step in steps(device)]
    return lines + [SummaryLine(COMMAND, command) for command in device.commands]


def model_label(plan: Plan) -> str:
    """The model's name; of a config.json or a path that of its folder."""
    name = str(plan.options.model)
    path = Path(name)
    if path.name == "config.json":
        return path.resolve().parent.name
    return path.name if path.is_absolute() else name


def size_text(shape: ModelShape) -> str:
    """ "8.03 billion parameters, bfloat16", or a range where they were counted roughly."""
    text = f"{shape.parameters / 1e9:.2f} billion parameters"
    if not shape.exact:
        text = f"about {_billions(shape.parameters)} parameters"
        if shape.low and shape.high:
            text += f" ({_billions(shape.low)} to {_billions(shape.high)})"
        text += f"; counted roughly: {'; '.join(shape.rough)}"
    elif shape.active_parameters < shape.parameters - sum(shape.towers.values()):
        text += f", {shape.active_parameters / 1e9:.2f} active for a token"
    if shape.ahead:
        text += f" (+ {shape.ahead / 1e9:.2f} that predict further tokens)"
    return text


def _billions(count: int) -> str:
    return f"{count / 1e9:.3g} billion" if count < 1e12 else f"{count / 1e12:.3g} trillion"


def device_title(load: Workload) -> str:
    """ "RTX 4090", "4 x H100 SXM"."""
    return load.gpu.name if load.tp == 1 else f"{load.tp} x {load.gpu.name}"


def engine_title(load: Workload) -> str:
    """ "vLLM 0.32", "llama.cpp"."""
    name = load.engine.name
    version = f" {load.version[0]}.{load.version[1]}" if name == "vllm" else ""
    return ENGINE_TITLES.get(name, name) + version


def load_text(load: Workload) -> str:
    """ "4 sequences of 16,384 tokens"."""
    return f"{load.sequences:,} sequence{'s' * (load.sequences != 1)} of {load.context:,} tokens"


def _choice(plan: Plan, device: DevicePlan) -> str:
    best, load = device.best, device.load
    where = f"on {device_title(load)} with {engine_title(load)}, {load_text(load)}"
    if plan.decision == "unsure":
        return f"undecided {where}; {best.form.title} by the rough count"
    if best.good:
        return f"{best.form.title} {where}"
    if _refused(best):
        return f"nothing: {engine_title(load)} does not run on {device_title(load)}"
    aim = "meets the requirements" if best.runs else "fits"
    return f"nothing {aim} {where}; nearest: {best.form.title}"


def _refused(candidate: Candidate) -> bool:
    return candidate.route.pace == "refused"


def fit_text(best: Candidate, load: Workload) -> str:
    """Whether it fits, and what would at most."""
    memory = best.budget
    taken, available = mebibytes(memory.taken), mebibytes(memory.available)
    each = " on each GPU" if load.tp > 1 else ""
    most = f"{memory.largest_context:,} tokens"
    if memory.fits:
        text = f"yes, {taken} of {available}{each}; up to "
        if memory.most_sequences > 1:
            text += f"{memory.most_sequences:,} sequences, or one of {most}"
        else:
            text += most
        return text
    text = (
        f"no, {taken} of {available}{each}: {mebibytes(memory.taken - memory.available)} too much"
    )
    if memory.most_sequences:
        text += f"; {memory.most_sequences:,} of {load.sequences:,} sequences fit"
    elif memory.largest_context:
        text += f"; one sequence of {most} fits"
    return text


def speed_text(best: Candidate, load: Workload) -> str:
    """Tokens a second and seconds to the first one, by forecast."""
    if best.forecast is None:
        return "unknown: name the device with --gpu"
    each = f"{span_text(best.forecast.decode)} tokens/s"
    if not best.budget.fits:
        each = f"would be {each}"
    if load.sequences > 1:
        each += f" each, {span_text(best.forecast.together)} in all"
    return f"{each}; first token in {first_token_text(best.forecast)}"


def span_text(span: SpeedRange) -> str:
    """ "85-140"; below 10 with one decimal."""
    low, high = (
        f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in (span.low, span.high)
    )
    return low if low == high else f"{low}-{high}"


def first_token_text(forecast: Forecast) -> str:
    """ "0.15-0.21 s"."""
    low, high = f"{forecast.ttft.low:.2f}", f"{forecast.ttft.high:.2f}"
    return f"{low} s" if low == high else f"{low}-{high} s"


def reasons(plan: Plan, device: DevicePlan) -> list[str]:
    """Why this format on this device, or why none."""
    best = device.best
    if _refused(best):
        return [best.route.why]
    if not best.budget.fits:
        items = sorted(best.budget.items, key=lambda item: -item.bytes)[:LARGEST_ITEMS]
        return [", ".join(f"{item.what} {mebibytes(item.bytes)}" for item in items)]
    if best.unmet:
        return list(best.unmet)
    return [*_device_reason(plan, device), *_format_reasons(device)]


def _device_reason(plan: Plan, device: DevicePlan) -> Iterator[str]:
    good = sum(one.best.good for one in plan.devices)
    if good > 1:
        yield f"the smallest of {good} devices that do"
    elif len(plan.devices) > 1:
        yield f"the only one of {len(plan.devices)} devices that does"


def _format_reasons(device: DevicePlan) -> Iterator[str]:
    best = device.best
    good = [one for one in device.candidates if one.good]
    plain = next((one for one in device.candidates if one.form.method == "none"), None)
    if len(good) == 1:
        yield "the only format that does"
    elif device.judgement:
        yield device.judgement
    elif plain and plain is not best and plain.forecast and best.forecast:
        ratio = best.forecast.decode.middle / plain.forecast.decode.middle
        fits = "" if plain.budget.fits else ", which does not fit"
        yield f"{ratio:.1f} x the tokens/s of 16-bit{fits}"
    if best.route.pace == "slow":
        yield f"by the slow kernel {best.route.kernel}: {best.route.why}"
    yield f"quality loss: {best.form.loss}"


def loss_text(form: WeightFormat) -> str:
    """The loss of quality without its source."""
    return form.loss.partition(" (")[0]


def steps(device: DevicePlan) -> list[str]:
    """What to change, each step once."""
    return list(dict.fromkeys(device.steps))
