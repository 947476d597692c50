"""Rates of a kernel on a device: the constants of speed_constants.json, combined.

A rate is the device's peak times three shares: of the device's class, of the engine and of the
kernel. benchmarks/fit_speed.py fits the shares and the fixed costs to published figures.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from salient.core.records import from_json
from salient.plan.vllm.types import Route
from salient.shapes.model_shape import ModelShape

from .gpus import Gpu, Vendor
from .memory import Workload
from .roofline import StepRates

FP4_FROM = 100  # compute capability of matrix cores that multiply 4-bit floats
MICRO = 1e-6
LARGEST_SHARE, LARGEST_PRODUCTS = 0.97, 0.85  # of the bandwidth, of the peak
# Data center cards reach their peak only by the instructions of their own generation.
LEGACY_SHARE = 0.5
# Releases of vLLM from 0.8 on schedule and sample in the new engine (V1).
NEW_ENGINE = (0, 8)
# Cards whose GPUs exchange over NVLink or xGMI; others use PCIe.
LINKED = ("A100", "A800", "H100", "H200", "H20", "H800", "GH200", "V100 SXM", "B", "GB", "MI")
PLAIN, LLAMA_CPP = "16-bit", "llama.cpp"
GRAPHLESS = ("mllama",)  # families that vLLM runs without CUDA graphs


@dataclass(frozen=True)
class KernelEfficiency:
    """How much of a device a kernel uses, relative to 16-bit products of the vendor's library.

    names: of the kernels, as routes have them
    reads, multiplies: factors of the device's shares
    numbers: of the products; the peak is the device's for them
    unpacks: weights at most in a cycle of a multiprocessor; 0: no such limit
    limit: 10^9 weights a second at most, whatever the device; 0: no such limit
    legacy: compute capabilities that reach a part of their peak with its older instructions
    rows: rows of a product that share an unpacking; most: rows above which a matrix is unpacked
        whole, into memory
    """

    names: tuple[str, ...]
    reads: float
    multiplies: float
    numbers: Literal["fp16", "fp8", "fp4"] = "fp16"
    unpacks: float = 0.0
    limit: float = 0.0
    legacy: tuple[int, ...] = ()
    rows: float = 16
    most: float = 1e9

    def peak(self, gpu: Gpu) -> float:
        """TFLOP/s of the products that it makes on `gpu`."""
        if gpu.capability in self.legacy:
            return LEGACY_SHARE * gpu.tflops
        if self.numbers == "fp16" or not gpu.fp8_tflops:
            return gpu.tflops
        has_fp4 = self.numbers == "fp4" and gpu.capability >= FP4_FROM
        return gpu.fp8_tflops * (2 if has_fp4 else 1)


@dataclass(frozen=True)
class EngineCosts:
    """An engine's fixed costs in microseconds, and factors of the device's shares.

    reads, multiplies: factors; cache: in addition for the cache
    experts, expert_products: in addition for reading and unpacking experts, for multiplying them
    block: of a block; eager: without CUDA graphs
    sparse, mixer, latent: in addition of one with experts, a recurrent state, a latent cache (MLA)
    prompt_block: of a block of a prompt's step
    step, row: of a step, and for each sequence of it
    reduce: of each of a block's two exchanges over NVLink; pcie: over PCIe
    first: before a first token
    old_step, old_row, old_prompt_block: in addition for vLLM before 0.8
    """

    reads: float
    experts: float
    expert_products: float
    cache: float
    multiplies: float
    block: float
    sparse: float
    mixer: float
    latent: float
    eager: float
    prompt_block: float
    step: float
    row: float
    reduce: float
    pcie: float
    first: float
    old_step: float = 0.0
    old_row: float = 0.0
    old_prompt_block: float = 0.0


@dataclass(frozen=True)
class DeviceMatch:
    """Which devices a class has.

    capability: the lowest and highest; gfx, names: how AMD's target and the name start, () for any
    """

    vendor: Vendor
    capability: tuple[int, int] = (0, 10_000)
    gfx: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def matches(self, gpu: Gpu) -> bool:
        return (
            gpu.vendor == self.vendor
            and self.capability[0] <= gpu.capability <= self.capability[1]
            and gpu.gfx.startswith(self.gfx or ("",))
            and f"{gpu.name} ".startswith(self.names or ("",))
        )


@dataclass(frozen=True)
class CycleProducts:
    """Float16 products of a multiprocessor in a cycle, by what a device's name starts with, by
    compute capability, and by vendor.

    From the vendors' white papers. RTX 20 to 50, L20, L40, A2, A10G and A16 sum in float32 at half
    the rate; an H20 has 78 multiprocessors at 1.98 GHz and throttled tensor cores.
    """

    names: dict[str, float]
    capabilities: dict[str, float]
    vendors: dict[str, float]

    def of(self, gpu: Gpu) -> float:
        names = (value for start, value in self.names.items() if f"{gpu.name} ".startswith(start))
        by_kind = self.capabilities.get(str(gpu.capability)) or self.vendors[gpu.vendor]
        return next(names, by_kind)


@dataclass(frozen=True)
class DeviceShares:
    """A class of devices.

    reads, multiplies: shares of the peaks; latency: factor of the fixed costs of blocks
    unpacks: factor of the kernels' unpacking; tile: rows that a product works on at least
    """

    name: str
    match: DeviceMatch
    reads: float
    multiplies: float
    unpacks: float
    latency: float
    tile: float


@dataclass(frozen=True)
class ClassAccuracy:
    """How good forecasts of a class of devices were.

    figures: published rates that the fit did not read, and the median of their errors
    width, prompt_width: logarithms of a range's ends over its middle, of rates and first tokens
    engines: those of which there are figures
    """

    figures: int
    median: float
    width: float
    prompt_width: float
    engines: tuple[str, ...]


@dataclass(frozen=True)
class SpeedConstants:
    """speed_constants.json."""

    kernels: dict[str, KernelEfficiency]
    engines: dict[str, EngineCosts]
    devices: tuple[DeviceShares, ...]
    cycle_products: CycleProducts
    accuracy: dict[str, ClassAccuracy]


@cache
def speed_constants() -> SpeedConstants:
    path = Path(__file__).with_name("speed_constants.json")
    return from_json(SpeedConstants, json.loads(path.read_text(encoding="utf-8")))


def device_class(gpu: Gpu, constants: SpeedConstants) -> DeviceShares:
    """The first class that has `gpu`."""
    return next(row for row in constants.devices if row.match.matches(gpu))


def engine_name(load: Workload, constants: SpeedConstants) -> str:
    """The row of the engine on the vendor's devices."""
    by_vendor = f"{load.engine.name}/{load.gpu.vendor}"
    return by_vendor if by_vendor in constants.engines else load.engine.name


