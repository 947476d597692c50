"""The tables of a plan: formats of a device, devices, and the details behind them."""

from salient.core.report import Table, mebibytes
from salient.shapes.model_shape import ModelShape

from .engine_profiles import GIB
from .planner import DevicePlan, Plan
from .ranking import Candidate
from .verdict import (
    device_title,
    engine_title,
    first_token_text,
    load_text,
    loss_text,
    ranked_devices,
    span_text,
)
from .weight_formats import FORMATS, bytes_read, stored_weights

_TIED_HEAD = "head (tied to the embedding)"
# Columns that a narrow terminal leaves out, the first one first.
_OPTIONAL = ("first\ntoken", "most\ntokens", "in all", "most\nsequences", "weights\nGiB", "kernel")


def overview(plan: Plan) -> list[Table]:
    """The one table of a plan: devices where there are several, else formats; none where the
    engine runs no format."""
    if not plan.devices:
        return [_sizes_table(plan)]
    if len(plan.devices) > 1:
        return [devices_table(plan)]
    return [formats_table(device) for device in plan.devices if accepted(device)]


def details(plan: Plan) -> list[Table]:
    """Parameters, then the formats and the memory of each device."""
    tables = [parts_table(plan)]
    for device in filter(accepted, ranked_devices(plan)):
        tables += [formats_table(device)] * (len(plan.devices) > 1)
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
    for form in FORMATS.values():
        stored = stored_weights(plan.shape, form)
        read = gibibytes(bytes_read(plan.shape, form))
        rows.append((form.title, gibibytes(stored.total), read, loss_text(form)))
    columns = ("format", "weights\nGiB", "read a\ntoken, GiB", "quality loss")
    return Table("Formats", columns, rows, text_columns=columns[3:])


def formats_table(device: DevicePlan) -> Table:
    """Every format that the engine runs on one device, best first."""
    load = device.load
    available = mebibytes(device.best.budget.available)
    title = f"Formats on {device_title(load)}: {engine_title(load)} may use {available}"
    title += " of each" if load.tp > 1 else ""
    columns = ("format", *_columns(load.sequences))
    rows = [(one.form.title, *_cells(one, load.sequences)) for one in accepted(device)]
    return Table(title, columns, rows, ("format", "fits", "kernel"), _OPTIONAL)


def devices_table(plan: Plan) -> Table:
    """The best format of every device, the device to take first."""
    load = plan.devices[0].load
    columns = ("device", "format", *_columns(load.sequences))
    rows = [
        (
            device_title(device.load),
            device.best.form.title if accepted(device) else "none",
            *_cells(device.best, load.sequences, of=True),
        )
        for device in ranked_devices(plan)
    ]
    title = f"Devices: {engine_title(load)}, {load_text(load)}"
    return Table(title, columns, rows, ("format", "fits", "kernel"), _OPTIONAL)


def _columns(sequences: int) -> tuple[str, ...]:
    together = ("in all",) if sequences > 1 else ()
    return ("weights\nGiB", "takes\nGiB", "fits", "most\nsequences", "most\ntokens", "kernel",
            "tokens/s", *together, "first\ntoken")  # fmt: skip


def _cells(one: Candidate, sequences: int, *, of: bool = False) -> tuple[str, ...]:
    """The cells of `_columns`. of: whether the memory of the device is named too"""
    memory, speed = one.budget, one.forecast
    together = ((span_text(speed.together) if speed else "?"),) if sequences > 1 else ()
    if one.route.pace == "refused":
        return ("", "", "no", "", "", "not run", "", *[""] * len(together), "")
    taken = gibibytes(memory.taken) + (f" of {gibibytes(memory.available)}" if of else "")
    return (
        gibibytes(memory.stored.total),
        taken,
        "yes" if memory.fits else "no",
        f"{memory.most_sequences:,}",
        f"{memory.largest_context:,}",
        one.route.kernel + " (slow)" * (one.route.pace == "slow"),
        span_text(speed.decode) if speed else "?",
        *together,
        first_token_text(speed) if speed else "?",
    )


def gibibytes(count: float) -> str:
    """Bytes as a number of GiB, for columns that name the unit."""
    return f"{count / GIB:,.2f}" if count < 1000 * GIB else f"{count / GIB:,.0f}"


def accepted(device: DevicePlan) -> list[Candidate]:
    """The formats that the engine does not refuse."""
    return [one for one in device.candidates if one.route.pace != "refused"]


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
