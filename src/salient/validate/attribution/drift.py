"""How far the user's texts are from those that the checkpoint was calibrated on.

AWQ protects the input channels that are large on the calibration texts. On texts that wake others
it protects the wrong ones. Both kinds of text run through the reference; of each input of linears
two figures tell how alike they are:

kept_salient   share of the calibration's largest 1 % of channels that are the text's largest, too
log_ratio      mean over channels of |ln (mean |x| on the text / mean |x| on the calibration)|

Two halves of the calibration texts, as many tokens each as a text has, are not alike either: what
lies between them is the yardstick.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.corpus import read_texts
from salient.core.errors import SalientError
from salient.core.evidence import read_evidence
from salient.core.progress import Progress
from salient.models.block_call import InputRecorder
from salient.models.tokens import check_vocabulary, load_tokenizer, pack_tokens
from salient.models.tracing import numbers, shared_inputs
from salient.validate.model_pair import ModelPair

from .mixing import Windows
from .result import DriftFigures

SALIENT = 0.01  # of an input's channels
FAINT = 1e-4  # of the mean over channels: a channel that is never woken counts as this
MOST_LETTERS = 200  # of a name in salient.json that is shown
BUILTIN = "builtin"


@dataclass(frozen=True)
class Calibration:
    """The texts that a checkpoint says it was calibrated on.

    name: None if it does not say   ids: int64 [samples, tokens], None if they cannot be had
    why: what stands in the way of having them
    """

    name: str | None = None
    ids: Tensor | None = None
    why: str = ""


def find_calibration(pair: ModelPair) -> Calibration:
    """The calibration by the checkpoint's salient.json; nothing is fetched for it."""
    try:
        evidence = read_evidence(pair.checkpoint.source.folder)
    except SalientError as error:
        return Calibration(why=f"the checkpoint's {error}")
    if evidence is None:
        return Calibration(why="the checkpoint has no salient.json that names its calibration")
    run = evidence.run
    name, samples, length = run.calibration_texts, run.samples, run.sequence_length
    told = name[:MOST_LETTERS]
    if name != BUILTIN and not os.path.isfile(name):  # no error for names that no file can have
        return Calibration(told, why=f"its calibration, {told!r}, is no file here")
    try:
        tokenizer = load_tokenizer(pair.reference.source.folder)
        batch = pack_tokens(read_texts(name), tokenizer, samples, length, told)
        check_vocabulary(batch, pair.reference.skeleton.vocabulary, told)
    except SalientError as error:
        return Calibration(told, why=f"its calibration cannot be read again: {error}")
    if batch.digest != run.calibration:
        return Calibration(told, why=f"its calibration, {told!r}, is not what it was then")
    return Calibration(told, batch.ids)


def halves(ids: Tensor, windows: int, length: int) -> tuple[Tensor, Tensor] | None:
    """Twice `windows` windows of the calibration `ids` [samples, tokens], taken evenly, in turns.

    int64 [windows, tokens] each, or fewer; None if there are no two.
    """
    length = min(length, ids.shape[1])
    pool = ids[:, : ids.shape[1] // length * length].reshape(-1, length)
    count = min(windows, len(pool) // 2)
    if not count:
        return None
    taken = torch.arange(2 * count) * len(pool) // (2 * count)
    return pool[taken[0::2]], pool[taken[1::2]]


def measure_drift(
    pair: ModelPair, two: tuple[Tensor, Tensor], texts: dict[str, Tensor], progress: Progress
) -> list[DriftFigures]:
    """The figures of the yardstick, then of each of `texts` (name -> [windows, tokens]).

    two: the halves of the calibration text, [windows, tokens] each
    """
    length = two[0].shape[1]
    skeleton = pair.reference.skeleton
    ways = [Windows(skeleton, ids[:, :length]) for ids in (*two, *texts.values())]
    hidden = [way.start for way in ways]
    found: list[list[DriftFigures]] = [[] for _ in (None, *texts)]
    for index, name in enumerate(skeleton.blocks):
        progress(index, len(skeleton.blocks), f"{name}: what the texts wake", "")
        block, inputs = skeleton.block(index), []
        seen: list[dict[str, Tensor]] = []
        for number, way in enumerate(ways):
            with InputRecorder(block, inputs or list(skeleton.linears(index))) as recorder:
                hidden[number] = way.run(index, block, hidden[number])
            inputs = inputs or _inputs(recorder.inputs)
            seen.append({n: recorder.inputs[n].float().abs().mean(0) for n in inputs})
        for first in inputs:
            a, b, *others = (means[first] for means in seen)
            found[0] += [drift_figures(a, b), drift_figures(b, a)]
            for into, text in zip(found[1:], others, strict=True):
                into += [drift_figures(a, text), drift_figures(b, text)]
    return [
        DriftFigures(_mean(f.kept_salient for f in each), _mean(f.log_ratio for f in each))
        for each in found
    ]


def drift_figures(calibration: Tensor, text: Tensor) -> DriftFigures:
    """How far `text` is from `calibration`: mean |x| of each channel, [in]."""
    count = max(1, round(SALIENT * len(text)))
    large = [set(each.topk(count).indices.tolist()) for each in (calibration, text)]
    logs = [each.clamp(min=float(each.mean()) * FAINT).log() for each in (calibration, text)]
    return DriftFigures(len(large[0] & large[1]) / count, float((logs[1] - logs[0]).abs().mean()))


def _inputs(seen: dict[str, Tensor]) -> list[str]:
    """The first reader of each input that all tokens reach; an expert's has too few to tell."""
    return [names[0] for names in shared_inputs(seen) if not numbers(names[0])]


def _mean(values: Iterable[float]) -> float:
    all_of_them = list(values)
    return sum(all_of_them) / max(len(all_of_them), 1)
