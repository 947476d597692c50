"""The plan of every deployment of a salient.toml: one table, then each one's choice and lines."""

from dataclasses import replace
from pathlib import Path

from salient.core.errors import RequestError, SalientError
from salient.core.report import Report, Table, mebibytes

from .deployments import Deployment, read_deployments
from .options import PlanOptions
from .planner import DevicePlan, Plan, make_plan
from .report import device_lines, to_data

# a deployment's engine -> plan's; SGLang is planned as vLLM, whose kernels it takes
_ENGINES = {"embedded": "salient", "sglang": "vllm"}
_COLUMNS = (
    "deployment",
    "device",
    "format",
    "kernel",
    "takes",
    "tokens/s",
    "first token",
    "targets",
)


def deployments_file(options: PlanOptions) -> Path:
    """The path of `--config`. Raises RequestError for a model next to it."""
    if options.model is not None or options.gpu or options.vram is not None:
        raise RequestError(
            "--config names the models and devices. Leave out MODEL, --gpu and --vram."
        )
    return Path(str(options.config)).expanduser()


def plan_all(path: Path) -> tuple[Report, tuple[DevicePlan, ...]]:
    """The report, which fails where a deployment has no format that meets its targets.

    Raises RequestError naming the entry and field that are wrong.
    """
    rows: list[tuple[str, ...]] = []
    lines: list[str] = []
    data: dict[str, object] = {}
    devices: list[DevicePlan] = []
    passed = True
    for name, deployment in read_deployments(path).items():
        try:
            plan = make_plan(_options(path, deployment))
        except SalientError as error:
            lines.append(f"{name}: not planned: {error}")
            data[name], passed = {"error": str(error)}, False
            continue
        data[name] = to_data(plan)
        passed = passed and plan.good
        devices += plan.devices
        rows += [_row(name, device) for device in plan.devices]
        lines += _lines(name, deployment, plan)
    table = Table(str(path), _COLUMNS, rows, text_columns=_COLUMNS[:4] + _COLUMNS[7:])
    return Report({"deployments": data}, [table] if rows else [], lines, passed), tuple(devices)


def _options(path: Path, deployment: Deployment) -> PlanOptions:
    folder = (path.parent / deployment.weights).expanduser()
    tp, context = (deployment.argument(key) for key in ("tensor_parallel_size", "max_model_len"))
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
    if engine != "vllm" or not deployment.engine_version:
        return options
    return replace(options, engine_version=deployment.engine_version)


def _row(name: str, device: DevicePlan) -> tuple[str, ...]:
    best, speed = device.best, device.best.forecast
    count = f" x {device.load.tp}" if device.load.tp > 1 else ""
    return (
        name,
        f"{device.gpu.name}{count}",
        best.form.title if best.runs else "none fits",
        best.route.kernel or "-",
        mebibytes(best.budget.taken),
        f"{speed.decode.low:.0f}-{speed.decode.high:.0f}" if speed else "?",
        f"{speed.ttft.low:.2f}-{speed.ttft.high:.2f} s" if speed else "?",
        "met" if best.good else "missed",
    )


def _lines(name: str, deployment: Deployment, plan: Plan) -> list[str]:
    lines = [f"{name}: {line}" for device in plan.devices for line in device_lines(device)[:1]]
    for device in plan.devices:
        lines += [f"  misses: {miss}" for miss in device.best.unmet]
        lines += [f"  change: {one}" for one in device.steps]
        lines += [f"  $ {line}" for line in device.commands]
    if not plan.devices:
        lines.append(f"{name}: no device is named. Add device = 'NAME' to deployments.{name}.")
    if deployment.engine == "sglang":
        lines.append(f"{name}: planned with vLLM's kernels, which SGLang takes too.")
    return lines
