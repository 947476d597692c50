"""The plan of every deployment of a salient.toml: one table, then each one's choice and lines."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from salient.core.errors import RequestError, SalientError
from salient.core.report import Report, Table
from salient.core.summary_lines import COMMAND, SummaryLine

from .deployments import Deployment, read_deployments
from .figures import device_title, each_text, fit_text, gibibytes
from .knobs import VLLM_KNOBS
from .options import MAX_TOKENS, PlanOptions
from .planner import DevicePlan, Plan, make_plan
from .report import to_data
from .verdict import steps

SHARES = ("gpu_memory_utilization", "language_model_only", "enforce_eager")  # at most 1
# a deployment's engine -> plan's
_ENGINES = {"embedded": "salient"}
# names of the same argument in vLLM, SGLang and llama.cpp
_SIZES = {
    "tensor_parallel_size": ("tensor_parallel_size", "tp_size", "tp"),
    "max_model_len": ("max_model_len", "context_length", "ctx_size"),
}
_COLUMNS = ("deployment", "device", "format", "takes\nGiB", "tokens/s\neach", "targets")


def deployments_file(options: PlanOptions) -> Path:
    """The path of `--config`. Raises RequestError for a model or a record next to it."""
    if options.model is not None or options.gpu or options.vram is not None:
        raise RequestError(
            "--config names the models and devices. Leave out MODEL, --gpu and --vram."
        )
    if options.adr:
        raise RequestError("--adr records one decision. Name a MODEL and --gpu, not --config.")
    return Path(str(options.config)).expanduser()


def plan_all(path: Path) -> tuple[Report, tuple[DevicePlan, ...]]:
    """The report, which fails where a deployment has no format that meets its targets.

    Raises RequestError naming the entry and field that are wrong.
    """
    rows: list[tuple[str, ...]] = []
    notes: list[SummaryLine] = []
    data: dict[str, object] = {}
    devices: list[DevicePlan] = []
    missed: list[str] = []
    for name, deployment in read_deployments(path).items():
        try:
            plan = make_plan(_options(path, deployment))
        except SalientError as error:
            notes.append(SummaryLine(name, f"not planned: {error}"))
            data[name] = {"error": str(error)}
            missed.append(name)
            continue
        data[name] = to_data(plan)
        missed += [] if plan.good else [name]
        devices += plan.devices
        rows += [_row(name, device) for device in plan.devices]
        notes += _notes(name, deployment, plan)
    tables = (
        [Table(str(path), _COLUMNS, rows, _COLUMNS[:3] + _COLUMNS[5:], _COLUMNS[3:5])]
        if rows
        else []
    )
    summary = [SummaryLine("Plan", _verdict(path, len(data), missed))]
    report = Report({"deployments": data}, tables, [], not missed, summary, notes)
    return report, tuple(devices)


def _verdict(path: Path, count: int, missed: list[str]) -> str:
    verdict = f"{path}: {count - len(missed)} of {count} deployments meet their targets"
    return verdict + (f"; not {', '.join(missed)}" if missed else "")


def _options(path: Path, deployment: Deployment) -> PlanOptions:
    folder = (path.parent / deployment.weights).expanduser()
    tp, context = (
        next((value for name in names if (value := deployment.argument(name)) is not None), None)
        for names in _SIZES.values()
    )
    kv_dtype = deployment.argument("kv_cache_dtype")
    engine = deployment.engine
    options = PlanOptions(
        str(folder) if folder.exists() else deployment.weights,
        gpu=(deployment.device,) if deployment.device else (),
        engine=_ENGINES.get(engine, engine),
        context_length=context if type(context) is int and context > 0 else None,
        concurrency=deployment.concurrency,
        tensor_parallel_size=tp if type(tp) is int and tp > 0 else 1,
        kv_dtype=kv_dtype if isinstance(kv_dtype, str) else "auto",
        require=deployment.required,
    )
    if engine != "vllm":
        return options
    version = deployment.engine_version or options.engine_version
    return replace(options, engine_version=version, **_knobs(deployment))


def _knobs(deployment: Deployment) -> dict[str, int | float]:
    """The knobs of vLLM that plan counts with; what is out of range is doctor's."""
    values = {name: deployment.argument(name) for name in VLLM_KNOBS}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and 0 < value <= (1 if name in SHARES else MAX_TOKENS)
    }


def _row(name: str, device: DevicePlan) -> tuple[str, ...]:
    best = device.best
    return (
        name,
        device_title(device.load),
        best.form.title if best.runs else "none fits",
        f"{gibibytes(best.budget.taken)} of {gibibytes(best.budget.available)}",
        each_text(best.forecast, device.load) if best.forecast else "?",
        "met" if best.good else "missed",
    )


def _notes(name: str, deployment: Deployment, plan: Plan) -> Iterator[SummaryLine]:
    """What each device of a deployment serves, misses and needs, and the lines to type."""
    for device in plan.devices:
        best, load = device.best, device.load
        answer = fit_text(best, load) if best.good or not best.runs else "; ".join(best.unmet)
        yield SummaryLine(name, f"{best.form.title} on {device_title(load)}: {answer}")
        yield from (SummaryLine(name, f"change: {step}") for step in steps(plan.shape, device))
        yield from (SummaryLine(COMMAND, command) for command in device.commands)
    if not plan.devices:
        yield SummaryLine(name, f"no device is named. Add device = 'NAME' to deployments.{name}.")
    if deployment.engine == "sglang":
        yield SummaryLine(name, "planned with vLLM's kernels, which SGLang takes too.")
