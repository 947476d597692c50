"""The stage `attribution`: where in the checkpoint the damage sits, and what to do about it.

It judges nothing. Its parts: the KL of each block and kind of linear (damage.py), suggestions with
the KL that they would leave (suggestions.py), and whether the texts are like those that the
checkpoint was calibrated on (drift.py).
"""

import hashlib
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import ResourceError
from salient.core.progress import Progress
from salient.core.report import Table, mebibytes
from salient.core.system import available_memory
from salient.models.tracing import pattern
from salient.validate.cache import ValidationCache
from salient.validate.likelihood.streaming import BUILTIN, text_tokens
from salient.validate.model_pair import ModelPair
from salient.validate.stage import Stage

from .block_damage import measure_damage
from .drift import FAR_WORDS, Calibration, drift_data, find_calibration, halves, measure_drift
from .mixing import coded
from .suggestions import measure_options, options, suggestions

SHARE = 4  # a quarter of the free memory may hold hidden states
HELD = 3  # copies of a block at once: the reference's, the checkpoint's, the latter unscaled
SHOWN = 5  # blocks in the table
PASSES = 3
OPTIONS = ("--windows", "--window-length")


@dataclass(frozen=True)
class AttributionRequest:
    """What to measure on.

    texts: names, as text_tokens takes them; none: the built-in held-out text
    windows: of each text for the drift, and of all together for the damage, at least one of each
    length: tokens of a window
    """

    texts: tuple[str, ...] = ()
    windows: int = 4
    length: int = 256


def measure_attribution(
    pair: ModelPair, request: AttributionRequest, store: ValidationCache, progress: Progress
) -> Stage:
    """Where the damage sits. Raises CalibrationError for texts too short.

    Its time grows with the square of the number of blocks; each is read twice from both sides.
    """
    length = min(request.length, pair.longest_context or request.length)
    texts = {
        name: text_tokens(pair, name, request.windows, length, OPTIONS).reshape(-1, length)
        for name in request.texts or (BUILTIN,)
    }
    try:
        return _measured(pair, request, texts, store, progress)
    except (ResourceError, torch.OutOfMemoryError) as error:
        return Stage("attribution", {"error": str(error)}, lines=[f"Not attributed: {error}"])


