"""Verbs that advise: before, and when something is wrong."""

from collections.abc import Callable
from typing import Any

from salient.core.progress import Progress, silent
from salient.core.report import Report


def unheard_finding(lines: list[str], data: dict[str, Any]) -> None:
    """A listener to findings that does nothing."""


def plan(
    model: str,
    *,
    gpu: str | None = None,
    vram: float | None = None,
    engine: str = "vllm",
    context: int | None = None,
    concurrency: int = 1,
    tp: int = 1,
    kv_dtype: str = "auto",
    require: str = "",
    prompt: int = 1024,
    engine_version: str = "0.32",
    adr: str | None = None,
) -> Report:
    """What fits, which kernel runs and how fast, for every format; which one to take, and why.

    `gpu` is a device of the catalogue, or several with commas to compare; `vram` is in GiB.
    `adr` is a Markdown file to write the decision to. The report passed if some format will do.

    Raises ModelError for the model, RequestError for what cannot be asked.
    """
    from salient.plan.planner import PlanOptions, make_plan
    from salient.plan.report import to_report

    made = make_plan(
        PlanOptions(
            model,
            gpu,
            vram,
            engine,
            context,
            concurrency,
            tp,
            kv_dtype,
            require,
            prompt,
            engine_version,
        )
    )
    report = to_report(made)
    if adr:
        from datetime import date
        from pathlib import Path

        from salient.plan.adr import write_record

        write_record(made, Path(adr), date.today())
        report.lines.append(f"Decision record: {adr}")
    return report


def doctor(
    target: str | None = None,
    *,
    log: str | None = None,
    config: str | None = None,
    gpu: str | None = None,
    tp: int | None = None,
    engine_version: str | None = None,
    env: bool = False,
    follow: bool = False,
    progress: Progress = silent,
    heard: Callable[[list[str], dict[str, Any]], None] = unheard_finding,
) -> Report:
    """What is wrong or slow with a checkpoint, a log, serving settings or this machine, and why.

    With `follow` the log is read as it grows, and `heard` gets each finding as lines and as data.
    The report passed if nothing is wrong or slow.

    Raises ModelError, CheckpointError or RequestError for what cannot be read at all.
    """
    from salient.diagnose.doctor import DoctorOptions, diagnose
    from salient.diagnose.report import follow_to_report, to_report

    request = DoctorOptions(target, log, config, gpu, tp, engine_version, env)
    if follow:
        return follow_to_report(request, heard)
    return to_report(diagnose(request, progress))
