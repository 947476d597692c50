"""An Architecture Decision Record of a plan, in Markdown: one decision that a team can commit."""

import os
import shlex
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

from salient.core.errors import ResourceError
from salient.core.markdown import escape_markdown, markdown_table
from salient.core.options import option_fields, strings
from salient.core.printable import printable, printable_line
from salient.core.report import mebibytes
from salient.core.version import __version__
from salient.shapes.resolve import config_digest

from .count_range import CountRange
from .figures import (
    ENGINE_TITLES,
    device_title,
    each_text,
    engine_title,
    first_token_text,
    fit_text,
    gibibytes,
    load_text,
    loss_text,
    size_text,
    span_text,
    speed_text,
    taken_text,
)
from .plan_tables import accepted
from .planner import DevicePlan, Plan
from .ranking import OTHER_LOSS, Candidate
from .verdict import chosen, model_label, reasons, refuses, steps

MOST_ALTERNATIVES = 12
MOST_REJECTED = 12
_FIT_MARKS = {"yes": "", "no": " (no)", "?": " (unsure)"}


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
    """The record's text: title, provenance, context, decision, and what follows from it."""
    device = chosen(plan)
    sections = [
        f"# {_title(plan, device)}",
        _list(_provenance(plan, device, today)),
        "## Context",
        " ".join(_context(plan, device)),
        "## Decision",
    ]
    if device is None:
        sections.append("None yet: no device was named.")
    else:
        sections += _decision(plan, device)
    return "\n\n".join(sections) + "\n"


def _title(plan: Plan, device: DevicePlan | None) -> str:
    name = escape_markdown(model_label(plan))
    if device is None or plan.decision == "unsure":
        return f"How to serve {name}: undecided"
    if not device.best.good:
        return f"{name} is not served on {device_title(device.load)}"
    return f"Serve {name} as {device.best.form.title} on {device_title(device.load)}"


def _provenance(plan: Plan, device: DevicePlan | None, today: date) -> Iterator[str]:
    """Status, and what it takes to make the same record again."""
    digest = config_digest(str(plan.options.model))
    name = plan.options.engine
    engine = engine_title(device.load) if device else ENGINE_TITLES.get(name, name)
    yield f"Status: proposed, {today.isoformat()}"
    yield f"Versions: Salient {__version__}, {engine}"
    yield f"Model: {escape_markdown(plan.origin)}" + (f", SHA-256 `{digest}`" if digest else "")
    yield f"Command: `{_command(plan)}`"


def _command(plan: Plan) -> str:
    """The command line of the plan, without the record's own path."""
    argv = ["salient", "plan", str(plan.options.model)]
    for field in option_fields(type(plan.options)):
        value = getattr(plan.options, field.name)
        if field.option.positional or field.name in ("adr", "details") or value == field.default:
            continue
        text = ",".join(strings(value)) if field.option.separator else str(value)
        argv += [field.spelling, text]
    return printable_line(shlex.join(argv)).replace("`", "'")


def _context(plan: Plan, device: DevicePlan | None) -> Iterator[str]:
    yield f"The model has {escape_markdown(size_text(plan.shape))}."
    if device:
        load = device.load
        yield f"It is to be served with {engine_title(load)} to {load_text(load)} at once,"
        yield f"prompts of {load.prompt:,} tokens."
        yield f"Considered: {', '.join(device_title(one.load) for one in plan.devices)}."
    yield f"Required: {escape_markdown(plan.options.require or 'that it runs and fits')}."
    yield "All figures are forecasts; nothing was measured."
    if plan.shape.rough:
        yield f"Counted roughly: {escape_markdown('; '.join(plan.shape.rough))}."
    for note in (*plan.shape.notes, *(note for one in plan.devices for note in one.notes)):
        yield escape_markdown(_sentence(note))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].removesuffix(".") + "."


def _decision(plan: Plan, device: DevicePlan) -> list[str]:
    best = device.best
    counted = CountRange.of(plan.shape)
    where = f"on {device_title(device.load)} with {engine_title(device.load)}"
    choice = f"**{best.form.title} {where}.**"
    if plan.decision == "unsure":
        choice = (
            f"**None: the model is counted too roughly.** By that count {best.form.title} {where}:"
        )
    elif not best.good:
        choice = f"**None.** The nearest is {best.form.title} {where}:"
    lines = [f"Why: {escape_markdown('; '.join(reasons(plan, device)))}"]
    if refuses(best):
        choice = f"**None.** {engine_title(device.load)} runs no format of it on {device.gpu.name}."
    else:
        speed = speed_text(best, device.load, counted)
        lines = [f"Fits: {fit_text(best, device.load, counted)}", f"Speed: {speed}", *lines]
    sections = [choice, _list(lines)]
    if device.commands:
        sections.append("```sh\n" + "\n".join(map(printable_line, device.commands)) + "\n```")
    if accepted(device):
        sections += ["## Alternatives", _alternatives(device, counted)]
    rejected = list(_rejected(plan, device))
    sections += ["## Rejected devices", _list(rejected)] if rejected else []
    sections += ["## Consequences", _list(_consequences(device))] if best.good else []
    return [*sections, "## When to reconsider", _list(_reconsider(plan, device))]


