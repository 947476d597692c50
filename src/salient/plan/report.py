"""The report of a plan: tables, lines, JSON."""

from dataclasses import asdict
from typing import Any

from salient.core.report import Report, Table, mebibytes
from salient.shapes.model_shape import ModelShape

from .engine_profiles import GIB
from .planner import DevicePlan, Plan
from .ranking import Candidate
from .speed import Forecast
from .weight_formats import FORMATS, bytes_read, stored_weights

_TIED_HEAD = "head (tied to the embedding)"
MAX_REFUSALS = 4  # shown to people; JSON has all


def to_report(plan: Plan) -> Report:
    """The report of the verb."""
    tables = [parts_table(plan)]
    lines: list[str] = []
    if plan.devices:
        for device in plan.devices:
            tables += [formats_table(device), speed_table(device), memory_table(device)]
            lines += device_lines(device)
    else:
        tables.append(_stored_table(plan))
        lines.append("For memory and speed name a device: --gpu NAME, or --vram GB.")
    if plan.options.engine == "vllm":
        sizes = "; ".join(f"g{g}: {', '.join(map(str, tp))}" for g, tp in plan.tp_sizes.items())
        lines.append(f"Tensor-parallel sizes with whole groups: {sizes}.")
    lines += [f"note: {note}" for note in plan.shape.notes]
    return Report(to_data(plan), tables, lines, passed=plan.good)


def parts_table(plan: Plan) -> Table:
    """Parameters by part, and the cache of a token."""
    rows = [(name, f"{count:,}") for name, count in parts(plan.shape).items()]
    title = f"{plan.options.model}: {plan.shape.parameters / 1e9:.2f} billion parameters"
    if plan.shape.active_parameters < plan.shape.parameters - sum(plan.shape.towers.values()):
        title += f", {plan.shape.active_parameters / 1e9:.2f} active for a token"
    return Table(title, ("part", "parameters"), rows + _cache_rows(plan.shape))


def parts(shape: ModelShape) -> dict[str, int]:
    """Parameters by part; their sum is all of them."""
    names = {"other": "norms and others"} | ({} if shape.head else {"head": _TIED_HEAD})
    counts = shape.parts | shape.towers
    return {names.get(name, name): n for name, n in counts.items() if n or name == "head"}


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
    rows: list[tuple[str, ...]] = []
    for form in FORMATS.values():
        stored = stored_weights(plan.shape, form)
        read = bytes_read(plan.shape, form) / GIB
        rows.append((form.title, mebibytes(stored.total), f"{read:.2f} GiB", form.loss))
    columns = ("format", "weights", "read a token", "loss")
    return Table("Formats", columns, rows, text_columns=("loss",))


def formats_table(device: DevicePlan) -> Table:
    """The memory of every format that the engine takes on one device, best first."""
    load = device.load
    over = f" x {load.tp}" if load.tp > 1 else ""
    title = f"{device.gpu.name}{over}, {load.engine.name}: {load.summary}"
    columns = ("format", "weights", "takes", "max context", "max sequences")
    rows = [
        (
            candidate.form.title,
            mebibytes(candidate.budget.stored.total),
            mebibytes(candidate.budget.taken) + ("" if candidate.budget.fits else " (no)"),
            str(candidate.budget.largest_context),
            str(candidate.budget.most_sequences),
        )
        for candidate in _accepted(device)
    ]
    return Table(title, columns, rows)


def speed_table(device: DevicePlan) -> Table:
    """The kernel and the forecast of the same formats."""
    columns = ("format", "kernel", "tokens/s", "first token")
    rows = [
        (
            candidate.form.title,
            candidate.route.kernel + (" (slow)" if candidate.route.pace == "slow" else ""),
            *_speeds(candidate.forecast),
        )
        for candidate in _accepted(device)
    ]
    return Table(f"Speed on {device.gpu.name}", columns, rows, text_columns=("kernel",))


def _accepted(device: DevicePlan) -> list[Candidate]:
    return [one for one in device.candidates if one.route.pace != "refused"]


def _speeds(speed: Forecast | None) -> tuple[str, str]:
    if speed is None:
        return "?", "?"
    decode, ttft = speed.decode, speed.ttft
    return f"{decode.low:.0f}-{decode.high:.0f}", f"{ttft.low:.2f}-{ttft.high:.2f} s"


def memory_table(device: DevicePlan) -> Table:
    """The memory of the chosen format, item by item."""
    best = device.best
    rows = [(item.what, mebibytes(item.bytes), item.formula) for item in best.budget.items]
    rows.append(("all", mebibytes(best.budget.taken), f"of {mebibytes(best.budget.available)}"))
    title = f"Memory of {best.form.title} on {device.gpu.name}"
    return Table(title, ("", "bytes", "how"), rows, text_columns=("how",))


def device_lines(device: DevicePlan) -> list[str]:
    """The choice, its reasons and assumptions, what to change, what to type."""
    best, name = device.best, device.gpu.name
    choice = f"take {best.form.title}." if best.good else "no format meets the requirements."
    lines = [f"{name}: {choice}", *(f"  {reason}" for reason in best.reasons)]
    lines += [f"  misses: {miss}" for miss in best.unmet]
    lines += [f"  change: {change}" for change in device.steps]
    lines += [f"  falls back: {layer}" for layer in best.route.fallen]
    lines += [f"  not {no.kernel}: {no.why}" for no in best.route.refusals[:MAX_REFUSALS]]
    if best.forecast:
        lines += [f"  assumed: {line}" for line in best.forecast.assumptions]
    lines += refused_lines(device)
    second = next((one for one in device.candidates[1:] if one.good), None)
    if second and best.good:
        lines.append(f"  next: {second.form.title}: {'; '.join(second.reasons[:3])}")
    return [*lines, *(f"  $ {line}" for line in device.commands)]


def refused_lines(device: DevicePlan) -> list[str]:
    """Formats that the engine does not run there, grouped by reason."""
    reasons: dict[tuple[str, ...], list[str]] = {}
    for one in device.candidates:
        if one.route.pace == "refused":
            reasons.setdefault((one.route.why, *one.route.do[:1]), []).append(one.form.title)
    return [f"  refused: {', '.join(names)}: {'; '.join(why)}" for why, names in reasons.items()]


def to_data(plan: Plan) -> dict[str, Any]:
    """The plan as JSON data."""
    shape = plan.shape
    return {
        "model": plan.options.model,
        "origin": plan.origin,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "parts": parts(shape),
        "kv_bytes_per_token_16_bit": shape.values_per_token * 2,
        "notes": list(shape.notes),
        "required": asdict(plan.requirements),
        "tensor_parallel_sizes": {f"g{g}": list(sizes) for g, sizes in plan.tp_sizes.items()},
        "weights": {name: stored_weights(shape, form).total for name, form in FORMATS.items()},
        "good": plan.good,
        "decision": plan.decision,
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
        "advice": [change.text for change in device.advice],
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
        "memory": [asdict(item) for item in one.budget.items],
        "largest_context": one.budget.largest_context,
        "most_sequences": one.budget.most_sequences,
        "forecast": asdict(one.forecast) if one.forecast else None,
    }
