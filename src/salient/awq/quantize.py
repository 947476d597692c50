"""The verb `quantize`: prepare, run or resume, export; the reports are run_report.py's."""

import logging
import shlex
import shutil
import time
from dataclasses import replace

from salient.core.evidence import RunEvidence
from salient.core.report import Report
from salient.core.system import peak_memory
from salient.core.text_places import remember_texts
from salient.plan.serving_warnings import serving_warnings

from .export import export_checkpoint
from .job import QuantizeJob, finished_evidence, prepare
from .mixed_precision import allocated
from .mixed_scheme import MixedScheme
from .options import QuantizeOptions
from .pipeline import quantize_blocks
from .run_report import closing_report, cost_line, plan_report
from .run_state import QuantizeRun

_log = logging.getLogger("salient")


def quantize_model(options: QuantizeOptions) -> tuple[QuantizeJob, RunEvidence | None, Report]:
    """Quantize: the job, its evidence, and the report. With `dry_run` there is no evidence.

    Raises SalientError before any long work if the run cannot succeed.
    """
    started = time.monotonic()
    job = prepare(options)
    warnings = [
        *serving_warnings(job.source.config, job.layers.scheme, job.format),
        *job.warnings,
    ]
    for warning in warnings:
        _log.warning("warning: %s", warning)
    finished = finished_evidence(job, fresh=options.fresh)
    if options.dry_run:
        evidence, report = None, plan_report(job)
    else:
        evidence, report = _run(job, finished, started, options, warnings)
    report.data["warnings"] = warnings
    return job, evidence, report


def _run(
    job: QuantizeJob,
    evidence: RunEvidence | None,
    started: float,
    options: QuantizeOptions,
    warnings: list[str],
) -> tuple[RunEvidence, Report]:
    """Run `job`, or report the `evidence` of its finished checkpoint; adds to `warnings`."""
    resumed = evidence is not None
    if evidence is not None:
        shutil.rmtree(job.partial, ignore_errors=True)
    else:
        remember_texts(options.calibration, job.header.calibration)
        run = job.run(fresh=options.fresh, progress=options.progress)
        resumed = bool(run.journal.blocks)
        for warning in run.journal.warnings:
            _log.warning("warning: %s", warning)
        warnings.extend(run.journal.warnings)
        try:
            if options.progress.on_step:  # the estimate times this machine
                run.show(0, "begins", cost_line(job, job.estimate_seconds()))
            if job.layers.mixed is not None:
                job, run = with_allocation(job, run, job.layers.mixed)
            evidence = export_checkpoint(job, run, quantize_blocks(run))
        finally:
            run.journal.close()
    cost = {
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_bytes": peak_memory(),
        "resumed": resumed,
    }
    report = closing_report(job, evidence, cost)
    if options.adapter is not None:
        argv = [job.output, "--reference", options.model, "--adapter", options.adapter]
        command = f"  salient evaluate {shlex.join(map(str, argv))}"
        report.lines.extend(["Measure it against the adapted model with:", command])
    return evidence, report


def with_allocation(
    job: QuantizeJob, run: QuantizeRun, mixed: MixedScheme
) -> tuple[QuantizeJob, QuantizeRun]:
    """The job and its run with the formats that the linears get."""
    run, allocation = allocated(run, mixed)
    whole = dict.fromkeys(
        job.target.quantized - run.target.quantized, f"--bits-per-weight {mixed.bits_per_weight:g}"
    )
    layers = replace(
        job.layers,
        scheme=run.target.scheme,
        quantized=run.target.quantized,
        left=job.layers.left | dict(sorted(whole.items())),
    )
    return replace(job, layers=layers, target=run.target, allocation=allocation), run
