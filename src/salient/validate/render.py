"""A validation in the terminal: each stage, then the verdict."""

from salient.core.report import Report, Table, duration
from salient.validate.attribution.render import render_attribution
from salient.validate.attribution.result import AttributionResult
from salient.validate.context.render import render_context
from salient.validate.context.result import ContextResult
from salient.validate.likelihood.render import render_likelihood
from salient.validate.likelihood.result import LikelihoodResult
from salient.validate.load.render import render_load
from salient.validate.load.result import LoadTestStageResult
from salient.validate.policy.render import render_verdict
from salient.validate.tasks.render import render_tasks
from salient.validate.tasks.result import TaskResult

from .result import ValidationResult
from .stage import StageResult, UnmeasuredStage


def to_report(result: ValidationResult) -> Report:
    """The report; it passes unless a policy was given and its verdict is not "pass"."""
    tables: list[Table] = []
    lines: list[str] = []
    title = f"{result.checkpoint} against {result.reference}"
    for stage in result.stages.values():
        more_tables, more_lines = render_stage(stage, title)
        tables += more_tables
        lines += more_lines
    cached = f"; {result.cached_parts} parts taken from earlier runs" * (result.cached_parts > 0)
    lines.append(f"Measured in {duration(result.seconds)}{cached}.")
    if result.verdict is not None:
        table, more_lines = render_verdict(result.verdict)
        tables.append(table)
        lines += more_lines
    passed = result.verdict is None or result.verdict.word == "pass"
    return Report(result.to_dict(), tables, lines, passed=passed)


def render_stage(stage: StageResult, title: str = "") -> tuple[list[Table], list[str]]:
    match stage:
        case UnmeasuredStage():
            return [], [stage.summary]
        case LikelihoodResult():
            return render_likelihood(stage, title)
        case TaskResult():
            return render_tasks(stage)
        case ContextResult():
            return render_context(stage)
        case LoadTestStageResult():
            return render_load(stage)
        case AttributionResult():
            return render_attribution(stage)
    raise TypeError(f"no stage result: {stage!r}")
