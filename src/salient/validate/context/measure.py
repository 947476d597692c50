"""The long-context stage: the same measures at several lengths, KL by position, hidden facts.

Both models run in float32, streamed block by block; facts are searched for by generating.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.devices import find_device, free_memory
from salient.core.errors import CalibrationError, ResourceError, SalientError
from salient.core.intervals import FEWEST
from salient.core.progress import Progress
from salient.core.report import mebibytes
from salient.validate.cache import ValidationCache, digest_tokens
from salient.validate.likelihood.result import TextComparison
from salient.validate.likelihood.streaming import BUILTIN, text_tokens
from salient.validate.model_pair import ModelPair

from .long_windows import LongWindows, Starts, needed_memory
from .positions import by_position, growth, token_sums
from .result import ContextResult
from .retrieval import measure_retrieval

LENGTHS = (512, 2048, 4096, 8192)
SHORTEST = 64  # tokens of a window
CPU_TOKENS, GPU_TOKENS = 10_240, 40_960  # of the text that the windows of a length take
CPU_WINDOWS, GPU_WINDOWS = 5, 16  # of a length, at most
BUCKETS = 32
OPTIONS = ("--samples", "--context-lengths")
RETRIEVAL_SHARE = 3  # of the stage's time; the windows have 5
WINDOWS_SHARE = 5


@dataclass(frozen=True)
class ContextRequest:
    """Options of the stage.

    lengths: of windows and of texts with hidden facts, tokens; (): those of LENGTHS that the model
        allows
    windows: of the longest length, whose text the others share; None: what a CPU does in minutes
    seed: of the hidden facts
    """

    lengths: tuple[int, ...] = ()
    text: str = BUILTIN
    windows: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class ContextPlan:
    """ids: of the text, one row   starts: of the windows   notes: lengths left out, and why"""

    ids: Tensor
    starts: Starts
    notes: list[str]


def default_lengths(longest: int | None) -> tuple[int, ...]:
    """Those of LENGTHS that a model of `longest` positions allows; `longest` if none."""
    if longest is None:
        return LENGTHS
    return tuple(n for n in LENGTHS if n <= longest) or (longest,)


def measure_context(
    pair: ModelPair, request: ContextRequest, cache: ValidationCache, progress: Progress
) -> ContextResult:
    """Measure both models on long windows, then let them find hidden facts.

    Raises SalientError for an invalid request. Facts that cannot be searched for, such as for want
    of memory, are an undecided measurement.
    """
    plan = check_context(pair, request)
    whole = WINDOWS_SHARE + RETRIEVAL_SHARE
    windows = _windows(pair, plan, cache, progress.part(0, WINDOWS_SHARE, whole))
    late, early = windows.late_and_early()
    lengths = {
        n: TextComparison.of([token_sums(windows.at(start, n)) for start in plan.starts[n]])
        for n in sorted(plan.starts)
    }
    step = progress.part(WINDOWS_SHARE, RETRIEVAL_SHARE, whole)
    retrieval, error = None, ""
    try:
        retrieval = measure_retrieval(pair, tuple(lengths), request.seed, cache, step)
        if not retrieval.probes:
            retrieval, error = None, f"no fact and question fit in {windows.longest} tokens"
    except SalientError as failure:
        error = str(failure)
    return ContextResult(
        text=request.text,
        lengths=lengths,
        positions=by_position(windows.apart(), BUCKETS),
        growth=growth(late, early),
        notes=[*plan.notes, *windows.notes],
        retrieval=retrieval,
        retrieval_error=error,
    )


def check_context(pair: ModelPair, request: ContextRequest) -> ContextPlan:
    """The plan. Raises CalibrationError for lengths or a text that cannot be measured."""
    lengths, notes = _lengths(pair, request)
    ids = text_tokens(pair, request.text, None, SHORTEST, OPTIONS)
    fits = [n for n in lengths if n < len(ids)]  # a token more is predicted
    if not fits:
        raise CalibrationError(
            f"{request.text} holds {len(ids)} tokens, and the shortest of {OPTIONS[1]} is "
            f"{min(lengths)}. Give a longer text, or {OPTIONS[1]} of at most {len(ids) - 1}."
        )
    notes += [f"{n} tokens left out: the text holds {len(ids)}" for n in lengths if n not in fits]
    fits, dropped = _with_room(pair, fits)
    return ContextPlan(ids, _starts(pair, request, fits, len(ids) - 1), notes + dropped)


def _lengths(pair: ModelPair, request: ContextRequest) -> tuple[tuple[int, ...], list[str]]:
    """The lengths in rising order, and a note on the default ones that are left out."""
    longest = pair.longest_context
    lengths = tuple(sorted(set(request.lengths or default_lengths(longest))))
    if longest and lengths[-1] > longest:
        raise CalibrationError(
            f"{OPTIONS[1]} {lengths[-1]} is longer than the model's {longest} positions. Give "
            f"lengths up to {longest}."
        )
    if lengths[0] < SHORTEST:
        raise CalibrationError(
            f"{OPTIONS[1]} {lengths[0]} is too short for a context. Give lengths of at least "
            f"{SHORTEST} tokens."
        )
    if request.windows is not None and request.windows < 1:
        raise CalibrationError(
            f"{request.windows} windows of {lengths[-1]} tokens. Give 1 or more."
        )
    left = [n for n in LENGTHS if not request.lengths and n not in lengths]
    notes = [f"{', '.join(map(str, left))} tokens left out: the model has {longest} positions"]
    return lengths, notes if left else []


def _with_room(pair: ModelPair, lengths: list[int]) -> tuple[list[int], list[str]]:
    """The lengths whose attention fits in half of the free memory, and notes on the others."""
    free, fits, notes = free_memory(find_device(pair.device)), [], []
    for length in lengths:
        needed = needed_memory(pair, length)
        if 2 * needed <= free:
            fits.append(length)
        else:
            notes.append(
                f"{length} tokens left out: attention takes {mebibytes(needed)} at once, and "
                f"{mebibytes(free)} are free"
            )
    if not fits:
        raise ResourceError(f"{notes[0]}. Measure on a larger machine, or shorter {OPTIONS[1]}.")
    return fits, notes


def _starts(pair: ModelPair, request: ContextRequest, lengths: list[int], available: int) -> Starts:
    """Adjacent windows; a single one where so few are affordable that there is no interval."""
    on_cpu = find_device(pair.device).type == "cpu"
    tokens, most = (CPU_TOKENS, CPU_WINDOWS) if on_cpu else (GPU_TOKENS, GPU_WINDOWS)
    if request.windows is not None:
        tokens, most = request.windows * lengths[-1], max(most, request.windows)
    counts = {n: min(tokens // n, most) for n in lengths}
    if request.windows is None:
        counts = {n: count if count >= FEWEST else 1 for n, count in counts.items()}
    return {n: [k * n for k in range(min(count, available // n))] for n, count in counts.items()}


def _windows(
    pair: ModelPair, plan: ContextPlan, cache: ValidationCache, progress: Progress
) -> LongWindows:
    settings = {**pair.fingerprints, "text": digest_tokens(plan.ids)}
    windows = LongWindows(pair, plan.ids, plan.starts, cache, settings)
    try:
        windows.measure(progress)
    except torch.OutOfMemoryError:
        raise ResourceError(
            f"Windows of {windows.longest} tokens have no room on {pair.device}. Give shorter "
            f"{OPTIONS[1]}, or --device cpu."
        ) from None
    return windows
