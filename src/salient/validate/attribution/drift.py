"""Distance of the user's texts from those that the checkpoint was calibrated on.

AWQ protects the input channels that are large on the calibration texts. On texts that activate
others it protects the wrong ones. Both kinds of text run through the reference; two figures of each
input of linears measure how alike they are:

kept_salient   share of the calibration's largest 1 % of channels that are the text's largest, too
log_ratio      mean over channels of |ln (mean |x| on the text / mean |x| on the calibration)|

Two halves of the calibration texts, as many tokens each as a text has, are not alike either: their
distance is the yardstick.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.errors import SalientError
from salient.core.evidence import read_evidence
from salient.core.progress import Progress
from salient.core.text_places import locate_texts
from salient.models.block_call import InputRecorder
from salient.models.calibration_texts import calibration_tokens
from salient.models.tokens import check_vocabulary, load_tokenizer
from salient.models.tracing import numbers, shared_inputs
from salient.validate.likelihood.streaming import WindowStream
from salient.validate.model_pair import ModelPair

from .result import DriftFigures

SALIENT = 0.01  # of an input's channels
FAINT = 1e-4  # of the mean over channels: a channel that is never active counts as this
MOST_LETTERS = 200  # of a name in salient.json that is shown


@dataclass(frozen=True)
class CalibrationTexts:
    """The texts that a checkpoint was calibrated on, by its salient.json.

    name: None if unknown   ids: int64 [samples, tokens], None if unavailable, for a `reason`
    """

    name: str | None = None
    ids: Tensor | None = None
    reason: str = ""


def find_calibration(pair: ModelPair) -> CalibrationTexts:
    """The calibration by the checkpoint's salient.json; nothing is downloaded for it."""
    try:
        evidence = read_evidence(pair.checkpoint.source.folder)
    except SalientError as error:
        return CalibrationTexts(reason=f"the checkpoint's {error}")
    if evidence is None:
        reason = "the checkpoint has no salient.json that names its calibration"
        return CalibrationTexts(reason=reason)
    run, name = evidence.run, evidence.run.calibration_texts[:MOST_LETTERS]
    path = locate_texts(run.calibration_texts, run.calibration)
    if path is None:
        return CalibrationTexts(name, reason=f"its calibration, {name!r}, is no file here")
    try:
        tokenizer = load_tokenizer(pair.reference.companions)
        batch = calibration_tokens(
            path,
            tokenizer,
            run.samples,
            run.sequence_length,
            mix=run.calibration_mix,
            label=name,
        )
        check_vocabulary(batch.ids, pair.reference.skeleton.vocabulary, name)
    except SalientError as error:
        return CalibrationTexts(name, reason=f"its calibration cannot be read again: {error}")
    if batch.digest != run.calibration:
        return CalibrationTexts(name, reason=f"its calibration, {name!r}, is not what it was then")
    return CalibrationTexts(name, batch.ids)


def halves(ids: Tensor, windows: int, length: int) -> tuple[Tensor, Tensor] | None:
    """Twice `windows` windows of the calibration `ids` [samples, tokens], evenly, alternating.

    int64 [windows, tokens] each, or fewer; None if there are no two.
    """
    length = min(length, ids.shape[1])
    pool = ids[:, : ids.shape[1] // length * length].reshape(-1, length)
    count = min(windows, len(pool) // 2)
    if not count:
        return None
    rows = torch.arange(2 * count) * len(pool) // (2 * count)
    return pool[rows[0::2]], pool[rows[1::2]]


def measure_drift(
    pair: ModelPair, two: tuple[Tensor, Tensor], texts: dict[str, Tensor], progress: Progress
) -> list[DriftFigures]:
    """The figures of the yardstick, then of each of `texts` (name -> [windows, tokens]).

    two: the halves of the calibration text, [windows, tokens] each
    """
    length = two[0].shape[1]
    skeleton = pair.reference.skeleton
    windows = [WindowStream(skeleton, ids[:, :length]) for ids in (*two, *texts.values())]
    hidden = [each.start for each in windows]
    figures: list[list[DriftFigures]] = [[] for _ in (None, *texts)]
    for index, name in enumerate(skeleton.blocks):
        progress(index, len(skeleton.blocks), f"{name}: activations of the texts")
        block, inputs = skeleton.block(index), []
        means: list[dict[str, Tensor]] = []
        for number, each in enumerate(windows):
            with InputRecorder(block, inputs or list(skeleton.linears(index))) as recorder:
                hidden[number] = each.run(index, block, hidden[number])
            inputs = inputs or _inputs(recorder.inputs)
            means.append({n: recorder.inputs[n].float().abs().mean(0) for n in inputs})
        for first in inputs:
            a, b, *others = (mean[first] for mean in means)
            figures[0] += [drift_figures(a, b), drift_figures(b, a)]
            for rows, text in zip(figures[1:], others, strict=True):
                rows += [drift_figures(a, text), drift_figures(b, text)]
    return [
        DriftFigures(
            sum(row.salient_share for row in rows) / max(len(rows), 1),
            sum(row.log_ratio for row in rows) / max(len(rows), 1),
        )
        for rows in figures
    ]


def drift_figures(calibration: Tensor, text: Tensor) -> DriftFigures:
    """The distance of `text` from `calibration`: mean |x| of each channel, [in]."""
    count = max(1, round(SALIENT * len(text)))
    large = [set(each.topk(count).indices.tolist()) for each in (calibration, text)]
    logs = [each.clamp(min=float(each.mean()) * FAINT).log() for each in (calibration, text)]
    return DriftFigures(len(large[0] & large[1]) / count, float((logs[1] - logs[0]).abs().mean()))


def _inputs(inputs: dict[str, Tensor]) -> list[str]:
    """The first reader of each input that all tokens reach; an expert's has too few to tell."""
    return [names[0] for names in shared_inputs(inputs) if not numbers(names[0])]