def _measured(
    pair: ModelPair,
    request: AttributionRequest,
    texts: dict[str, Tensor],
    store: ValidationCache,
    progress: Progress,
) -> Stage:
    wanted = max(1, request.windows // len(texts))
    count = windows_that_fit(pair, len(texts), wanted, *next(iter(texts.values())).shape[1:])
    ids = torch.cat([windows[:count] for windows in texts.values()])
    settings = {
        "checkpoint": pair.checkpoint.seal,
        "reference": pair.reference.seal,
        "windows": _digest(ids),
    }
    part = partial(progress.part, share=1, whole=PASSES)
    damage = store.part(
        "attribution-damage",
        settings,
        lambda: measure_damage(pair, ids, part(0)),
    )
    asked = options(pair, damage)
    kl = store.part(
        "attribution-options",
        {**settings, "options": [asdict(option) for option in asked]},
        lambda: measure_options(pair, ids, asked, set(damage["doubts"]), part(1)),
    )
    drift = _drift(pair, request.windows, texts, store, part(2))
    unlike = any(text["words"] == FAR_WORDS for text in drift["texts"])
    data = {
        "windows": len(ids),
        "length": ids.shape[1],
        "texts": list(texts),
        "whole": damage["whole"],
        "outside": damage["outside"],
        "blocks": _named(damage["blocks"]),
        "kinds": sorted(_named(damage["kinds"]), key=lambda row: -row["kl"]),
        "suggestions": suggestions(pair, damage, asked, kl, unlike=unlike),
        "drift": drift,
        "notes": _notes(damage, count, wanted),
    }
    return Stage("attribution", data, tables=_tables(data), lines=_lines(data))


def windows_that_fit(pair: ModelPair, texts: int, wanted: int, length: int) -> int:
    """How many windows of each text, at most `wanted`, the hidden states of all variants let be.

    Raises ResourceError where not even one fits, or three copies of the largest block do not.
    """
    skeleton, free = pair.reference.skeleton, available_memory()
    kinds = {pattern(n) for i in range(len(skeleton.blocks)) for n in coded(pair.checkpoint, i)}
    streams = len(skeleton.blocks) + len(kinds) + 4  # reference's before and after, whole, outside
    each = streams * texts * length * skeleton.width * 4
    blocks = (skeleton.bare(index).parameters() for index in range(len(skeleton.blocks)))
    largest = max(sum(p.numel() for p in block) for block in blocks) * 4
    count = min(wanted, free // SHARE // each)
    if count < 1 or HELD * largest > free:
        raise ResourceError(
            f"Attribution holds {HELD} copies of a block ({mebibytes(largest)} each) and the "
            f"hidden states of {streams} variants ({mebibytes(each)} a window, in a quarter of the "
            f"free memory), and {mebibytes(free)} are free. Measure it on a larger machine."
        )
    return count


def _drift(
    pair: ModelPair,
    windows: int,
    texts: dict[str, Tensor],
    store: ValidationCache,
    progress: Progress,
) -> dict[str, Any]:
    calibration = find_calibration(pair)
    if calibration.ids is None:
        return drift_data(calibration, None)
    two = halves(calibration.ids, windows, next(iter(texts.values())).shape[1])
    if two is None:
        why = "its calibration has a single window"
        return drift_data(Calibration(calibration.name, why=why), None)
    settings = {
        "reference": pair.reference.seal,
        "calibration": [_digest(half) for half in two],
        "texts": {name: _digest(ids) for name, ids in texts.items()},
    }
    found = store.part(
        "attribution-drift",
        settings,
        lambda: measure_drift(pair, two, texts, progress),
        shared=True,
    )
    return drift_data(calibration, found)


def _digest(ids: Tensor) -> str:
    return hashlib.sha256(f"{list(ids.shape)}".encode() + ids.numpy().tobytes()).hexdigest()


def _named(kl: dict[str, float]) -> list[dict[str, Any]]:
    return [{"name": name, "kl": value} for name, value in kl.items()]


def _notes(damage: dict[str, Any], count: int, wanted: int) -> list[str]:
    found = []
    if count < wanted:
        found.append(
            f"{count} of {wanted} windows a text were taken: the hidden states of all variants are "
            "to take no more than a quarter of the free memory."
        )
    if damage["doubts"]:
        named = "; ".join(f"{name}: {why}" for name, why in list(damage["doubts"].items())[:3])
        found.append(
            f"Linears could not be told apart in {len(damage['doubts'])} blocks, which the kinds "
            f"leave out ({named})."
        )
    return found


def _tables(data: dict[str, Any]) -> list[Table]:
    worst = sorted(data["blocks"], key=lambda row: -row["kl"])[:SHOWN]
    columns = ("KL alone", "of the sum")
    found = [
        Table("Where the damage sits: the worst blocks", ("block", *columns), _rows(worst, data)),
        Table("The kinds of linears", ("kind", *columns), _rows(data["kinds"], data, "kinds")),
        Table(
            "What would mend it",
            ("change", "KL", "how known", "larger by"),
            [("none", f"{data['whole']:.4f}", "measured", ""), *map(_mends, data["suggestions"])],
            words=("how known",),
        ),
    ]
    drift = data["drift"]
    if drift["texts"]:
        halves_of_it = {"text": "two halves of the calibration", "words": "", **drift["yardstick"]}
        rows = [
            (row["text"], f"{row['kept_salient']:.0%}", f"{row['log_ratio']:.3f}", row["words"])
            for row in (halves_of_it, *drift["texts"])
        ]
        columns = ("text", "salient channels kept", "log ratio", "it is")
        title = f"How like the calibration ({drift['calibration']}) the texts are"
        found.append(Table(title, columns, rows, words=("it is",)))
    return [table for table in found if table.rows]


def _rows(
    parts: list[dict[str, Any]], data: dict[str, Any], of: str = "blocks"
) -> list[tuple[str, ...]]:
    total = max(sum(row["kl"] for row in data[of]), 1e-12)
    return [(row["name"], f"{row['kl']:.5f}", f"{row['kl'] / total:.0%}") for row in parts]


def _mends(row: dict[str, Any]) -> tuple[str, ...]:
    if row["kl"] is None:
        return row["what"], "?", "", ""
    how = "measured" if row["measured"] else "estimated"
    return row["what"], f"{row['kl']:.4f}", how, mebibytes(row["bytes"])


def _lines(data: dict[str, Any]) -> list[str]:
    of_blocks, of_kinds = (sum(row["kl"] for row in data[of]) for of in ("blocks", "kinds"))
    lines = [
        f"On {data['windows']} x {data['length']} tokens the checkpoint has a KL of "
        f"{data['whole']:.4f} nats; its blocks, each alone in the reference, add up to "
        f"{of_blocks:.4f}, its kinds to {of_kinds:.4f}.",
        *data["notes"],
    ]
    drift = data["drift"]
    if not drift["texts"]:
        lines.append(f"Whether the texts are like the calibration is not known: {drift['why']}.")
    return lines
