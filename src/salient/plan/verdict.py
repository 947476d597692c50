"""The answer of a plan: what to serve on which device, whether it fits, how fast, why."""

from collections.abc import Iterator

from salient.core.report import mebibytes
from salient.core.summary_lines import COMMAND, SummaryLine
from salient.shapes.model_shape import ModelShape

from .count_range import CountRange
from .figures import device_title, engine_title, fit_text, load_text, size_text, speed_text
from .model_source import model_source
from .planner import DevicePlan, Plan
from .ranking import Candidate
from .stored_format import STORED

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
    best, load, counted = device.best, device.load, CountRange.of(plan.shape)
    if not refuses(best):
        lines.append(SummaryLine("Fits", fit_text(best, load, counted), style))
        lines.append(SummaryLine("Speed", speed_text(best, load, counted)))
    lines.append(SummaryLine("Why", "; ".join(reasons(plan, device))))
    lines += [SummaryLine("Change", step) for step in steps(plan.shape, device)]
    return lines + [SummaryLine(COMMAND, command) for command in device.commands]


def model_label(plan: Plan) -> str:
    """The model's Hub id; of a file or folder without one its name."""
    source = model_source(str(plan.options.model))
    return source.name if source.local or source.note else source.argument


def _choice(plan: Plan, device: DevicePlan) -> str:
    best, load = device.best, device.load
    where = f"on {device_title(load)} with {engine_title(load)}, {load_text(load)}"
    if refuses(best):
        return f"nothing: {engine_title(load)} runs no format of it on {device_title(load)}"
    if plan.decision == "unsure":
        return f"undecided {where}; by the rough count {best.form.title}"
    if best.good and _unmade(plan, best):
        return f"not as stored; {best.form.title}, made of the 16-bit model, {where}"
    if best.good:
        return f"{best.form.title} {where}"
    aim = "meets the requirements" if best.runs else "fits"
    if len(plan.devices) > 1:
        aim += f" on any of {len(plan.devices)} devices"
        return f"nothing {aim}; nearest: {best.form.title} {where}"
    return f"nothing {aim} {where}; nearest: {best.form.title}"


def _unmade(plan: Plan, best: Candidate) -> bool:
    """Whether a quantized checkpoint will not do, and `best` must be made of another model."""
    return bool(plan.shape.quantization) and not best.form.ready


def _stored_reason(device: DevicePlan) -> Iterator[str]:
    """Why the checkpoint as stored will not do, where another format does."""
    for one in device.candidates:
        if one.form.name == STORED and one is not device.best:
            why = one.route.why if refuses(one) else one.reasons[0]
            yield f"as stored: {'; '.join(one.unmet) if one.runs else why}"


def refuses(candidate: Candidate) -> bool:
    """Whether the engine refuses the format."""
    return candidate.route.pace == "refused"


def reasons(plan: Plan, device: DevicePlan) -> list[str]:
    """Why this format on this device, or why none."""
    best = device.best
    if refuses(best):
        return [best.route.why]
    if plan.decision == "unsure":
        return list(plan.shape.rough)
    if not best.budget.fits:
        items = sorted(best.budget.items, key=lambda item: -item.bytes)[:LARGEST_ITEMS]
        return [", ".join(f"{item.what} {mebibytes(item.bytes)}" for item in items)]
    if best.unmet:
        return list(best.unmet)
    return [*_stored_reason(device), *_device_reason(plan, device), *_format_reasons(device)]


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


def steps(shape: ModelShape, device: DevicePlan) -> list[str]:
    """What to change, each step once; of a rough count no step has figures."""
    return list(dict.fromkeys(device.steps if shape.exact else device.best.route.do))
