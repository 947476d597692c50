"""A forecast of speed by roofline: what must be read and multiplied, over what the device can.

A decoding step reads every weight that it uses once and every cached number of its sequences; its
time is bytes over bandwidth, or products over peak where that is longer, plus a fixed cost for each
block. A prompt's time is its products over peak. Shares of the peaks are those of kernels in
practice; they are assumptions, listed with every forecast, and give a range.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from salient.plan.vllm.route import Route
from salient.shapes.model_shape import ModelShape

from .gpus import Gpu
from .memory import Workload, sequence_bytes
from .weight_formats import WeightFormat, bytes_read

FP4_FROM = 100  # compute capability of matrix cores that multiply 4-bit floats


@dataclass(frozen=True)
class KernelEfficiency:
    """How much of a device a kernel uses.

    reads: share of the bandwidth while decoding
    multiplies: share of the peak products of a long prompt
    numbers: of the products, "fp16", "fp8" or "fp4"; the peak is the device's for them
    unpacks: 10^9 weights a second at most for one row, whatever the device reads; 0: no such limit
    """

    reads: float
    multiplies: float
    unpacks: float = 0.0
    numbers: Literal["fp16", "fp8", "fp4"] = "fp16"

    def peak(self, gpu: Gpu) -> float:
        """TFLOP/s of the products that it makes on `gpu`."""
        if self.numbers == "fp16" or not gpu.fp8_tflops:
            return gpu.tflops
        has_fp4 = self.numbers == "fp4" and gpu.capability >= FP4_FROM
        return gpu.fp8_tflops * (2 if has_fp4 else 1)


_CONSTANTS = json.loads(
    Path(__file__).with_name("speed_constants.json").read_text(encoding="utf-8")
)
_EFFICIENCY = {name: KernelEfficiency(**row) for name, row in _CONSTANTS["kernels"].items()}
_FAST, _SLOW = _EFFICIENCY["fast"], _EFFICIENCY["slow"]
# What a kernel reaches on other vendors' devices, relative to NVIDIA: of bandwidth, of products.
# Apple: llama.cpp's own table of Apple's chips (discussion 4167): 7 B in Q4_0, 61 to 94 a second.
_VENDORS = {"amd": (0.65, 0.65), "apple": (0.8, 1.2), "cpu": (0.8, 1.0)}

# Seconds a block besides its bytes: launches, norms, rotary, the start of attention. vLLM with
# CUDA graphs: 14 B (48 blocks) at 71.5 tokens a second on an H100 leaves 0.08 ms a block.
_BLOCK_SECONDS = {
    "vllm": 80e-6,
    "transformers": 600e-6,
    "llama.cpp": 30e-6,
    "salient": 60e-6,
    "mlx": 40e-6,
}
_ROCM_BLOCK_SECONDS = 250e-6
# without graphs: 90 B in 100 blocks at 21.8 tokens a second over four H100s, where eager is forced
_EAGER_BLOCK_SECONDS = 250e-6
_CPU_BLOCK_SECONDS = 20e-6
# Two all-reduces a block, each some latencies of the link (NVLink 15 us, PCIe several times that).
_REDUCE_SECONDS = 30e-6


@dataclass(frozen=True)
class SpeedRange:
    """A range with its middle."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """Tokens a second of one sequence and of all together; seconds to the first token."""

    decode: SpeedRange
    together: SpeedRange
    ttft: SpeedRange
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class _Scenario:
    """Factors on the shares of a kernel and on fixed costs: pessimistic, middle, optimistic."""

    shares: float
    fixed: float


_SCENARIOS = (_Scenario(0.8, 1.3), _Scenario(1.0, 1.0), _Scenario(1.1, 0.4))


def forecast(
    shape: ModelShape, form: WeightFormat, load: Workload, route: Route
) -> Forecast | None:
    """Speeds of `shape` in `form` by the kernel of `route`; None where the device is unknown or the
    engine refuses the format."""
    if not load.gpu.bandwidth or not load.gpu.tflops or route.pace == "refused":
        return None
    kernel = _efficiency(load, route)
    reads = {rows: bytes_read(shape, form, rows) for rows in (1, load.sequences)}
    worst, *others = _SCENARIOS
    scenarios = (replace(worst, shares=worst.shares * load.gpu.slowest), *others)
    steps = [
        [_step(shape, load, kernel, scenario, rows, reads[rows]) for scenario in scenarios]
        for rows in (1, load.sequences)
    ]
    prompts = [_prompt(shape, load, kernel, scenario) for scenario in scenarios]
    ttft = [prompt + step for prompt, step in zip(prompts, steps[0], strict=True)]
    return Forecast(
        SpeedRange(*(1 / seconds for seconds in steps[0])),
        SpeedRange(*(load.sequences / seconds for seconds in steps[1])),
        SpeedRange(ttft[2], ttft[1], ttft[0]),
        _assumptions(load, route, kernel),
    )


def _efficiency(load: Workload, route: Route) -> KernelEfficiency:
    kernel = _EFFICIENCY.get(route.kernel, _FAST if route.pace == "fast" else _SLOW)
    reads, multiplies = _VENDORS.get(load.gpu.vendor, (1.0, 1.0))
    shares = {"reads": kernel.reads * reads, "multiplies": kernel.multiplies * multiplies}
    return replace(kernel, **shares)


def _block_seconds(load: Workload) -> float:
    by_vendor = {"amd": _ROCM_BLOCK_SECONDS, "cpu": _CPU_BLOCK_SECONDS}
    seconds = max(_BLOCK_SECONDS[load.engine.name], by_vendor.get(load.gpu.vendor, 0))
    if load.gpu.vendor == "cpu" and load.engine.name != "transformers":
        seconds = _CPU_BLOCK_SECONDS
    elif load.eager:
        seconds = max(seconds, _EAGER_BLOCK_SECONDS)
    return seconds + (2 * _REDUCE_SECONDS if load.tp > 1 else 0)


def _step(
    shape: ModelShape,
    load: Workload,
    kernel: KernelEfficiency,
    scenario: _Scenario,
    rows: int,
    weights: float,
) -> float:
    """Seconds of one decoding step of `rows` sequences, each at half of the load's context.

    weights: bytes of them that are read
    """
    bandwidth = load.gpu.bandwidth * 1e9 * min(0.95, kernel.reads * scenario.shares)
    peak = kernel.peak(load.gpu) * 1e12 * kernel.multiplies * scenario.shares
    read = weights / load.tp / bandwidth
    multiplied = 2 * _multiplied(shape) * rows / load.tp / peak
    unpacked = _unpacked(shape, load, kernel, scenario) * max(1, rows / 16)  # tiles of 16 rows
    cached = rows * sequence_bytes(shape, load, load.context // 2) / bandwidth
    fixed = len(shape.blocks) * _block_seconds(load) * scenario.fixed
    return max(read, multiplied, unpacked) + cached + fixed


def _unpacked(
    shape: ModelShape, load: Workload, kernel: KernelEfficiency, scenario: _Scenario
) -> float:
    if not kernel.unpacks:
        return 0.0
    active = sum(linear.active_weights for linear in shape.linears if not linear.unquantized)
    return active / (kernel.unpacks * 1e9 * scenario.shares) / load.tp


def _multiplied(shape: ModelShape) -> int:
    """Elements of the matrices that one token passes, including the head."""
    return shape.multiplied + shape.head_weights


def _prompt(
    shape: ModelShape, load: Workload, kernel: KernelEfficiency, scenario: _Scenario
) -> float:
    """Seconds of a prompt, with an empty queue; its first token takes a step more.

    Attention's products are 2 tokens^2 x width a block: scores and values, half of them masked.
    """
    tokens = load.prompt
    peak = kernel.peak(load.gpu) * 1e12 * kernel.multiplies * scenario.shares * load.tp
    matrices = 2 * shape.multiplied * tokens
    widths = sum(n.width for n in shape.linears if n.part == "attention" and n.split == "in")
    attention = 2 * tokens**2 * widths
    return (matrices + attention) / peak


def _assumptions(load: Workload, route: Route, kernel: KernelEfficiency) -> tuple[str, ...]:
    gpu = load.gpu
    lines = [
        f"{gpu.name}: {gpu.bandwidth:g} GB/s, of which {kernel.reads:.0%} while decoding; "
        f"{kernel.peak(gpu):g} TFLOP/s, of which {kernel.multiplies:.0%} for a prompt",
        f"{_block_seconds(load) * 1e3:.2f} ms a block besides its bytes ({load.engine.name})",
        f"a prompt of {load.prompt} tokens, nothing queued; decoding at half of {load.context}",
    ]
    if kernel.unpacks:
        lines.append(f"{route.kernel} unpacks at most {kernel.unpacks:g} x 10^9 weights a second")
    return tuple(lines)
