"""The verbs `validate` and `evaluate`: stages measured, held against a policy, told."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from salient import __version__
from salient.core.progress import Progress
from salient.core.report import Report
from salient.validate.policy.policy import STAGES, Policy, read_policy
from salient.validate.policy.verdict import Verdict, judge

from .cache import ValidationCache
from .model_card import update_card
from .model_pair import ModelPair, open_pair
from .render import to_report
from .report import check_folder, write_report
from .result import ValidationResult
from .run_environment import memory_use, model_summary, run_environment
from .stage import StageResult
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
    store.remove_old()
    stages = dict(run_stages(pair, request.asked, store, progress, go_on=policy is not None))
    result = ValidationResult(
        checkpoint=pair.checkpoint.name,
        reference=pair.reference.name,
        salient=__version__,
        environment=run_environment(str(pair.checkpoint.skeleton.device)),
        model=model_summary(pair),
        date=date.today().isoformat(),
        seconds=round(time.monotonic() - started, 1),
        memory=memory_use(pair),
        **stages,  # pyright: ignore[reportArgumentType]
        verdict=judge_stages(policy, stages) if policy is not None else None,
        cached_parts=store.reused,
    )
    report = to_report(result)
    if request.report is not None:
        report.lines[-1:-1] = _write(result, pair, Path(request.report))
    return report


def judge_stages(policy: Policy, stages: Mapping[str, StageResult]) -> Verdict:
    """The verdict of a policy on the stages that were run."""
    measurements = [m for stage in stages.values() for m in stage.measurements()]
    return judge(policy, measurements, [name for name in stages if name in STAGES])


def _write(result: ValidationResult, pair: ModelPair, folder: Path) -> list[str]:
    """Write the report's pages and the model card; a line on each."""
    paths = write_report(result, folder)
    names = ", ".join(path.name for path in paths.values())
    card = update_card(pair.checkpoint.source.folder, result)
    return [f"Written to {folder}: {names}.", *([card] if card else [])]
