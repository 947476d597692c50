"""The tables of a plan: formats of a device, devices, and the details behind them."""

from salient.core.report import Table, mebibytes
from salient.shapes.model_shape import ModelShape

from .count_range import CountRange
from .figures import (
    device_title,
    each_text,
    engine_title,
    first_token_text,
    gibibytes,
    load_text,
    loss_text,
    rounded,
    span_text,
    taken_text,
)
from .memory import Workload
from .planner import DevicePlan, Plan
from .ranking import Candidate
from .stored_format import plan_formats
from .verdict import ranked_devices
from .weight_formats import bytes_read, stored_weights

_TIED_HEAD = "head (tied to the embedding)"
MOST_FORMATS = 9  # of one device, without details
# Columns that a narrow terminal leaves out, the first one first.
_OPTIONAL = (
    "first\ntoken",
    "most\ntokens",
    "tokens/s\nin all",
    "most\nsequences",
    "weights\nGiB",
    "kernel",
)


def overview(plan: Plan) -> list[Table]:
    """The one table of a plan: devices where there are several, else formats; none where the
    engine runs no format."""
    if not plan.devices:
        return [_sizes_table(plan)]
    if len(plan.devices) > 1:
        return [devices_table(plan)]
    return [formats_table(plan, device) for device in plan.devices if accepted(device)]


def details(plan: Plan) -> list[Table]:
    """Parameters, then the formats and the memory of each device."""
    tables = [parts_table(plan)]
    for device in filter(accepted, ranked_devices(plan)):
        tables += [formats_table(plan, device)] * (len(plan.devices) > 1)
        tables += [memory_table(device), quality_table(device)]
    return tables


def parts_table(plan: Plan) -> Table:
    """Parameters by part, and the cache of a token."""
    rows = [(name, f"{count:,}") for name, count in parts(plan.shape).items()]
    return Table("Parameters", ("part", "parameters"), rows + _cache_rows(plan.shape))


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
    early, late = shape.values_per_token * 2, shape.values_per_late_token * 2
    rows.append(("KV cache a token, 16-bit", f"{early:,} bytes"))
    if late != early:
        rows.append(("where windows are full", f"{late:,} bytes"))
    states = sum(block.cache.state for block in shape.blocks)
    if states:
        rows.append(("state a sequence", f"{states:,} numbers"))
    return rows


def _sizes_table(plan: Plan) -> Table:
    rows: list[tuple[str, ...]] = []
    for form in plan_formats(plan.shape):
        stored = stored_weights(plan.shape, form)
        sizes = (stored.total, bytes_read(plan.shape, form))
        counts = [gibibytes(size) if plan.shape.exact else f"~{rounded(size)}" for size in sizes]
        rows.append((form.title, *counts, loss_text(form)))
    columns = ("format", "weights\nGiB", "read a\ntoken, GiB", "quality loss")
    return Table("Formats", columns, rows, text_columns=columns[3:])


def formats_table(plan: Plan, device: DevicePlan) -> Table:
    """What is stored, then every format that the engine runs on one device, best first.

    The chosen one is marked with >.
    """
    load = device.load
    available = mebibytes(device.best.budget.available)
    title = f"Formats on {device_title(load)}: {engine_title(load)} may use {available}"
    title += " of each" if load.tp > 1 else ""
    formats = shown(device)
    if len(formats) > MOST_FORMATS and not plan.options.details:
        title += f" ({MOST_FORMATS} of {len(formats)}; all: --details)"
        formats = formats[:MOST_FORMATS]
    columns = ("format", *_columns(load.sequences))
    counted = CountRange.of(plan.shape)
    rows = [
        ("> " * (one is device.best and one.good) + one.form.title, *_cells(one, load, counted))
        for one in formats
    ]
    return Table(title, columns, rows, ("format", "fits", "kernel"), _OPTIONAL)


def devices_table(plan: Plan) -> Table:
    """The best format of every device, the device to take first."""
    load = plan.devices[0].load
    columns = ("device", "format", *_columns(load.sequences))
    rows = [
        (
            device_title(device.load),
            device.best.form.title if accepted(device) else "none",
            *_cells(device.best, load, CountRange.of(plan.shape), of=True),
        )
        for device in ranked_devices(plan)
    ]
    title = f"Devices: {engine_title(load)}, {load_text(load)}"
    return Table(title, columns, rows, ("format", "fits", "kernel"), _OPTIONAL)


def _columns(sequences: int) -> tuple[str, ...]:
    rates = ("tokens/s\neach", "tokens/s\nin all") if sequences > 1 else ("tokens/s",)
    return ("weights\nGiB", "takes\nGiB", "fits", "most\nsequences", "most\ntokens", "kernel",
            *rates, "first\ntoken")  # fmt: skip


def _cells(
    one: Candidate, load: Workload, counted: CountRange, *, of: bool = False
) -> tuple[str, ...]:
    """The cells of `_columns`. of: whether the memory of the device is named too"""
    memory, speed, several = one.budget, one.forecast, load.sequences > 1
    if one.route.pace == "refused":
        weights = gibibytes(one.budget.stored.total) if one.form.ready else ""
        return (weights, "", "no", "", "", "not run", "", *[""] * several, "")
    together = [span_text(speed.together, counted) if speed else "?"]
    weights = memory.stored.total
    return (
        gibibytes(weights) if counted.exact else f"~{rounded(weights)}",
        taken_text(memory, counted) + (f" of {gibibytes(memory.available)}" if of else ""),
        counted.fits(memory),
        f"{memory.most_sequences:,}" if counted.exact else "?",
        f"{memory.largest_context:,}" if counted.exact else "?",
        one.route.kernel + " (slow)" * (one.route.pace == "slow"),
        each_text(speed, load, counted) if speed else "?",
        *together * several,
        first_token_text(speed, counted) if speed else "?",
    )


def accepted(device: DevicePlan) -> list[Candidate]:
    """The formats that the engine does not refuse."""
    return [one for one in device.candidates if one.route.pace != "refused"]


def shown(device: DevicePlan) -> list[Candidate]:
    """The checkpoint as stored, refused or not, then what the engine does not refuse."""
    stored = [one for one in device.candidates if one.form.ready]
    return stored + [one for one in accepted(device) if not one.form.ready]


def quality_table(device: DevicePlan) -> Table:
    """What each format loses, and whether it can be tuned."""
    rows = [(one.form.title, one.form.loss, one.form.tuning) for one in accepted(device)]
    columns = ("format", "quality loss", "fine-tuning later")
    return Table(f"Quality on {device_title(device.load)}", columns, rows, text_columns=columns[1:])


def memory_table(device: DevicePlan) -> Table:
    """The memory of the chosen format, item by item."""
    best = device.best
    rows = [(item.what, mebibytes(item.bytes), item.formula) for item in best.budget.items]
    rows.append(("all", mebibytes(best.budget.taken), f"of {mebibytes(best.budget.available)}"))
    title = f"Memory of {best.form.title} on {device_title(device.load)}"
    return Table(title, ("", "bytes", "how"), rows, text_columns=("how",))
