"""Panel 4: a group of weights next to its codes, rounded with any settings."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from salient.awq.search import spread_rows
from salient.core.errors import RequestError
from salient.core.scheme import Scheme
from salient.explorer.rounding import Rounding, output_power

from .linear_view import LinearView, LinearViewer, some_rows

SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class GroupQuery:
    row: int
    group: int
    scheme: Scheme
    clip: float
    a: float
    b: float
    dtype: torch.dtype


def group_sizes(width: int) -> list[int]:
    return [size for size in SIZES if width % size == 0]


def group_data(viewer: LinearViewer, view: LinearView, query: GroupQuery) -> dict[str, object]:
    """The group's weights, codes and errors. Raises RequestError for an unknown group."""
    start = time.perf_counter()
    _check(view, query)
    (out, width), size = view.linear.shape, query.scheme.group_size
    scale = viewer.scale(view, size, query.a, query.b)
    rounding = Rounding(query.scheme, query.clip, query.dtype)
    here = slice(query.group * size, (query.group + 1) * size)
    row = view.linear.rows(torch.tensor([query.row]))
    codes, grid = rounding.codes(row, scale)
    variants = _variants(viewer, view, query, rounding, scale, row)
    mean = view.input.mean_abs if view.input else None
    written = view.linear.written
    return {
        "layer": view.linear.name,
        "out": out,
        "in": width,
        "row": query.row,
        "group": query.group,
        "groups": width // size,
        "sizes": group_sizes(width),
        "scheme": str(query.scheme),
        "bits_per_weight": query.scheme.bits_per_weight,
        "weights": row[0, here].tolist(),
        "codes": codes[0, here].tolist(),
        "scale": scale[here].tolist(),
        "mean_abs": None if mean is None else mean[here].tolist(),
        "values": {kind: rounded[0, here].tolist() for kind, (rounded, _) in variants.items()},
        "written_codes": None if written is None else written.codes[query.row, here].tolist(),
        "zero": int(grid.zero[0, query.group]),
        "step": float(grid.scale[0, query.group]),
        "errors": {
            kind: {**_group_error(rounded - row, row, view.tokens, here), "layer": layer}
            for kind, (rounded, layer) in variants.items()
        },
        "why": view.why,
        "ms": round(1e3 * (time.perf_counter() - start), 1),
    }


def _check(view: LinearView, query: GroupQuery) -> None:
    (out, width), size = view.linear.shape, query.scheme.group_size
    sizes = group_sizes(width)
    if size not in sizes:
        advice = f"Use one of {', '.join(map(str, sizes))}." if sizes else "No size here does."
        raise RequestError(
            f"A group size of {size} does not divide the {width} inputs of {view.linear.name!r}. "
            + advice
        )
    for what, index, count in (("row", query.row, out), ("group", query.group, width // size)):
        if not 0 <= index < count:
            raise RequestError(f"There is no {what} {index}: there are {count}, from 0.")


def _variants(
    viewer: LinearViewer,
    view: LinearView,
    query: GroupQuery,
    rounding: Rounding,
    scale: Tensor,
    row: Tensor,
) -> dict[str, tuple[Tensor, float | None]]:
    """The row rounded as queried, plainly, and as written; with the error of the whole layer."""
    rows, own = spread_rows(*view.linear.shape), torch.tensor([query.row])
    weight, tokens, cache = view.linear.rows(rows), view.tokens, viewer.errors
    ones, plain = torch.ones_like(scale), Rounding(query.scheme, 1.0, query.dtype)
    # Errors are None, and not cached as such, until the pass reaches the block.
    key = (view.linear.block, view.linear.name, tokens is None, query.scheme)
    # (some rows of the source, their numbers) -> the rows rounded
    variants: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "now": lambda rows, _: rounding.of(rows, scale),
        "plain": lambda rows, _: plain.of(rows, ones),
    }
    if (folded := view.folded) is not None and (written := view.linear.written) is not None:
        variants["written"] = lambda rows, picked: folded.unfold(rows, some_rows(written, picked))

    def layer_error(kind: str) -> float | None:
        if tokens is None:
            return None
        power = cache.get(("power", *key), partial(output_power, weight, tokens))
        return output_power(variants[kind](weight, rows) - weight, tokens) / max(power, 1e-30)

    def error(kind: str) -> float | None:
        if kind == "now":
            return layer_error(kind)
        return cache.get((kind, *key), lambda: layer_error(kind))

    return {kind: (rounded(row, own), error(kind)) for kind, rounded in variants.items()}


def _group_error(
    error: Tensor, row: Tensor, tokens: Tensor | None, here: slice
) -> dict[str, float | None]:
    """Relative error of the group's weights, and of their part of the output."""
    error, row = error[:, here], row[:, here]
    weight = float(error.norm() / row.norm().clamp(min=1e-30))
    if tokens is None:
        return {"weight": weight, "output": None}
    power = max(output_power(row, tokens[:, here]), 1e-30)
    return {"weight": weight, "output": output_power(error, tokens[:, here]) / power}
