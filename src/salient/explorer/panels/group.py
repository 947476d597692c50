"""Panel 4: a group of weights beside their codes, rounded anew in any way that is asked for."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import RequestError
from salient.core.scheme import Scheme
from salient.explorer.rounding import Rounding, output_power, spread_rows

from .linear_view import LinearView, LinearViewer, check_below, some_rows

SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class GroupQuery:
    """A group of a row, and how to round it."""

    row: int
    group: int
    scheme: Scheme
    clip: float
    a: float
    b: float
    dtype: torch.dtype


def sizes_of(width: int) -> list[int]:
    """The group sizes that divide `width`."""
    return [size for size in SIZES if width % size == 0]


def group_data(viewer: LinearViewer, view: LinearView, wanted: GroupQuery) -> dict[str, Any]:
    """The group's weights, codes and errors. Raises RequestError for a group that is not there."""
    begun = time.perf_counter()
    _check(view, wanted)
    (out, width), size = view.linear.shape, wanted.scheme.group_size
    scale = viewer.scale(view, size, wanted.a, wanted.b)
    rounding = Rounding(wanted.scheme, wanted.clip, wanted.dtype)
    here = slice(wanted.group * size, (wanted.group + 1) * size)
    row = view.linear.rows(torch.tensor([wanted.row]))
    codes, grid = rounding.codes(row, scale)
    ways = _ways(viewer, view, wanted, rounding, scale, row)
    errors = {
        kind: {**_group_error(made - row, row, view.tokens, here), "layer": layer}
        for kind, (made, layer) in ways.items()
    }
    mean = view.input.mean_abs if view.input else None
    return {
        "layer": view.linear.name,
        "out": out,
        "in": width,
        "row": wanted.row,
        "group": wanted.group,
        "groups": width // size,
        "sizes": sizes_of(width),
        "scheme": str(wanted.scheme),
        "bits_per_weight": wanted.scheme.bits_per_weight,
        "weights": row[0, here].tolist(),
        "codes": codes[0, here].tolist(),
        "scale": scale[here].tolist(),
        "mean_abs": None if mean is None else mean[here].tolist(),
        "values": {kind: made[0, here].tolist() for kind, (made, _) in ways.items()},
        "written_codes": _written_codes(view, wanted.row, here),
        "zero": int(grid.zero[0, wanted.group]),
        "step": float(grid.scale[0, wanted.group]),
        "errors": errors,
        "why": view.why,
        "ms": round(1e3 * (time.perf_counter() - begun), 1),
    }


def _check(view: LinearView, wanted: GroupQuery) -> None:
    (out, width), size = view.linear.shape, wanted.scheme.group_size
    sizes = sizes_of(width)
    if size not in sizes:
        fits = f"Give one of {', '.join(map(str, sizes))}." if sizes else "No size here does."
        raise RequestError(
            f"A group size of {size} does not divide the {width} inputs of {view.linear.name!r}. "
            + fits
        )
    check_below(wanted.row, out, "row")
    check_below(wanted.group, width // size, "group")


def _ways(
    viewer: LinearViewer,
    view: LinearView,
    wanted: GroupQuery,
    rounding: Rounding,
    scale: Tensor,
    row: Tensor,
) -> dict[str, tuple[Tensor, float | None]]:
    """The row rounded as asked, plainly, and as written; with the error of the whole layer."""
    picked = spread_rows(*view.linear.shape)
    weight = view.linear.rows(picked)
    ones, plain = torch.ones_like(scale), Rounding(wanted.scheme, 1.0, wanted.dtype)
    # Before the pass has come so far there are no errors, and none are kept.
    key = (view.linear.block, view.linear.name, view.tokens is None)

    def layer(made: Tensor) -> float | None:
        if view.tokens is None:
            return None
        tokens = view.tokens
        power = viewer.errors.get(("power", *key), lambda: output_power(weight, tokens))
        return output_power(made - weight, tokens) / max(power, 1e-30)

    ways = {
        "now": (rounding.of(row, scale), layer(rounding.of(weight, scale))),
        "plain": (
            plain.of(row, ones),
            viewer.errors.get(
                ("plain", *key, wanted.scheme), lambda: layer(plain.of(weight, ones))
            ),
        ),
    }
    if view.folded is not None and view.linear.written is not None:
        written, folded = view.linear.written, view.folded
        own = some_rows(written, torch.tensor([wanted.row]))
        whole = viewer.errors.get(
            ("written", *key),
            lambda: layer(folded.undone(weight, some_rows(written, picked))),
        )
        ways["written"] = (folded.undone(row, own), whole)
    return ways


def _group_error(
    error: Tensor, row: Tensor, tokens: Tensor | None, here: slice
) -> dict[str, float | None]:
    """Of the group alone: of its weights, and of what they add to the output; relative."""
    error, row = error[:, here], row[:, here]
    weight = float(error.norm() / row.norm().clamp(min=1e-30))
    if tokens is None:
        return {"weight": weight, "output": None}
    power = max(output_power(row, tokens[:, here]), 1e-30)
    return {"weight": weight, "output": output_power(error, tokens[:, here]) / power}


def _written_codes(view: LinearView, row: int, here: slice) -> list[int] | None:
    written = view.linear.written
    return None if written is None else written.codes[row, here].tolist()
