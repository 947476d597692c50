"""The stages that the options select, measured one after another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from salient.core.errors import SalientError
from salient.core.options import numbers, strings
from salient.core.progress import Progress
from salient.core.system import release_memory
from salient.validate.attribution.measure import AttributionRequest, measure_attribution
from salient.validate.context.measure import ContextRequest, check_context, measure_context
from salient.validate.likelihood.measure import LikelihoodRequest, measure_likelihood, windows_of
from salient.validate.load.measure import LoadRequest, check_load, measure_load
from salient.validate.policy.policy import Policy
from salient.validate.tasks.measure import TasksRequest, check_tasks, measure_tasks

from .cache import ValidationCache
from .model_pair import ModelPair
from .options import EvaluateOptions, ValidateOptions
from .stage import StageResult, UnmeasuredStage

StageRequest = LikelihoodRequest | TasksRequest | ContextRequest | LoadRequest | AttributionRequest
Selection = dict[str, StageRequest]  # by stage, in the order of STAGES


@dataclass(frozen=True)
class Stage:
    """check: refuses an invalid request before long work; weight: relative time"""

    check: Callable[[ModelPair, Any], object]
    measure: Callable[[ModelPair, Any, ValidationCache, Progress], StageResult]
    weight: int


STAGES = {
    "likelihood": Stage(windows_of, measure_likelihood, 1),
    "tasks": Stage(check_tasks, measure_tasks, 6),
    "context": Stage(check_context, measure_context, 4),
    "load": Stage(check_load, measure_load, 1),
    "attribution": Stage(lambda *_: None, measure_attribution, 3),
}


def select_stages(options: EvaluateOptions, policy: Policy | None = None) -> Selection:
    """All stages of a validation that are not switched off, sized so that `policy` can be decided.

    An evaluation has the stages that its options name; likelihood with texts, or if it names none.
    """
    texts, tasks, lengths = strings(options.text), strings(options.tasks), options.context_lengths
    selection: Selection = {}
    if tasks:
        selection["tasks"] = TasksRequest(tasks)
    if lengths is not None:
        chosen = () if isinstance(lengths, str) else tuple(sorted(set(numbers(lengths))))
        selection["context"] = ContextRequest(chosen)
    if isinstance(options, ValidateOptions) and options.load_test is not None:
        selection["load"] = LoadRequest(
            options.load_test, requests=policy.load_requests if policy else 0
        )
    if options.attribute:
        selection["attribution"] = AttributionRequest(texts)
    if isinstance(options, ValidateOptions) or texts or not selection:
        sizes = options.samples, options.sequence_length, options.stride, options.protocol
        selection = {"likelihood": LikelihoodRequest(texts, *sizes), **selection}
    return selection


def check_stages(pair: ModelPair, selection: Selection) -> None:
    """Raises SalientError for an invalid request."""
    for name, request in selection.items():
        if name != "likelihood":
            pair.reference.skeleton.head.check_generates(str(pair.checkpoint.source.folder))
        STAGES[name].check(pair, request)


def run_stages(
    pair: ModelPair,
    selection: Selection,
    cache: ValidationCache,
    progress: Progress,
    *,
    tolerant: bool,
) -> Iterator[tuple[str, StageResult]]:
    """Each stage as it ends.

    tolerant: a stage that fails is unmeasured, and the next one runs; else its error is raised
    """
    total = sum(STAGES[name].weight for name in selection)
    done = 0
    for name, request in selection.items():
        stage = STAGES[name]
        step = progress.part(done, stage.weight, total, name)
        try:
            yield name, stage.measure(pair, request, cache, step)
        except SalientError as error:
            if not tolerant:
                raise
            yield name, UnmeasuredStage(name, str(error))
        done += stage.weight
        for skeleton in pair.skeletons:
            skeleton.forget_outer()
        release_memory()
    progress(total, total, "done")
