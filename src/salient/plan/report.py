"""A plan for people and for programs: tables, lines, JSON."""

from dataclasses import asdict
from typing import Any

from salient.core.report import Report, Table, mebibytes
from salient.shapes.model_shape import ModelShape

from .engine_profiles import GIB
from .planner import DevicePlan, Plan
from .ranking import Candidate
from .speed import Forecast
from .weight_formats import FORMATS, bytes_read, weights

REFUSALS = 4  # kernels that were asked before, told to people; JSON has all


def to_report(plan: Plan) -> Report:
    """The report of the verb."""
    tables, lines = [parts_table(plan)], []
    if plan.devices:
        for device in plan.devices:
            tables += [formats_table(device), memory_table(device)]
            lines += device_lines(device)
    else:
        tables.append(_stored_table(plan))
        lines.append("Name a device for what fits and how fast it is: --gpu NAME, or --vram GB.")
    if plan.request.engine == "vllm":
        lines.append(f"Tensor parallel sizes that keep groups whole: {_sizes(plan)}.")
    lines += [f"note: {note}" for note in plan.shape.notes]
    return Report(to_data(plan), tables, lines, passed=plan.good)


def _sizes(plan: Plan) -> str:
    told = [f"g{g}: {', '.join(map(str, sizes))}" for g, sizes in plan.tp_sizes.items()]
    return "; ".join(told)


def parts_table(plan: Plan) -> Table:
    """Parameters by part, and what a token keeps."""
    rows = [(name, f"{count:,}") for name, count in parts(plan.shape).items()]
    title = f"{plan.request.model}: {plan.shape.parameters / 1e9:.2f} billion parameters"
    if plan.shape.active_parameters < plan.shape.parameters - sum(plan.shape.towers.values()):
        title += f", {plan.shape.active_parameters / 1e9:.2f} active for a token"
    return Table(title, ("part", "parameters"), rows + _cache_rows(plan.shape))


def parts(shape: ModelShape) -> dict[str, int]:
    """Parameters by part; they add up to all of them."""
    found = {"embedding": shape.embedding, "head": shape.head}
    for linear in shape.linears:
        found[linear.part] = found.get(linear.part, 0) + linear.weights + linear.biases
    found["norms and others"] = shape.other + sum(block.other for block in shape.blocks)
    found |= shape.towers
    names = {"head": "head" if shape.head else "head (tied to the embedding)"}
    return {names.get(name, name): n for name, n in found.items() if n or name == "head"}


def _cache_rows(shape: ModelShape) -> list[tuple[str, ...]]:
    kinds: dict[str, int] = {}
    for block in shape.blocks:
        kinds[block.kind] = kinds.get(block.kind, 0) + 1
    rows = [(f"blocks: {kind}", str(count)) for kind, count in kinds.items()]
    rows.append(("KV cache a token, 16-bit", f"{shape.values_per_token * 2:,} bytes"))
    states = sum(block.cache.state for block in shape.blocks)
    if states:
        rows.append(("state a sequence", f"{states:,} numbers"))
    return rows


def _stored_table(plan: Plan) -> Table:
    rows = []
    for form in FORMATS.values():
        stored = weights(plan.shape, form)
        read = bytes_read(plan.shape, form) / GIB
        rows.append((form.title, mebibytes(stored.total), f"{read:.2f} GiB", form.loss))
    columns = ("format", "weights", "read a token", "loss")
    return Table("Formats", columns, rows, text_columns=("loss",))


def formats_table(device: DevicePlan) -> Table:
    """Every format that the engine takes on one device, best first."""
    load = device.load
    over = f" x {load.tp}" if load.tp > 1 else ""
    title = f"{device.gpu.name}{over}, {load.engine.name}: {load.words}"
    columns = ("format", "weights", "takes", "longest", "most", "kernel", "tok/s", "first token")
    rows = [_row(one) for one in device.candidates if one.route.pace != "refused"]
    return Table(title, columns, rows, text_columns=("kernel",))


