"""Panel 2: the size of the channels of an input."""

from .linear_view import LinearView

SALIENT = 0.01  # of an input's channels
MAX_POINTS = 1024  # of the curve
TOP = 10  # channels that are listed


def salience_data(view: LinearView) -> dict[str, object]:
    """Mean |x| of the channels of the view's input, largest first."""
    if view.input is None or view.input.mean_abs is None:
        return {"why": view.why}
    mean = view.input.mean_abs
    values, order = mean.sort(descending=True)
    width, count = len(values), max(1, round(SALIENT * len(values)))
    ranks = sorted({i * (width - 1) // (MAX_POINTS - 1) for i in range(MAX_POINTS)})
    total = max(float(values.sum()), 1e-30)
    columns = view.folded.columns if view.folded is not None else None
    middle = float(columns.median()) if columns is not None else 1.0
    top = [
        {
            "channel": int(channel),
            "mean_abs": float(value),
            "scale": float(columns[channel]) / middle if columns is not None else None,
        }
        for value, channel in zip(values[:TOP], order[:TOP], strict=True)
    ]
    return {
        "why": "",
        "readers": list(view.input.readers),
        "tokens": view.input.tokens,
        "channels": width,
        "ranks": ranks,
        "values": [float(values[rank]) for rank in ranks],
        "salient": count,
        "share": float(values[:count].sum()) / total,
        "median": float(values.median()),
        "largest": float(values[0]),
        "top": top,
    }