def _alternatives(device: DevicePlan, counted: CountRange) -> str:
    """The formats that the engine runs, the chosen one first."""
    rows = [
        (
            one.form.title,
            gibibytes(one.budget.stored.total),
            f"{taken_text(one.budget, counted)}{_FIT_MARKS[counted.fits(one.budget)]}",
            f"{one.route.kernel} (slow)" if one.route.pace == "slow" else one.route.kernel,
            each_text(one.forecast, device.load, counted) if one.forecast else "?",
            loss_text(one.form),
            escape_markdown(_against(one, device.best)),
        )
        for one in accepted(device)[:MOST_ALTERNATIVES]
    ]
    available = gibibytes(device.best.budget.available)
    rate = "tokens/s each" if device.load.sequences > 1 else "tokens/s"
    columns = ("format", "weights, GiB", f"takes of {available}", "kernel", rate, "loss", "remark")
    return markdown_table(columns, rows, ("kernel", "loss", "remark"))


def _against(one: Candidate, best: Candidate) -> str:
    """Why `one` was not chosen."""
    if one is best:
        return "chosen" if best.good else "nearest"
    if not one.budget.fits:
        return f"{mebibytes(one.budget.taken - one.budget.available)} too much"
    if one.unmet or not (one.forecast and best.forecast):
        return "; ".join(one.unmet)
    ratio = one.forecast.together.middle / best.forecast.together.middle
    return f"{ratio:.2f} x the tokens/s"


def _rejected(plan: Plan, device: DevicePlan) -> Iterator[str]:
    others = [one for one in plan.devices if one is not device]
    for one in others[:MOST_REJECTED]:
        yield f"{device_title(one.load)}: {escape_markdown(_rejection(one))}"
    if rest := others[MOST_REJECTED:]:
        yield f"{len(rest)} more: {', '.join(device_title(one.load) for one in rest)}"


def _rejection(device: DevicePlan) -> str:
    best = device.best
    if refuses(best):
        return best.route.why
    if best.good:
        speed = f", {each_text(best.forecast, device.load)} tokens/s" if best.forecast else ""
        return f"would do ({best.form.title}{speed}), but is larger than needed"
    return "; ".join(best.unmet) if best.runs else fit_text(best, device.load)


def _consequences(device: DevicePlan) -> Iterator[str]:
    best = device.best
    yield f"Quality loss: {best.form.loss}; measure it on your own tasks with `salient validate`."
    yield f"Fine-tuning later: {best.form.tuning}."
    plain = next((one for one in device.candidates if one.form.method == "none"), None)
    if plain and plain is not best:
        saved = plain.budget.stored.total - best.budget.stored.total
        yield f"Weights take {mebibytes(saved)} less than in 16-bit."
    yield from (f"Slow kernel: {escape_markdown(layer)}." for layer in best.route.fallen)


def _reconsider(plan: Plan, device: DevicePlan) -> Iterator[str]:
    """Conditions with numbers, each of which can be checked."""
    best, load = device.best, device.load
    if not best.good:
        yield from (f"Change: {step}." for step in steps(plan.shape, device))
    elif best.budget.most_sequences:
        sequences, tokens = best.budget.most_sequences, best.budget.largest_context
        load_bound = f"more than {sequences:,} sequences of {load.context:,} tokens at once"
        yield f"Load: {load_bound}, or one of more than {tokens:,} tokens."
    if best.good and best.forecast:
        yield (
            f"Speed: measured below {span_text(best.forecast.together).partition('-')[0]} tokens/s "
            f"in all, or first tokens after {first_token_text(best.forecast).rpartition('-')[2]}."
        )
    most = best.form.penalty - OTHER_LOSS
    better = [one for one in device.candidates if one.good and one.form.penalty <= most]
    runner_up = better[0] if better else None
    if best.good and runner_up:
        speed = runner_up.forecast
        rate = f", {each_text(speed, load)} tokens/s" if speed else ""
        yield (
            f"Quality: the bound of your tasks is missed. Next: {runner_up.form.title} "
            f"({runner_up.form.loss}{rate})."
        )
    yield f"Versions: another engine than {engine_title(load)}; its choice of kernels may differ."
    yield "Model: config.json has another SHA-256."


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
