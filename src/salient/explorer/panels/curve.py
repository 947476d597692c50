"""Panel 3: the output error over the exponents of the scale."""

import torch
from torch import Tensor

from salient.awq.search import IDENTITY
from salient.core.scheme import Scheme
from salient.explorer.rounding import Rounding, output_power

from .linear_view import LinearView, LinearViewer

STEPS = tuple(step / 8 for step in range(-1, 10))  # the possible results of the search
LINE = tuple(step / 8 for step in range(9))  # of the line b = 1 - a


def curve_data(
    viewer: LinearViewer, view: LinearView, scheme: Scheme, dtype: torch.dtype
) -> dict[str, object]:
    """Relative output error over `a`, for the chosen `b` and for b = 1 - a.

    Measured as in the search, with min-max grids on evenly spread rows of all readers.
    """
    if view.tokens is None:
        return {"why": view.why}
    exponents = view.chosen.exponents if view.chosen else None
    key = ("curve", view.linear.block, view.readers, scheme)
    errors = viewer.errors.get(key, lambda: _errors(viewer, view, scheme, dtype, exponents))
    b = exponents[1] if exponents else None
    return {
        "why": "",
        "readers": list(view.readers),
        "scheme": str(scheme),
        "tokens": len(view.tokens),
        "b": b,
        "chosen": exponents and {"a": exponents[0], "b": b, "error": errors[exponents]},
        "plain": errors[IDENTITY],
        "activations": [{"a": a, "error": errors[a, b or 0.0]} for a in STEPS],
        "line": [{"a": a, "error": errors[a, 1 - a]} for a in LINE],
        "tied": view.tied is not None,
        "absorber": view.input.group.absorber if view.input and view.input.group.proven else None,
        "refusal": view.input.group.refusal if view.input else "",
    }


def _errors(
    viewer: LinearViewer,
    view: LinearView,
    scheme: Scheme,
    dtype: torch.dtype,
    exponents: tuple[float, float] | None,
) -> dict[tuple[float, float], float]:
    assert view.tokens is not None
    weight, tokens = viewer.sample(view, scheme.group_size).more, view.tokens
    b = exponents[1] if exponents else 0.0
    points = [IDENTITY, *((a, b) for a in STEPS), *((a, 1 - a) for a in LINE)]
    points += [exponents] if exponents else []
    rounding, power = Rounding(scheme, 1.0, dtype), max(output_power(weight, tokens), 1e-30)

    def error(scale: Tensor) -> float:
        return output_power(rounding.of(weight, scale) - weight, tokens) / power

    return {
        (a, b): error(viewer.scale(view, scheme.group_size, a, b)) for a, b in dict.fromkeys(points)
    }
