"""Who can load a checkpoint, and by which kernel: one row for each kind of device."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from salient.core.errors import SalientError
from salient.diagnose.checkpoint.check import CheckpointReading
from salient.plan.gpus import Gpu, find_gpu
from salient.plan.vllm.route import Route, ServingTarget, WeightPacking, route
from salient.plan.vllm.versions import NEWEST
from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import ModelShape

from .finding import Evidence, Finding

# one device for each way that vLLM takes
_DEVICES = ("V100", "T4", "A100", "RTX 4090", "H100", "RTX 5090", "MI300X", "EPYC 9654")
_LEVELS = {"fast": "good", "slow": "slow", "refused": "error"}


@dataclass(frozen=True)
class EngineSupport:
    """One engine on one device: what it would do with the checkpoint."""

    engine: str
    device: str
    kernel: str
    pace: str
    why: str


def loaders(
    config: Mapping[str, Any],
    reading: CheckpointReading | None,
    tp: int,
    version: tuple[int, int] | None,
) -> list[EngineSupport]:
    """vLLM on a device of each kind, and the engines that are no matter of devices."""
    shape, packing = _shape(config), packing_of(config, reading)
    if shape is None or packing is None:
        return []
    found = version or NEWEST
    engine = f"vLLM {found[0]}.{found[1]}"
    rows = []
    for name in _DEVICES:
        gpu = find_gpu(name)
        made = _route(shape, packing, gpu, tp, found)
        rows.append(EngineSupport(engine, gpu.name, made.kernel or "-", made.pace, made.why))
    return rows + _others(packing)


def _others(packing: WeightPacking) -> list[EngineSupport]:
    if packing.method == "awq":
        need = "needs gptqmodel and accelerate; on a CPU fast in bfloat16 only"
        return [
            EngineSupport("Transformers 5", "any", "gptqmodel", "fast", need),
            EngineSupport("Salient", "any", "Salient", "fast", "its own kernels, CPU and GPU"),
        ]
    if packing.method == "compressed-tensors":
        return [
            EngineSupport(
                "Transformers 5", "any", "-", "slow", "dequantizes; needs compressed-tensors"
            ),
            EngineSupport("Salient", "any", "Salient", "fast", "its own kernels, CPU and GPU"),
        ]
    return []


def judge_kernel(
    config: Mapping[str, Any],
    reading: CheckpointReading | None,
    gpu: Gpu,
    tp: int,
    version: tuple[int, int] | None,
) -> list[Finding]:
    """The kernel of one device as a finding: good, slow, or refused."""
    shape, packing = _shape(config), packing_of(config, reading)
    if shape is None or packing is None:
        return []
    made = _route(shape, packing, gpu, tp, version or NEWEST)
    where = f"{gpu.name}, tensor parallel {tp}"
    fallen = [layer for layer in made.fallen if layer not in made.why]
    seen = (Evidence(where, made.why), *(Evidence(where, layer) for layer in fallen[:5]))
    others = "; ".join(f"{no.kernel}: {no.why}" for no in made.refusals)
    titles = {
        "fast": f"vLLM will take {made.kernel}, a fast kernel",
        "slow": f"vLLM will take {made.kernel}, a slow kernel",
        "refused": f"vLLM will refuse this checkpoint on {gpu.name}",
    }
    return [
        Finding(
            f"kernel-{made.pace}",
            _LEVELS[made.pace],  # type: ignore[arg-type]
            titles[made.pace],
            certainty="certain" if version else "likely",
            matters=f"Not taken: {others}." if others else "",
            do=made.do,
            evidence=seen,
            count=len(seen),
            rank=40,
        )
    ]


def _route(
    shape: ModelShape, packing: WeightPacking, gpu: Gpu, tp: int, version: tuple[int, int]
) -> Route:
    """With the type that the model is stored in, or with float16 where that alone is taken."""
    stored = shape.dtype if shape.dtype in ("float16", "bfloat16") else "float16"
    made = route(shape, packing, ServingTarget(gpu, tp, version, stored))
    if made.pace == "refused" and stored == "bfloat16":
        half = route(shape, packing, ServingTarget(gpu, tp, version, "float16"))
        if half.pace != "refused":
            do = ("serve with --dtype float16", *half.do)
            return replace(half, why=f"with --dtype float16: {half.why}", do=do)
    return made


def _shape(config: Mapping[str, Any]) -> ModelShape | None:
    try:
        return read_shape(config)
    except SalientError:
        return None  # the checkpoint's own check says what is wrong with its config


def packing_of(
    config: Mapping[str, Any], reading: CheckpointReading | None
) -> WeightPacking | None:
    """How the weights are stored, by the tensors if they were read; None where nothing says."""
    if reading is None or not reading.method:
        return WeightPacking("none") if "quantization_config" not in config else _said(config)
    group = reading.group if reading.group is not None else 128
    zeros = True if reading.zeros is None else reading.zeros
    return WeightPacking(reading.method, group, zeros, reading.bits or 4)


def _said(config: Mapping[str, Any]) -> WeightPacking | None:
    """What a config.json alone says of AWQ or GPTQ; None for other methods, or nonsense."""
    said = config["quantization_config"]
    if not isinstance(said, dict) or said.get("quant_method") not in ("awq", "gptq"):
        return None
    group, bits = said.get("group_size", 128), said.get("bits", said.get("w_bit", 4))
    zeros = said.get("zero_point", not said.get("sym", False))
    if type(group) is not int or type(bits) is not int or not isinstance(zeros, bool):
        return None
    return WeightPacking(said["quant_method"], group, zeros, bits, bool(said.get("desc_act")))
