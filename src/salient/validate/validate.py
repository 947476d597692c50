"""The verbs `validate` and `evaluate`: stages measured, held against a policy, told."""

import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from salient.core.progress import Progress
from salient.core.report import Report, Table, duration
from salient.validate.policy.policy import STAGES, Policy, read_policy
from salient.validate.policy.verdict import judge, to_report

from .cache import ValidationCache
from .model_card import update_card
from .model_pair import ModelPair, open_pair
from .report import check_folder, write_report
from .run_environment import facts, memory
from .stage import Stage
from .stages import StageSelection, check_stages, run_stages


@dataclass(frozen=True)
class ValidateOptions:
    """What `salient validate` or `salient evaluate` was asked.

    policy: what the figures are held against; None: they are only told
    report: a folder to write the pages to
    resume: take the parts that an earlier run measured
    """

    checkpoint: str
    reference: str
    asked: StageSelection
    policy: str | None = None
    device: str = "auto"
    report: str | None = None
    resume: bool = False


def run(request: ValidateOptions, progress: Progress) -> Report:
    """Measure, judge, tell. Raises SalientError for what cannot be measured as it was asked."""
    started = time.monotonic()
    policy = read_policy(request.policy) if request.policy is not None else None
    if request.report is not None:
        check_folder(Path(request.report))
    progress(0, 1, "reading both models", "")
    pair = open_pair(request.checkpoint, request.reference, request.device)
    check_stages(pair, request.asked)
    store = ValidationCache(resume=request.resume)
    store.forget_old()
    stages = list(run_stages(pair, request.asked, store, progress, go_on=policy is not None))
    data = {
        **facts(pair),
        "date": date.today().isoformat(),
        "seconds": round(time.monotonic() - started, 1),
        "memory": memory(pair),
        **{stage.name: stage.data for stage in stages},
    }
    report = _report(data, stages, store)
    if policy is not None:
        report = _judged(report, policy, stages)
    if request.report is not None:
        _write(report, pair, Path(request.report))
    return report


def _report(data: dict[str, Any], stages: list[Stage], store: ValidationCache) -> Report:
    tables: list[Table] = []
    lines: list[str] = []
    for stage in stages:
        tables += stage.tables
        lines += stage.lines
    kept = f"; {store.taken} parts taken from earlier runs" if store.taken else ""
    lines.append(f"Measured in {duration(data['seconds'])}{kept}.")
    return Report(data, tables, lines)


def _judged(report: Report, policy: Policy, stages: list[Stage]) -> Report:
    measured = [m for stage in stages for m in stage.measurements]
    judged = [stage.name for stage in stages if stage.name in STAGES]
    told = to_report(judge(policy, measured, judged))
    return Report(
        {**report.data, "verdict": told.data},
        [*report.tables, *told.tables],
        [*report.lines, *told.lines],
        passed=told.passed,
    )


def _write(report: Report, pair: ModelPair, folder: Path) -> None:
    written = write_report(report.data, folder)
    where = ", ".join(path.name for path in written.values())
    report.lines.insert(-1, f"Written to {folder}: {where}.")
    said = update_card(pair.checkpoint.source.folder, report.data)
    if said:
        report.lines.insert(-1, said)
