"""An Architecture Decision Record of a plan, in Markdown."""

import os
from datetime import date
from pathlib import Path

from salient.core.errors import ResourceError
from salient.core.markdown import markdown_table
from salient.core.printable import printable
from salient.core.report import Table, mebibytes

from .planner import DevicePlan, Plan
from .report import formats_table, memory_table, parts_table, speed_table


def write_record(plan: Plan, path: Path, today: date) -> None:
    """Write the record to `path`, which appears only when complete.

    Raises ResourceError where the folder cannot be written.
    """
    partial = path.with_name(path.name + ".tmp")
    try:
        partial.write_text(printable(record(plan, today)), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ResourceError(
            f"The record {path} cannot be written ({error.strerror}). Give --adr a file in a "
            "folder that exists and has room."
        ) from error


def record(plan: Plan, today: date) -> str:
    """The record's text."""
    model = plan.options.model
    sections = [
        f"# How to serve {model}",
        f"Date: {today.isoformat()}. Status: proposed.",
        "## Context",
        _context(plan),
        _markdown(parts_table(plan)),
    ]
    for device in plan.devices:
        sections += _device(device)
    if not plan.devices:
        sections += ["## Decision", "None yet: no device was named."]
    sections += ["## When to reconsider", _list(_reconsider(plan))]
    return "\n\n".join(sections) + "\n"


def _context(plan: Plan) -> str:
    required = plan.options.require or "nothing beyond running and fitting"
    first = plan.devices[0].load if plan.devices else None
    load = f" Load: {first.summary}." if first else ""
    notes = "".join(f" {note}." for note in plan.shape.notes)
    return (
        f"{plan.options.model} ({plan.origin}) is to be served with {plan.options.engine}.{load} "
        f"Required: {required}.{notes}"
    )


def _device(device: DevicePlan) -> list[str]:
    best = device.best
    name, form = device.gpu.name, best.form.title
    choice = f"Serve {form} on {name}."
    if not best.good:
        choice = f"No format meets the requirements on {name}. The nearest is {form}."
    sections = [
        f"## Decision: {name}",
        choice,
        _list([*best.reasons, *(f"misses: {miss}" for miss in best.unmet)]),
        "### Alternatives",
        _markdown(formats_table(device)),
        _markdown(speed_table(device)),
        _list([f"{one.form.title}: {'; '.join(one.reasons)}" for one in device.candidates[1:]]),
        "### Trade-offs",
        _list(_trade_offs(device)),
        "### Memory budget",
        _markdown(memory_table(device)),
    ]
    if device.advice:
        sections += ["### What would make it fit", _list([change.text for change in device.advice])]
    if device.commands:
        sections += ["### Commands", "```sh\n" + "\n".join(device.commands) + "\n```"]
    return sections


def _trade_offs(device: DevicePlan) -> list[str]:
    best = device.best
    plain = next((one for one in device.candidates if one.form.name == "fp16"), None)
    lines = [f"Quality: {best.form.loss}", f"Fine-tuning later: {best.form.tuning}"]
    if plain and plain is not best:
        saved = plain.budget.stored.total - best.budget.stored.total
        lines.append(f"Memory: {mebibytes(saved)} of weights less than in 16-bit")
    if plain and plain is not best and plain.forecast and best.forecast:
        ratio = best.forecast.decode.middle / plain.forecast.decode.middle
        lines.append(f"Speed: {ratio:.1f} times the tokens a second of 16-bit, by forecast")
    if best.forecast:
        lines += [f"Assumed: {line}" for line in best.forecast.assumptions]
    return lines


def _reconsider(plan: Plan) -> list[str]:
    lines = [
        "The measured quality on your own tasks misses its bound: a forecast does not cover it.",
        "Measured speed leaves the forecast's range: run `salient doctor` on the engine's log.",
        "The engine's version changes: its kernels depend on it.",
    ]
    for device in plan.devices:
        budget, load = device.best.budget, device.load
        lines.append(
            f"On {device.gpu.name}: more than {budget.most_sequences} sequences of {load.context} "
            f"tokens, or one of more than {budget.largest_context}, are needed."
        )
    return lines


def _markdown(table: Table) -> str:
    return f"**{table.title}**\n\n{markdown_table(table.columns, table.rows, table.text_columns)}"


def _list(items: list[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
