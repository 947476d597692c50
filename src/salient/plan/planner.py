"""The verb plan: a model, devices and wishes -> every format planned on each device."""

from dataclasses import dataclass, replace

from salient.core.errors import RequestError
from salient.core.options import strings
from salient.core.scheme import GROUP_SIZES
from salient.plan.vllm.route import fitting_tp
from salient.plan.vllm.versions import parse_version
from salient.shapes.model_shape import ModelShape
from salient.shapes.resolve import full_name, resolve_shape

from .advice import advice
from .commands import commands
from .engine_profiles import find_engine, kv_bytes
from .gpus import Gpu, find_gpu, gpu_of_memory
from .memory import Workload
from .options import PlanOptions
from .ranking import Candidate, candidates
from .requirements import Requirements, parse_requirements

DEFAULT_CONTEXT = 8192


@dataclass(frozen=True)
class DevicePlan:
    """One device: the load on it, the formats best first, what to change, what to type."""

    load: Workload
    candidates: list[Candidate]
    advice: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def gpu(self) -> Gpu:
        return self.load.gpu

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


@dataclass(frozen=True)
class Plan:
    """All that was asked and found. devices is empty where no device was named."""

    request: PlanOptions
    shape: ModelShape
    origin: str
    requirements: Requirements
    devices: tuple[DevicePlan, ...]
    tp_sizes: dict[int, tuple[int, ...]]

    @property
    def good(self) -> bool:
        """Whether some format meets everything on some device; true where no device was named."""
        return not self.devices or any(device.best.good for device in self.devices)


def make_plan(request: PlanOptions) -> Plan:
    """Plan `request`. Raises ModelError for the model, RequestError for what was asked."""
    shape, origin = resolve_shape(str(request.model))
    _check(request)
    requirements = parse_requirements(request.require)
    devices = tuple(_device(shape, request, gpu, requirements) for gpu in _gpus(request))
    sizes = {group: fitting_tp(shape, group) for group in reversed(GROUP_SIZES)}
    return Plan(request, shape, origin, requirements, devices, sizes)


def _check(request: PlanOptions) -> None:
    engine = find_engine(request.engine)
    kv_bytes(engine, request.kv_dtype)
    if request.tensor_parallel_size > 1 and not engine.tensor_parallel:
        raise RequestError(
            f"{engine.name} does not support --tensor-parallel-size. Omit it, or plan for vllm."
        )


def _gpus(request: PlanOptions) -> list[Gpu]:
    if request.gpu and request.vram is not None:
        raise RequestError("--gpu and --vram name the same thing twice. Give one of them.")
    if request.vram is not None:
        return [gpu_of_memory(request.vram)]
    return [find_gpu(name) for name in strings(request.gpu) if name.strip()]


def _device(
    shape: ModelShape, request: PlanOptions, gpu: Gpu, requirements: Requirements
) -> DevicePlan:
    load = load_on(shape, request, gpu)
    ranked = candidates(shape, load, requirements)
    best = ranked[0]
    lines = commands(full_name(str(request.model)), shape, best, load) if best.runs else ()
    return DevicePlan(load, ranked, advice(shape, load, best), lines)


def load_on(shape: ModelShape, request: PlanOptions, gpu: Gpu) -> Workload:
    """What `request` puts on `gpu`. Raises RequestError for more tokens than the model takes."""
    most = shape.context
    context = request.context_length or min(DEFAULT_CONTEXT, most or DEFAULT_CONTEXT)
    if most and context > most:
        raise RequestError(
            f"--context-length {context} is more than the model was made for: {most} tokens "
            "(max_position_embeddings in its config.json)."
        )
    load = Workload(
        find_engine(request.engine),
        gpu,
        context,
        request.concurrency,
        request.tensor_parallel_size,
        request.kv_dtype,
    )
    version = parse_version(request.engine_version)
    return replace(load, prompt=min(request.prompt_tokens, context), version=version)
