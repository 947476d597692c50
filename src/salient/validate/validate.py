"""The verbs `validate` and `evaluate`: measure the stages, judge them by a policy, report."""

import time
from dataclasses import replace
from datetime import date
from pathlib import Path

from salient.core.report import Report
from salient.core.version import __version__
from salient.validate.attribution.result import AttributionResult, with_damage
from salient.validate.policy.policy import STAGES, Policy, read_policy
from salient.validate.policy.verdict import RuleResult, judge

from .cache import ValidationCache
from .companions.compare import compare_companions, failed_rules
from .integrity.measure import measure_integrity
from .model_card import update_card
from .model_pair import ModelPair, open_pair, refuse_unquantized
from .options import EvaluateOptions, ValidateOptions
from .render import to_report
from .report.write import check_folder, write_report
from .result import ValidationResult
from .run_environment import memory_use, run_environment
from .stage import StageResult, UnmeasuredStage
from .stages import check_stages, run_stages, select_stages


def validate_checkpoint(options: ValidateOptions) -> tuple[ValidationResult, Report]:
    """Measure all selected stages and judge them by the policy.

    Raises SalientError for invalid options; what fails later is an undecided rule.
    """
    return _run(options, read_policy(str(options.policy)))


def evaluate_checkpoint(options: EvaluateOptions) -> tuple[ValidationResult, Report]:
    """Measure the selected stages. Raises SalientError for what cannot be measured."""
    return _run(options, None)


def _run(options: EvaluateOptions, policy: Policy | None) -> tuple[ValidationResult, Report]:
    started, progress = time.monotonic(), options.progress
    if options.report is not None:
        check_folder(Path(options.report))
    selection = select_stages(options, policy)
    progress(0, 1, "reading both models")
    pair = open_pair(
        str(options.checkpoint), str(options.reference), options.device, options.adapter
    )
    if policy is not None:
        refuse_unquantized(pair)
    differences = compare_companions(pair)
    failed = failed_rules(differences, policy) if policy is not None else []
    damage: list[RuleResult] = []
    integrity = None
    if pair.checkpoint.source.format is not None and not failed:
        integrity = measure_integrity(pair, progress.part(0, 1, 20, "integrity"))
        if policy is not None:
            damage = integrity.failed_rules()
    cache = ValidationCache(resume=not options.fresh)
    if failed:
        reason = f"not run, because the {failed[0].what} is not the reference's"
        stages: dict[str, StageResult] = {name: UnmeasuredStage(name, reason) for name in selection}
    else:
        check_stages(pair, selection)
        cache.remove_old()
        part = progress.part(1, 19, 20)
        stages = dict(run_stages(pair, selection, cache, part, tolerant=policy is not None))
    attribution = stages.get("attribution")
    if integrity is not None and integrity.damaged and isinstance(attribution, AttributionResult):
        stages["attribution"] = with_damage(attribution, [d.summary for d in integrity.damaged])
    verdict = None
    if policy is not None:
        measurements = [m for stage in stages.values() for m in stage.measurements()]
        verdict = judge(policy, measurements, [name for name in stages if name in STAGES])
        verdict = replace(verdict, rules=(*failed, *damage, *verdict.rules))
    result = ValidationResult(
        checkpoint=pair.checkpoint.name,
        reference=pair.reference.label,
        salient=__version__,
        environment=run_environment(str(pair.checkpoint.skeleton.device)),
        model=pair.checkpoint.summary,
        date=date.today().isoformat(),
        seconds=round(time.monotonic() - started, 1),
        memory=memory_use(pair),
        differences=differences,
        integrity=integrity,
        **stages,  # pyright: ignore[reportArgumentType]
        verdict=verdict,
        cached_parts=cache.reused,
    )
    report = to_report(result)
    if options.report is not None:
        report.lines[-1:-1] = _write(result, pair, Path(options.report))
    return result, report


def _write(result: ValidationResult, pair: ModelPair, folder: Path) -> list[str]:
    """Write the report's pages and the model card; a line on each."""
    paths = write_report(result, folder)
    names = ", ".join(path.name for path in paths.values())
    card = update_card(pair.checkpoint.source.folder, result)
    return [f"Written to {folder}: {names}.", *([card] if card else [])]
