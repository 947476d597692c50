"""The report of a plan: the verdict, one table, notes; on demand the details; JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from salient.core.model_files import INDEX
from salient.core.report import Report, mebibytes
from salient.core.summary_lines import SummaryLine
from salient.shapes.model_shape import ModelShape

from .plan_tables import details, overview, parts
from .planner import DevicePlan, Plan
from .ranking import Candidate
from .stored_format import SOURCE_NEEDED, plan_formats
from .verdict import chosen, steps, verdict
from .weight_formats import AS_STORED, FORMATS, stored_weights

EXACT_BY = f"a folder with its safetensors is counted exactly; {INDEX} narrows the range"
MOST_LAYERS = 2  # that fall back to a slow kernel, without details


def to_report(plan: Plan) -> Report:
    """The report of the verb."""
    shown, tables = plan.options.details, overview(plan)
    notes = [SummaryLine("Rough", line) for line in _rough_lines(plan)]
    notes += [SummaryLine("Note", note) for note in _other_notes(plan.shape)]
    if plan.shape.assumed:
        keys = f"{', '.join(plan.shape.assumed)}: not in config.json, so the default"
        notes.append(SummaryLine("Assumed", keys))
    if plan.shape.quantization:
        notes.append(SummaryLine("Note", f"every format but the stored one {SOURCE_NEEDED}"))
    first = chosen(plan)
    for device in plan.devices:
        notes += [SummaryLine("Device", note) for note in device.notes]
        if device is not first:
            notes += _other_device(plan.shape, device)
        notes += _slow_lines(device, len(device.best.route.fallen) if shown else MOST_LAYERS)
        if shown or plan.options.format:
            notes += refused_lines(device)
    if shown:
        tables += details(plan)
        notes += [line for device in plan.devices for line in _detail_lines(device)]
        notes.append(SummaryLine("Split", _tensor_parallel_sizes(plan)))
    return Report(to_data(plan), tables, [], plan.good, verdict(plan), notes)


def _rough_lines(plan: Plan) -> list[str]:
    """Why the count is rough, where the verdict does not say so, and what makes it exact."""
    if plan.shape.exact:
        return []
    reasons = [] if plan.decision == "unsure" else list(plan.shape.rough)
    return [*reasons, EXACT_BY]


def _other_notes(shape: ModelShape) -> list[str]:
    """The notes that say something else than the reasons of a rough count."""
    subjects = tuple(reason.partition(",")[0] for reason in shape.rough)
    notes = [note for note in shape.notes if not subjects or not note.startswith(subjects)]
    if shape.dtype == "float32" and not shape.quantization:
        size = mebibytes(4 * shape.files_parameters)
        notes.append(f"the files are in float32, about {size}; engines load them in 16 bits")
    return notes


def _slow_lines(device: DevicePlan, most: int) -> Iterator[SummaryLine]:
    """Up to `most` layers that fall back to a slow kernel."""
    layers = device.best.route.fallen
    for layer in layers[:most]:
        yield SummaryLine("Slow", layer)
    if layers[most:]:
        yield SummaryLine("Slow", f"{len(layers) - most} more: --details")


def _other_device(shape: ModelShape, device: DevicePlan) -> Iterator[SummaryLine]:
    """Why a device that was not chosen will not do, and the first step that helps."""
    best = device.best
    if not best.good:
        why = (best.route.why,) if best.route.pace == "refused" else best.unmet
        yield SummaryLine(device.gpu.name, "; ".join((*why, *steps(shape, device)[:1])))


def _detail_lines(device: DevicePlan) -> Iterator[SummaryLine]:
    """Kernels that were not chosen, assumptions of the forecast, and the commands."""
    best = device.best
    for refusal in best.route.refusals:
        yield SummaryLine("Kernel", f"not {refusal.kernel}: {refusal.why}")
    for line in best.forecast.assumptions if best.forecast else ():
        yield SummaryLine("Assumed", line)


def _tensor_parallel_sizes(plan: Plan) -> str:
    sizes = (f"g{group}: {', '.join(map(str, tp))}" for group, tp in plan.tp_sizes.items())
    return f"tensor-parallel sizes with whole groups: {'; '.join(sizes)}"


def refused_lines(device: DevicePlan) -> list[SummaryLine]:
    """Formats that the engine does not run there, grouped by reason."""
    reasons: dict[tuple[str, ...], list[str]] = {}
    for one in device.candidates:
        if one.route.pace == "refused":
            reasons.setdefault((one.route.why, *one.route.do[:1]), []).append(one.form.title)
    return [
        SummaryLine("Refused", f"{', '.join(names)}: {'; '.join(why)}")
        for why, names in reasons.items()
    ]


def to_data(plan: Plan) -> dict[str, Any]:
    """The plan as JSON data."""
    shape, first = plan.shape, chosen(plan)
    return {
        "model": plan.options.model,
        "origin": plan.origin,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "parts": parts(shape),
        "kv_bytes_per_token_16_bit": shape.values_per_token * 2,
        "kv_bytes_per_late_token_16_bit": shape.values_per_late_token * 2,
        "parameters_low": shape.low,
        "parameters_high": shape.high,
        "rough": list(shape.rough),
        "assumed": list(shape.assumed),
        "notes": list(shape.notes),
        "required": asdict(plan.requirements),
        "tensor_parallel_sizes": {f"g{g}": list(sizes) for g, sizes in plan.tp_sizes.items()},
        "stored": _stored_data(shape),
        "weights": {name: stored_weights(shape, form).total for name, form in FORMATS.items()},
        "good": plan.good,
        "decision": plan.decision,
        "chosen_device": first.gpu.name if first else None,
        "devices": [_device_data(device) for device in plan.devices],
    }


def _stored_data(shape: ModelShape) -> dict[str, Any]:
    """The checkpoint as its files are; `file_bytes` counts layers that are not loaded, too."""
    form = plan_formats(shape)[0]
    stored = stored_weights(shape, form)
    return {
        "format": form.name,
        "title": form.title.removesuffix(AS_STORED),
        "method": form.method,
        "bytes": stored.total,
        "file_bytes": stored.files,
    }


def _device_data(device: DevicePlan) -> dict[str, Any]:
    load = device.load
    return {
        "gpu": asdict(device.gpu),
        "engine": load.engine.name,
        "context": load.context,
        "concurrency": load.sequences,
        "tp": load.tp,
        "kv_dtype": load.kv_dtype,
        "choice": device.best.form.name if device.best.good else None,
        "formats": [_candidate_data(one) for one in device.candidates],
        "advice": [change.text for change in device.advice],
        "commands": list(device.commands),
        "notes": list(device.notes),
    }


def _candidate_data(one: Candidate) -> dict[str, Any]:
    return {
        "format": one.form.name,
        "ready": one.form.ready,
        "title": one.form.title,
        "loss": one.form.loss,
        "runs": one.runs,
        "good": one.good,
        "score": round(one.score, 3),
        "unmet": list(one.unmet),
        "reasons": list(one.reasons),
        "route": asdict(one.route),
        "available_bytes": one.budget.available,
        "taken_bytes": one.budget.taken,
        "memory": [asdict(item) for item in one.budget.items],
        "largest_context": one.budget.largest_context,
        "most_sequences": one.budget.most_sequences,
        "forecast": asdict(one.forecast) if one.forecast else None,
    }
