"""The stages that were asked for, run one after another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from salient.core.errors import SalientError
from salient.core.progress import Progress
from salient.core.system import release_memory
from salient.validate.attribution.measure import AttributionRequest, measure_attribution
from salient.validate.context.measure import ContextRequest, check_context, measure_context
from salient.validate.likelihood.measure import LikelihoodRequest, measure_likelihood, windows_of
from salient.validate.load.measure import LoadRequest, check_load, measure_load
from salient.validate.tasks.measure import TasksRequest, check_tasks, measure_tasks

from .cache import ValidationCache
from .model_pair import ModelPair
from .stage import StageResult, UnmeasuredStage


@dataclass(frozen=True)
class StageSelection:
    """What to measure; None is left out."""

    likelihood: LikelihoodRequest | None = None
    tasks: TasksRequest | None = None
    context: ContextRequest | None = None
    load: LoadRequest | None = None
    attribution: AttributionRequest | None = None

    @property
    def names(self) -> list[str]:
        """The stages, in their order."""
        return [name for name in _STAGES if getattr(self, name) is not None]


@dataclass(frozen=True)
class _Row:
    """check: raises for what cannot be asked, before long work; weight: about how long it takes,
    against the others"""

    check: Callable[[ModelPair, Any], object]
    measure: Callable[[ModelPair, Any, ValidationCache, Progress], StageResult]
    weight: int


def _nothing(pair: ModelPair, request: Any) -> None:
    """There is nothing to ask wrongly."""


_STAGES = {
    "likelihood": _Row(windows_of, measure_likelihood, 1),
    "tasks": _Row(check_tasks, measure_tasks, 6),
    "context": _Row(check_context, measure_context, 4),
    "load": _Row(check_load, measure_load, 1),
    "attribution": _Row(_nothing, measure_attribution, 3),
}


def check_stages(pair: ModelPair, asked: StageSelection) -> None:
    """Raises SalientError for what cannot be measured as it was asked."""
    for name in asked.names:
        _STAGES[name].check(pair, getattr(asked, name))


def run_stages(
    pair: ModelPair,
    asked: StageSelection,
    store: ValidationCache,
    progress: Progress,
    *,
    go_on: bool,
) -> Iterator[tuple[str, StageResult]]:
    """Each stage as it ends.

    go_on: a stage that cannot be measured after all says so in place of its figures, and the next
    one runs; else its error is raised
    """
    total = sum(_STAGES[name].weight for name in asked.names)
    done = 0
    for name in asked.names:
        row = _STAGES[name]
        step = progress.part(done, row.weight, total, name)
        try:
            yield name, row.measure(pair, getattr(asked, name), store, step)
        except SalientError as error:
            if not go_on:
                raise
            yield name, UnmeasuredStage(name, str(error))
        done += row.weight
        for skeleton in pair.skeletons:
            skeleton.forget_outer()
        release_memory()
    progress(total, total, "done", "")