def kernel_name(route: Route, form: str, constants: SpeedConstants) -> str:
    """The row of a route's kernel, or of the experts', for the format with the title `form`."""
    rows = {kernel: name for name, row in constants.kernels.items() for kernel in row.names}
    row = rows.get(route.experts) or rows.get(route.kernel, "fast")
    if row == LLAMA_CPP and "_K" in form.upper():
        return f"{LLAMA_CPP} K"
    return "slow" if route.pace == "slow" and row in ("fast", PLAIN) else row


def is_graphless(shape: ModelShape, load: Workload) -> bool:
    """Whether vLLM runs the model without CUDA graphs."""
    return load.eager or (load.engine.name in ("vllm", "sglang") and shape.model_type in GRAPHLESS)


def step_rates(
    load: Workload, kernel: str, constants: SpeedConstants, *, eager: bool = False
) -> StepRates:
    """The rates of `load`'s GPUs together with a row of the kernels."""
    gpu, tp = load.gpu, load.tp
    device, efficiency = device_class(gpu, constants), constants.kernels[kernel]
    engine = constants.engines[engine_name(load, constants)]
    share = min(LARGEST_SHARE, device.reads * engine.reads * efficiency.reads)
    reads = gpu.bandwidth * 1e9 * tp * share
    plain = gpu.bandwidth * 1e9 * tp * min(LARGEST_SHARE, device.reads * engine.reads)
    share_of_peak = device.multiplies * engine.multiplies * efficiency.multiplies
    multiplies = efficiency.peak(gpu) * 1e12 * tp * min(LARGEST_PRODUCTS, share_of_peak)
    old = load.engine.name == "vllm" and load.version < NEW_ENGINE
    unpacks = efficiency.unpacks * device.unpacks * gpu.tflops * 1e12
    unpacks /= constants.cycle_products.of(gpu)
    unpacks = (unpacks or efficiency.limit * 1e9) * tp
    prompt_block = engine.prompt_block + old * engine.old_prompt_block
    reduce = 0.0
    if tp > 1:
        reduce = 2 * (engine.reduce if gpu.name.startswith(LINKED) else engine.pcie)
    # launches without a graph cost more wherever a block has them
    latency = device.latency * (engine.eager / engine.block if eager else 1)
    block = engine.block * latency
    return StepRates(
        reads,
        reads * min(engine.experts, LARGEST_SHARE / share),
        plain * engine.cache,
        multiplies,
        multiplies * engine.expert_products,
        unpacks,
        unpacks * engine.experts,
        efficiency.rows,
        efficiency.most,
        device.tile if kernel == PLAIN else 1,
        (block + reduce) * MICRO,
        engine.sparse * latency * MICRO,
        engine.mixer * latency * MICRO,
        engine.latent * latency * MICRO,
        (prompt_block * device.latency + reduce) * MICRO,
        (engine.step + old * engine.old_step) * MICRO,
        (engine.row + old * engine.old_row) * MICRO,
        engine.first * MICRO,
    )
