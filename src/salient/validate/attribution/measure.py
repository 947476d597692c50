"""The attribution stage: where in the checkpoint the damage sits, and suggested fixes.

No policy judges it. Its parts: the KL of each block and kind of linear (block_damage.py),
suggestions with the KL that they would leave (suggestions.py), and whether the texts are like those
that the checkpoint was calibrated on (drift.py).
"""

from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from salient.core.errors import ResourceError
from salient.core.progress import Progress
from salient.core.report import mebibytes
from salient.core.system import available_memory
from salient.models.tracing import pattern
from salient.validate.cache import ValidationCache, digest_tokens
from salient.validate.likelihood.streaming import BUILTIN, text_tokens
from salient.validate.model_pair import ModelPair
from salient.validate.stage import UnmeasuredStage

from .block_damage import measure_damage
from .drift import find_calibration, halves, measure_drift
from .mixing import quantized_linears
from .result import AttributionResult, DamageResult, DriftFigures, DriftResult
from .suggestions import measure_options, options, suggestions

SHARE = 4  # a quarter of the free memory may hold hidden states
COPIES = 3  # of a block at once: the reference's, the checkpoint's, the latter unscaled
PASSES = 3
OPTIONS = ("--samples", "--sequence-length")


@dataclass(frozen=True)
class AttributionRequest:
    """Options of the stage.

    texts: names, as text_tokens takes them; none: the built-in held-out text
    windows: of each text for the drift, and of all together for the damage, at least one of each
    length: tokens of a window
    """

    texts: tuple[str, ...] = ()
    windows: int = 4
    length: int = 256


def measure_attribution(
    pair: ModelPair, request: AttributionRequest, cache: ValidationCache, progress: Progress
) -> AttributionResult | UnmeasuredStage:
    """Where the damage sits. Raises CalibrationError for texts too short.

    Its time grows with the square of the number of blocks; each is read twice from both sides.
    """
    length = min(request.length, pair.longest_context or request.length)
    texts = {
        name: text_tokens(pair, name, request.windows, length, OPTIONS).reshape(-1, length)
        for name in request.texts or (BUILTIN,)
    }
    try:
        return _measure(pair, request, texts, cache, progress)
    except (ResourceError, torch.OutOfMemoryError) as error:
        return UnmeasuredStage("attribution", str(error))


def _measure(
    pair: ModelPair,
    request: AttributionRequest,
    texts: dict[str, Tensor],
    cache: ValidationCache,
    progress: Progress,
) -> AttributionResult:
    wanted = max(1, request.windows // len(texts))
    count = windows_that_fit(pair, len(texts), wanted, *next(iter(texts.values())).shape[1:])
    ids = torch.cat([windows[:count] for windows in texts.values()])
    settings = {**pair.fingerprints, "windows": digest_tokens(ids)}
    part = partial(progress.part, share=1, whole=PASSES)
    damage = cache.part(
        "attribution-damage",
        settings,
        lambda: measure_damage(pair, ids, part(0)),
        DamageResult,
    )
    wanted_options = options(pair, damage)
    kl = cache.part(
        "attribution-options",
        {**settings, "options": [asdict(option) for option in wanted_options]},
        lambda: measure_options(pair, ids, wanted_options, set(damage.doubts), part(1)),
        list[float],
    )
    drift = _drift(pair, request.windows, texts, cache, part(2))
    return AttributionResult(
        windows=len(ids),
        length=ids.shape[1],
        texts=tuple(texts),
        whole=damage.whole,
        outside=damage.outside,
        blocks=damage.blocks,
        kinds=dict(sorted(damage.kinds.items(), key=lambda item: -item[1])),
        suggestions=tuple(suggestions(pair, damage, wanted_options, kl, unlike=drift.far)),
        drift=drift,
        notes=tuple(_notes(damage, count, wanted)),
    )


def windows_that_fit(pair: ModelPair, texts: int, wanted: int, length: int) -> int:
    """How many windows of each text, at most `wanted`, have room for all variants' hidden states.

    Raises ResourceError where not even one fits, or three copies of the largest block do not.
    """
    skeleton, free = pair.reference.skeleton, available_memory()
    kinds = {
        pattern(name)
        for index in range(len(skeleton.blocks))
        for name in quantized_linears(pair.checkpoint, index)
    }
    streams = len(skeleton.blocks) + len(kinds) + 4  # reference's before and after, whole, outside
    each = streams * texts * length * skeleton.width * 4
    blocks = (skeleton.bare(index).parameters() for index in range(len(skeleton.blocks)))
    largest = max(sum(p.numel() for p in block) for block in blocks) * 4
    count = min(wanted, free // SHARE // each)
    if count < 1 or COPIES * largest > free:
        raise ResourceError(
            f"Attribution holds {COPIES} copies of a block ({mebibytes(largest)} each) and the "
            f"hidden states of {streams} variants ({mebibytes(each)} a window, in a quarter of the "
            f"free memory), and {mebibytes(free)} are free. Measure it on a larger machine."
        )
    return count


def _drift(
    pair: ModelPair,
    windows: int,
    texts: dict[str, Tensor],
    cache: ValidationCache,
    progress: Progress,
) -> DriftResult:
    calibration = find_calibration(pair)
    if calibration.ids is None:
        return DriftResult(calibration.name, reason=calibration.reason)
    two = halves(calibration.ids, windows, next(iter(texts.values())).shape[1])
    if two is None:
        return DriftResult(calibration.name, reason="its calibration has a single window")
    settings = {
        "reference": pair.reference.fingerprint,
        "calibration": [digest_tokens(half) for half in two],
        "texts": {name: digest_tokens(ids) for name, ids in texts.items()},
    }
    yardstick, *figures = cache.part(
        "attribution-drift",
        settings,
        lambda: measure_drift(pair, two, texts, progress),
        list[DriftFigures],
        shared=True,
    )
    return DriftResult(calibration.name, yardstick, dict(zip(texts, figures, strict=True)))


def _notes(damage: DamageResult, count: int, wanted: int) -> list[str]:
    notes = []
    if count < wanted:
        notes.append(
            f"{count} of {wanted} windows a text were taken: the hidden states of all variants are "
            "to take no more than a quarter of the free memory."
        )
    if damage.doubts:
        named = "; ".join(f"{name}: {why}" for name, why in list(damage.doubts.items())[:3])
        notes.append(
            f"Linears could not be told apart in {len(damage.doubts)} blocks, which the kinds "
            f"leave out ({named})."
        )
    return notes
