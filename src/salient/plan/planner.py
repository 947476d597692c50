"""The verb plan: a model, devices and requirements -> every format on each device, best first."""

from dataclasses import dataclass, replace

from salient.core.errors import RequestError
from salient.core.options import strings
from salient.core.scheme import GROUP_SIZES
from salient.plan.vllm.sharding import fitting_tp
from salient.plan.vllm.versions import NEWEST, parse_version
from salient.shapes.model_shape import ModelShape
from salient.shapes.resolve import full_name, resolve_shape

from .advice import Change, changes
from .commands import commands
from .device_names import Device, find_devices
from .engine_profiles import find_engine, kv_bytes
from .gpus import Gpu, gpu_of_memory
from .knobs import VLLM_KNOBS, with_options
from .memory import Workload
from .model_source import model_source
from .options import PlanOptions
from .ranking import Candidate, candidates, judgement, select_formats
from .requirements import Requirements, parse_requirements
from .rough_decision import Decision, decide
from .yarn import yarn_note, yarn_override

DEFAULT_CONTEXT = 8192
NO_CHANGE = (
    "no knob, and no 8 devices that plan knows: split it over machines, or use a smaller model"
)


@dataclass(frozen=True)
class DevicePlan:
    """One device: its load, the formats best first, what to change, what to type.

    notes: what was assumed of the device, or taken from its name
    """

    load: Workload
    candidates: list[Candidate]
    advice: tuple[Change, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def gpu(self) -> Gpu:
        return self.load.gpu

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    @property
    def judgement(self) -> str:
        """Why this format, where speed was weighed against loss; else ""."""
        return judgement(self.candidates, self.load)

    @property
    def steps(self) -> tuple[str, ...]:
        """What to change, as text: the checked changes, then what the kernel's rules name."""
        texts, refused = tuple(one.text for one in self.advice), self.best.route.pace == "refused"
        do = self.best.route.do
        if not texts and not self.best.runs:  # llama.cpp was planned, and does not do
            texts = () if refused else (NO_CHANGE,)
            do = tuple(step for step in do if "--engine llama.cpp" not in step)
        return texts if texts and refused else texts + do


@dataclass(frozen=True)
class Plan:
    """The plan of every device; `devices` is empty where none was named."""

    options: PlanOptions
    shape: ModelShape
    origin: str
    requirements: Requirements
    devices: tuple[DevicePlan, ...]
    tp_sizes: dict[int, tuple[int, ...]]

    @property
    def good(self) -> bool:
        """Whether some format meets everything on some device; true where no device was named."""
        return not self.devices or any(device.best.good for device in self.devices)

    @property
    def decision(self) -> Decision:
        """Whether to serve it there: "unsure" where a rough shape leaves that open."""
        answers = [decide(self.shape, one.candidates, self.requirements) for one in self.devices]
        if not answers or "yes" in answers:
            return "yes"
        return "unsure" if "unsure" in answers else "no"


def make_plan(options: PlanOptions) -> Plan:
    """Raises ModelError for the model, RequestError for the other options."""
    if options.model is None:
        raise RequestError("Name a model to plan for, or a salient.toml with --config.")
    shape, origin = resolve_shape(str(options.model))
    if note := model_source(str(options.model)).note:
        shape = replace(shape, notes=(*shape.notes, note))
    _check(options)
    requirements = parse_requirements(options.require)
    devices = tuple(_plan_device(shape, options, one, requirements) for one in _devices(options))
    sizes = {group: fitting_tp(shape, group) for group in reversed(GROUP_SIZES)}
    return Plan(options, shape, origin, requirements, devices, sizes)


def _check(options: PlanOptions) -> None:
    engine = find_engine(options.engine)
    kv_bytes(engine, options.kv_dtype)
    if (options.tensor_parallel_size or 1) > 1 and not engine.tensor_parallel:
        raise RequestError(
            f"{engine.name} does not support --tensor-parallel-size. Omit it, or plan for vllm."
        )
    if engine.name != "vllm" and (knobs := [name for name in VLLM_KNOBS if getattr(options, name)]):
        spelling = f"--{knobs[0].replace('_', '-')}"
        raise RequestError(f"{engine.name} has no {spelling}. Omit it, or plan for vllm.")


def _devices(options: PlanOptions) -> list[Device]:
    if options.gpu and options.vram is not None:
        raise RequestError("--gpu and --vram are alternatives. Give one of them.")
    if options.vram is not None:
        return [Device(gpu_of_memory(options.vram))]
    return find_devices(strings(options.gpu))


def _plan_device(
    shape: ModelShape, options: PlanOptions, device: Device, requirements: Requirements
) -> DevicePlan:
    tp, notes = _tensor_parallel(shape, options, device)
    load = _load(shape, options, device.gpu, tp)
    notes += (yarn_note(load),) if load.rope else ()
    ranked = select_formats(candidates(shape, load, requirements), strings(options.format))
    best = ranked[0]
    lines = commands(full_name(str(options.model)), shape, best, load) if best.runs else ()
    is_open = decide(shape, ranked, requirements) == "unsure"
    advice = () if is_open else changes(shape, load, requirements, ranked)
    return DevicePlan(load, ranked, advice, lines, notes)


def _tensor_parallel(
    shape: ModelShape, options: PlanOptions, device: Device
) -> tuple[int, tuple[str, ...]]:
    """The tensor-parallel size: the option's, else as many of the named devices as the model can be
    split over; and the device's notes with one on those that are left.

    Raises RequestError for more than there are.
    """
    count, size, name = device.count, options.tensor_parallel_size, device.gpu.name
    if size is not None and size > count > 1:
        raise RequestError(f"--tp {size} is more than the {count} devices of '{count}x{name}'.")
    if size is not None or count == 1:
        return size or 1, device.notes
    engine = find_engine(options.engine)
    if not engine.tensor_parallel or device.gpu.vendor == "cpu":
        return 1, (*device.notes, f"planned on one of the {count}: there is no tensor parallelism")
    size = max((one for one in fitting_tp(shape, 1, count) if one <= count), default=1)
    if size == count:
        return size, device.notes
    note = f"planned on {size} of the {count}: the model cannot be cut into {count} equal parts"
    return size, (*device.notes, note)


def _load(shape: ModelShape, options: PlanOptions, gpu: Gpu, tp: int) -> Workload:
    """Raises RequestError for a context length above what the model takes, with YaRN too."""
    most = shape.context
    context = options.context_length or min(DEFAULT_CONTEXT, most or DEFAULT_CONTEXT)
    rope = yarn_override(shape, context) if most and context > most else None
    engine = find_engine(options.engine)
    load = Workload(
        engine,
        gpu,
        context,
        options.concurrency,
        tp,
        options.kv_dtype,
        min(options.prompt_tokens, context),
        parse_version(options.engine_version) if engine.name == "vllm" else NEWEST,
        rope=rope,
    )
    return with_options(load, {name: getattr(options, name) for name in VLLM_KNOBS})
