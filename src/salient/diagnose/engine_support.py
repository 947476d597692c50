"""Engines that can load a checkpoint, and the kernel that each runs it through."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from salient.core.errors import SalientError
from salient.diagnose.checkpoint.check import CheckpointReading
from salient.plan.declared_quantization import declared_quantization
from salient.plan.device_names import find_gpu
from salient.plan.gpus import Gpu
from salient.plan.quantization_rules import QuantizationRules
from salient.plan.stored_route import stored_route
from salient.plan.vllm.route import route
from salient.plan.vllm.types import Pace, Route, ServingTarget, WeightPacking
from salient.plan.vllm.versions import NEWEST, Version
from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import ModelShape

from .finding import Evidence, Finding, Level
from .rule import SHOWN

# one device for each of vLLM's code paths
_DEVICES = ("V100", "T4", "A100", "RTX 4090", "H100", "RTX 5090", "MI300X", "EPYC 9654")
_MAX_LAYERS = 5  # fallen layers in a finding's evidence
_FINDINGS: dict[Pace, tuple[Level, str]] = {
    "fast": ("good", "vLLM will take {kernel}, a fast kernel"),
    "slow": ("slow", "vLLM will take {kernel}, a slow kernel"),
    "refused": ("error", "vLLM will refuse this checkpoint on {gpu}"),
}

Layout = WeightPacking | QuantizationRules


@dataclass(frozen=True)
class EngineSupport:
    """An engine on a device, and what it does with the checkpoint."""

    engine: str
    device: str
    kernel: str
    pace: str
    why: str


# engines that run a format the same way on every device
_OTHER_ENGINES = {
    "awq": (
        ("Transformers 5", "any", "gptqmodel", "fast",
         "needs gptqmodel and accelerate; on a CPU fast in bfloat16 only"),
        ("Salient", "any", "Salient", "fast", "its own kernels, CPU and GPU"),
    ),
    "compressed-tensors": (
        ("Transformers 5", "any", "-", "slow", "dequantizes; needs compressed-tensors"),
        ("Salient", "any", "Salient", "fast", "its own kernels, CPU and GPU"),
    ),
}  # fmt: skip


def engine_support(
    config: Mapping[str, object],
    reading: CheckpointReading | None,
    tp: int,
    version: Version | None,
    gpu: Gpu | None = None,
) -> tuple[EngineSupport, ...]:
    """vLLM on `gpu`, or else on a device of each kind; then the engines that run the same way on
    every device."""
    shape, layout = _shape(config), _layout(config, reading)
    if shape is None or layout is None:
        return ()
    packing = packing_of(config, reading)
    others = _OTHER_ENGINES.get(packing.method, ()) if packing else ()
    release = version or NEWEST
    engine = "vLLM {}.{}".format(*release)
    rows: list[EngineSupport] = []
    for device in [gpu] if gpu else map(find_gpu, _DEVICES):
        taken = _route(shape, layout, device, tp, release)
        rows.append(EngineSupport(engine, device.name, taken.kernel or "-", taken.pace, taken.why))
    return (*rows, *(EngineSupport(*row) for row in others))


def judge_kernel(
    config: Mapping[str, object],
    reading: CheckpointReading | None,
    gpu: Gpu,
    tp: int,
    version: Version | None,
) -> list[Finding]:
    """vLLM's kernel on one device as a finding: good, slow, or refused."""
    shape, layout = _shape(config), _layout(config, reading)
    if shape is None or layout is None:
        return []
    taken = _route(shape, layout, gpu, tp, version or NEWEST)
    fallen = [layer for layer in taken.fallen if layer not in taken.why]
    texts = [taken.why, *fallen[:_MAX_LAYERS]]
    place = f"{gpu.name}, tensor parallel {tp}"
    others = "; ".join(f"{no.kernel}: {no.why}" for no in taken.refusals)
    level, title = _FINDINGS[taken.pace]
    finding = Finding(
        f"kernel-{taken.pace}",
        level,
        title.format(kernel=taken.kernel, gpu=gpu.name),
        "certain" if version else "likely",
        f"Not taken: {others}." if others else "",
        taken.do,
        tuple(Evidence(place, text) for text in texts[:SHOWN]),
        len(texts),
        rank=40,
    )
    return [finding]


def _route(shape: ModelShape, layout: Layout, gpu: Gpu, tp: int, version: Version) -> Route:
    """With the stored dtype, or with float16 where only that is supported."""
    stored = shape.dtype if shape.dtype in ("float16", "bfloat16") else "float16"
    taken = _with_dtype(shape, layout, ServingTarget(gpu, tp, version, stored))
    if taken.pace == "refused" and stored == "bfloat16":
        half = _with_dtype(shape, layout, ServingTarget(gpu, tp, version, "float16"))
        if half.pace != "refused":
            do = ("serve with --dtype float16", *half.do)
            return replace(half, why=f"with --dtype float16: {half.why}", do=do)
    return taken


def _with_dtype(shape: ModelShape, layout: Layout, target: ServingTarget) -> Route:
    if isinstance(layout, WeightPacking):
        return route(shape, layout, target)
    return stored_route(shape, layout, target)


def _shape(config: Mapping[str, object]) -> ModelShape | None:
    try:
        return read_shape(config)
    except SalientError:
        return None  # the checkpoint's check reports what is wrong with its config


def _layout(config: Mapping[str, object], reading: CheckpointReading | None) -> Layout | None:
    """The format of each matrix by config.json, or of all by the tensors; None if not judged."""
    declared = declared_quantization(config)
    unread = reading is None or not reading.modules
    if unread and declared and declared.judged:
        return declared.rules
    return packing_of(config, reading)


def packing_of(
    config: Mapping[str, object], reading: CheckpointReading | None
) -> WeightPacking | None:
    """How the weights are stored, by the tensors if they were read; None if it is not judged."""
    if reading is None or not reading.modules:
        declared = declared_quantization(config)
        return declared.packing if declared else WeightPacking("none")
    group = reading.group if reading.group is not None else 128
    zeros = True if reading.zeros is None else reading.zeros
    return WeightPacking(reading.method, group, zeros, reading.bits or 4)
