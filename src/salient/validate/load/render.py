"""The load stage in the terminal."""

from salient.core.report import Table
from salient.loadtest.plan import LoadTarget
from salient.loadtest.report import to_report

from .result import LoadTestStageResult


def render_load(result: LoadTestStageResult) -> tuple[list[Table], list[str]]:
    """A row for each step, and which steps are judged."""
    report = to_report(LoadTarget(result.target, result.model), list(result.steps))
    return report.tables, [*report.lines, result.judged]
