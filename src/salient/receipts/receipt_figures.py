"""Figures of positions: by stratum, by document, and as llama.cpp prints them."""

import math
from typing import Any

import numpy as np

from salient.core.intervals import Array, exp
from salient.validate.likelihood.position_figures import PositionFigures
from salient.validate.likelihood.token_panel import TokenPanel

from .receipt_record import DocumentSums


def document_sums(positions: PositionFigures, panel: TokenPanel) -> DocumentSums:
    """Sums over each document of the panel, those without a position as zeros."""
    documents, count = panel.document_of, len(panel.head.strata)

    def sums(values: Array | None = None) -> tuple[float, ...]:
        return tuple(np.bincount(documents, weights=values, minlength=count).tolist())

    def counts(values: Array | None = None) -> tuple[int, ...]:
        return tuple(map(int, sums(values)))

    return DocumentSums(
        counts(),
        counts(positions.predicted),
        sums(positions.kl),
        counts(positions.same),
        sums(positions.log_ratio),
    )


def llama_cpp_figures(positions: PositionFigures) -> dict[str, float]:
    """The figures of `llama-perplexity --kl-divergence`, by its labels, in its units.

    `LABEL ±` is the standard error. Over all positions with a next token, where llama.cpp takes
    the second half of each window; errors take tokens as independent, as there.
    """
    known = positions.predicted > 0
    part = positions.select(known)
    base, model = -part.reference, -part.model
    figures: dict[str, float] = {}

    def mean(label: str, values: Array, scale: float = 1.0) -> tuple[float, float]:
        middle = float(values.mean())
        error = float(values.std() / math.sqrt(max(len(values) - 1, 1)))
        figures[label], figures[f"{label} ±"] = scale * middle, scale * error
        return middle, error

    quantized, before = exp(float(model.mean())), exp(float(base.mean()))
    errors = [float(v.std() / math.sqrt(max(len(v) - 1, 1))) for v in (model, base)]
    figures |= {"Mean PPL(Q)": quantized, "Mean PPL(Q) ±": quantized * errors[0]}
    figures |= {"Mean PPL(base)": before, "Mean PPL(base) ±": before * errors[1]}
    both = len(base) > 1 and base.std() > 0 and model.std() > 0
    correlation = float(np.corrcoef(base, model)[0, 1]) if both else 1.0
    figures["Cor(ln(PPL(Q)), ln(PPL(base)))"] = 100 * correlation
    middle, error = mean("Mean ln(PPL(Q)/PPL(base))", model - base)
    figures |= {
        "Mean PPL(Q)/PPL(base)": exp(middle),
        "Mean PPL(Q)/PPL(base) ±": exp(middle) * error,
    }
    squares = (quantized * errors[0]) ** 2 + (before * errors[1]) ** 2
    joint = 2 * correlation * quantized * errors[0] * before * errors[1]
    figures["Mean PPL(Q)-PPL(base)"] = quantized - before
    figures["Mean PPL(Q)-PPL(base) ±"] = math.sqrt(max(squares - joint, 0.0))
    mean("Mean KLD", part.kl)
    figures |= _quantiles(part.kl, "KLD", (99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1), 1.0)
    change = np.exp(part.model) - np.exp(part.reference)
    mean("Mean Δp", change, 100)
    figures |= _quantiles(
        change, "Δp", (99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1), 100.0
    )
    square, spread = float((change**2).mean()), float((change**2).std())
    root = math.sqrt(square)
    figures["RMS Δp"] = 100 * root
    figures["RMS Δp ±"] = 50 * spread / math.sqrt(max(len(change) - 1, 1)) / max(root, 1e-300)
    mean("Same top p", part.same, 100)
    return figures


def _quantiles(
    values: Array, unit: str, percents: tuple[float, ...], scale: float
) -> dict[str, Any]:
    figures = {f"Maximum {unit}": scale * float(values.max())}
    for percent in percents:
        label = "Median" if percent == 50 else f"{percent}%"
        figures[f"{label} {unit}"] = scale * float(np.quantile(values, percent / 100))
    figures[f"Minimum {unit}"] = scale * float(values.min())
    return figures
