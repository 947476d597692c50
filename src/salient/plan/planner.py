"""The verb plan: a model, devices and requirements -> every format on each device, best first."""

from dataclasses import dataclass
from typing import Literal

from salient.core.errors import RequestError
from salient.core.options import strings
from salient.core.scheme import GROUP_SIZES
from salient.plan.vllm.sharding import fitting_tp
from salient.plan.vllm.versions import parse_version
from salient.shapes.model_shape import ModelShape
from salient.shapes.resolve import full_name, resolve_shape

from .advice import Change, changes
from .commands import commands
from .engine_profiles import find_engine, kv_bytes
from .gpus import Gpu, find_gpu, gpu_of_memory
from .memory import Workload
from .options import PlanOptions
from .ranking import Candidate, candidates, judgement, select_formats
from .requirements import Requirements, parse_requirements

DEFAULT_CONTEXT = 8192


@dataclass(frozen=True)
class DevicePlan:
    """One device: its load, the formats best first, what to change, what to type."""

    load: Workload
    candidates: list[Candidate]
    advice: tuple[Change, ...]
    commands: tuple[str, ...]

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
        texts = tuple(change.text for change in self.advice)
        return texts if texts and self.best.route.pace == "refused" else texts + self.best.route.do


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
    def decision(self) -> Literal["yes", "no", "unsure"]:
        """Whether to serve it there: "unsure" where a rough shape leaves that open."""
        if self.shape.rough and self.devices:
            return "unsure"
        return "yes" if self.good else "no"


def make_plan(options: PlanOptions) -> Plan:
    """Raises ModelError for the model, RequestError for the other options."""
    if options.model is None:
        raise RequestError("Name a model to plan for, or a salient.toml with --config.")
    shape, origin = resolve_shape(str(options.model))
    _check(options)
    requirements = parse_requirements(options.require)
    devices = tuple(_device(shape, options, gpu, requirements) for gpu in _gpus(options))
    sizes = {group: fitting_tp(shape, group) for group in reversed(GROUP_SIZES)}
    return Plan(options, shape, origin, requirements, devices, sizes)


def _check(options: PlanOptions) -> None:
    engine = find_engine(options.engine)
    kv_bytes(engine, options.kv_dtype)
    if options.tensor_parallel_size > 1 and not engine.tensor_parallel:
        raise RequestError(
            f"{engine.name} does not support --tensor-parallel-size. Omit it, or plan for vllm."
        )


def _gpus(options: PlanOptions) -> list[Gpu]:
    if options.gpu and options.vram is not None:
        raise RequestError("--gpu and --vram are alternatives. Give one of them.")
    if options.vram is not None:
        return [gpu_of_memory(options.vram)]
    return [find_gpu(name) for name in strings(options.gpu) if name.strip()]


def _device(
    shape: ModelShape, options: PlanOptions, gpu: Gpu, requirements: Requirements
) -> DevicePlan:
    load = _load(shape, options, gpu)
    ranked = select_formats(candidates(shape, load, requirements), strings(options.format))
    best = ranked[0]
    lines = commands(full_name(str(options.model)), shape, best, load) if best.runs else ()
    return DevicePlan(load, ranked, changes(shape, load, requirements, ranked), lines)


def _load(shape: ModelShape, options: PlanOptions, gpu: Gpu) -> Workload:
    """Raises RequestError for a context length above the model's."""
    most = shape.context
    context = options.context_length or min(DEFAULT_CONTEXT, most or DEFAULT_CONTEXT)
    if most and context > most:
        raise RequestError(
            f"--context-length {context} is more than the model was made for: {most} tokens "
            "(max_position_embeddings in its config.json)."
        )
    return Workload(
        find_engine(options.engine),
        gpu,
        context,
        options.concurrency,
        options.tensor_parallel_size,
        options.kv_dtype,
        min(options.prompt_tokens, context),
        parse_version(options.engine_version),
    )
