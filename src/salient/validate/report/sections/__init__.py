"""The sections of a report, each rendered from the result of its stage."""

from salient.validate.attribution.result import AttributionResult
from salient.validate.context.result import ContextResult
from salient.validate.likelihood.result import LikelihoodResult
from salient.validate.load.result import LoadTestStageResult
from salient.validate.policy.verdict import Verdict
from salient.validate.report.parts import Section
from salient.validate.report.text_format import line
from salient.validate.result import ValidationResult
from salient.validate.stage import StageResult, UnmeasuredStage
from salient.validate.tasks.result import TaskResult

from .attribution import attribution_section
from .context import context_section
from .likelihood import likelihood_section
from .load import load_section
from .memory import memory_section
from .tasks import tasks_section

TITLES = {
    "likelihood": "Likelihood",
    "tasks": "Tasks",
    "context": "Long context",
    "load": "Load",
    "attribution": "Where the loss comes from",
}


def sections(result: ValidationResult) -> list[Section]:
    """The selected stages in order, then memory."""
    stages = [_section(stage, result.verdict) for stage in result.stages.values()]
    return [*stages, memory_section(result.memory, result.model)]


def _section(stage: StageResult, verdict: Verdict | None) -> Section:
    match stage:
        case UnmeasuredStage(name, reason):
            return Section(name, TITLES[name], error=line(reason, 600))
        case LikelihoodResult():
            return likelihood_section(stage, verdict)
        case TaskResult():
            return tasks_section(stage, verdict)
        case ContextResult():
            return context_section(stage, verdict)
        case LoadTestStageResult():
            return load_section(stage, verdict)
        case AttributionResult():
            return attribution_section(stage)
    raise TypeError(f"no stage result: {stage!r}")
