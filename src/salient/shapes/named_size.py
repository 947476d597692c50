"""The number of parameters in a model's name: 8B, 30B-A3B, 8x7B, 17B-16E. Imports no torch."""

import re
from dataclasses import dataclass
from pathlib import Path

from .model_shape import ModelShape

_NUMBER = r"(\d{1,4}(?:\.\d{1,3})?)"
_UNITS = {"m": 1e6, "b": 1e9, "t": 1e12}
# One word of a name: "8x7b", "17b", "a3b", "e4b", "30ba3b"; "7b1" is 7.1 billion (BLOOM).
_TOTAL = re.compile(rf"(e)?{_NUMBER}([mbt])(\d)?(?:a{_NUMBER}([mbt]))?")
_ACTIVE = re.compile(rf"a{_NUMBER}([mbt])")
_TIMES = re.compile(rf"(\d{{1,3}})x{_NUMBER}([mb])")
_EXPERTS = re.compile(r"(\d{1,4})e")
_SEPARATORS = re.compile(r"[\s/:_-]+")
_DECIMAL = re.compile(r"(?<![\w.])(\d)_(\d{1,2})(?=[mb]\b)")
LEAST = 10_000_000  # parameters; a smaller number is none of a language model
# Counts over what the names of released models say: Qwen2.5-VL-3B has 3.75, Gemma-7B 8.5; towers
# and tables of tokens may be left out. The experts of Mixtral-8x7B share attention: 46.7 of 56.
TOTAL_RATIOS = (0.7, 1.45)
TIMES_RATIOS = (0.5, 1.1)
EFFECTIVE_RATIOS = (0.7, 2.5)  # "E4B" leaves out tables of embeddings (Gemma 3n)
ACTIVE_RATIOS = (0.55, 1.7)


@dataclass(frozen=True)
class NamedSize:
    """What a name says: each total is a range of parameters, active those of a token."""

    label: str
    totals: tuple[tuple[float, float], ...] = ()
    active: tuple[float, float] | None = None


def named_size(name: str) -> NamedSize | None:
    """What the name of a model says, None where it has no such number."""
    parts = [part for part in _SEPARATORS.split(_DECIMAL.sub(r"\1.\2", name.lower())) if part]
    totals: list[tuple[float, float]] = []
    labels: list[str] = []
    actives: list[float] = []
    for word, following in zip(parts, [*parts[1:], ""], strict=True):
        total, active, label = _word(word, following)
        if (total is None and active is None) or (total and total[1] < LEAST):
            continue
        labels.append(label.upper())
        totals += [total] if total else []
        actives += [active] if active else []
    if len(totals) > 1:  # "1.1B-3T": the second is of the texts that it was trained on
        totals = [span for span in totals if span[0] < 5e11] or totals
    active = _span(actives[0], ACTIVE_RATIOS) if actives else None
    return NamedSize("-".join(labels), tuple(totals), active) if totals or active else None


def _word(word: str, following: str) -> tuple[tuple[float, float] | None, float | None, str]:
    """The range of totals and the active parameters in a word of a name, and the words read."""
    if match := _TIMES.fullmatch(word):
        return _span(int(match[1]) * _value(match[2], match[3]), TIMES_RATIOS), None, word
    if match := _ACTIVE.fullmatch(word):
        return None, _value(match[1], match[2]), word
    match = _TOTAL.fullmatch(word)
    if match is None:
        return None, None, word
    value = _value(f"{match[2]}.{match[4]}" if match[4] else match[2], match[3])
    if many := _EXPERTS.fullmatch(following):
        most = value * int(many[1]) * TOTAL_RATIOS[1]
        return (value, most), value, f"{word}-{following}"
    active = _value(match[5], match[6]) if match[5] else None
    return _span(value, EFFECTIVE_RATIOS if match[1] else TOTAL_RATIOS), active, word


def _value(digits: str, unit: str) -> float:
    return float(digits) * _UNITS[unit]


def _span(value: float, ratios: tuple[float, float]) -> tuple[float, float]:
    return value * ratios[0], value * ratios[1]


def model_name(name: str) -> str:
    """The model's name in what was typed: of a path its folder, of a snapshot in the Hub's cache
    the repository."""
    path = Path(name).expanduser()
    parts = path.absolute().parts if path.exists() else path.parts
    cached = [part for part in parts if part.startswith("models--")]
    if cached:
        return cached[-1].removeprefix("models--").rpartition("--")[2]
    last = path.absolute().parent if path.suffix == ".json" else path
    return (last.absolute() if name in (".", "..") else last).name.rpartition("--")[2]


def fits_total(shape: ModelShape, size: NamedSize) -> bool:
    """Whether its count fits a total in its name, also without towers or tables of tokens."""
    text = shape.parameters - sum(shape.towers.values())
    counts = (shape.parameters, text, text - shape.embedding, text - shape.embedding - shape.head)
    return not size.totals or any(
        low <= count <= high for low, high in size.totals for count in counts
    )


def fits_active(shape: ModelShape, size: NamedSize) -> bool:
    """Whether the parameters that a token passes fit the name."""
    if size.active is None:
        return True
    low, high = size.active
    text = shape.active_parameters
    counts = (text, text - shape.embedding, text - shape.embedding - shape.head)
    return any(low <= count <= high for count in counts)