def _row(one: Candidate) -> tuple[str, ...]:
    kernel = one.route.kernel + (" (slow)" if one.route.pace == "slow" else "")
    takes = mebibytes(one.budget.taken) + ("" if one.budget.fits else " (no)")
    longest, most = str(one.budget.largest_context), str(one.budget.most_sequences)
    stored = mebibytes(one.budget.stored.total)
    return (one.form.title, stored, takes, longest, most, kernel, *_speeds(one.forecast))


def _speeds(seen: Forecast | None) -> tuple[str, str]:
    if seen is None:
        return "?", "?"
    ttft = seen.ttft
    return f"{seen.decode.low:.0f}-{seen.decode.high:.0f}", f"{ttft.low:.2f}-{ttft.high:.2f} s"


def memory_table(device: DevicePlan) -> Table:
    """The chosen format's memory, line by line."""
    best = device.best
    rows = [(line.what, mebibytes(line.bytes), line.formula) for line in best.budget.lines]
    rows.append(("all", mebibytes(best.budget.taken), f"of {mebibytes(best.budget.available)}"))
    title = f"Memory of {best.form.title} on {device.gpu.name}"
    return Table(title, ("", "bytes", "how"), rows, text_columns=("how",))


def device_lines(device: DevicePlan) -> list[str]:
    """The choice in words, what it rests on, what to change, what to type."""
    best, name = device.best, device.gpu.name
    head = (
        f"{name}: take {best.form.title}." if best.good else f"{name}: no format will do as it is."
    )
    lines = [head, *(f"  {reason}" for reason in best.reasons)]
    lines += [f"  misses: {miss}" for miss in best.unmet]
    lines += [f"  change: {change}" for change in (*device.advice, *best.route.do)]
    lines += [f"  falls back: {layer}" for layer in best.route.fallen]
    lines += [f"  not {no.kernel}: {no.why}" for no in best.route.refusals[:REFUSALS]]
    if best.forecast:
        lines += [f"  assumed: {line}" for line in best.forecast.assumptions]
    lines += refused_lines(device)
    second = next((one for one in device.candidates[1:] if one.good), None)
    if second and best.good:
        lines.append(f"  next: {second.form.title}: {'; '.join(second.reasons[:3])}")
    lines += [f"  $ {line}" for line in device.commands]
    return lines


def refused_lines(device: DevicePlan) -> list[str]:
    """Formats that the engine will not run there, those of one reason together."""
    reasons: dict[tuple[str, ...], list[str]] = {}
    for one in device.candidates:
        if one.route.pace == "refused":
            reasons.setdefault((one.route.why, *one.route.do[:1]), []).append(one.form.title)
    return [f"  refused: {', '.join(names)}: {'; '.join(why)}" for why, names in reasons.items()]


def to_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    shape = plan.shape
    return {
        "model": plan.request.model,
        "origin": plan.origin,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "parts": parts(shape),
        "kv_bytes_per_token_16_bit": shape.values_per_token * 2,
        "notes": list(shape.notes),
        "required": asdict(plan.asked),
        "tensor_parallel_sizes": {f"g{g}": list(sizes) for g, sizes in plan.tp_sizes.items()},
        "weights": {name: weights(shape, form).total for name, form in FORMATS.items()},
        "good": plan.good,
        "devices": [_device_data(device) for device in plan.devices],
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
        "advice": list(device.advice),
        "commands": list(device.commands),
    }


def _candidate_data(one: Candidate) -> dict[str, Any]:
    return {
        "format": one.form.name,
        "runs": one.runs,
        "good": one.good,
        "score": round(one.score, 3),
        "unmet": list(one.unmet),
        "reasons": list(one.reasons),
        "route": asdict(one.route),
        "available_bytes": one.budget.available,
        "taken_bytes": one.budget.taken,
        "memory": [asdict(line) for line in one.budget.lines],
        "largest_context": one.budget.largest_context,
        "most_sequences": one.budget.most_sequences,
        "forecast": asdict(one.forecast) if one.forecast else None,
    }
