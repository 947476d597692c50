"""What is known before vLLM starts: the options, the folder's headers, the device.

No tensor is read; preflight.py checks the checkpoint's contents.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import ceil
from pathlib import Path

from salient.core.errors import ModelError, RequestError
from salient.core.model_files import read_json, stored_tensors
from salient.core.options import check_bounds
from salient.core.system import available_memory
from salient.diagnose.engine_support import packing_of
from salient.diagnose.host.gpu_query import GpuInfo
from salient.diagnose.host.probe import Environment, read_environment
from salient.diagnose.serving.read_settings import read_settings
from salient.diagnose.serving.settings import ServingSettings
from salient.diagnose.serving.shell_reader import put_arguments
from salient.diagnose.serving.shell_tokens import ShellToken
from salient.plan.commands import served_dtype
from salient.plan.device_names import find_gpu
from salient.plan.engine_kernels import activations
from salient.plan.engine_profiles import GIB, find_engine
from salient.plan.gpus import Gpu
from salient.plan.memory import Workload, utilization
from salient.plan.vllm.route import ServingTarget, WeightPacking, route
from salient.plan.vllm.versions import NEWEST, Version
from salient.serve.options import ServeOptions
from salient.shapes.model_shape import ModelShape
from salient.shapes.resolve import shape_of_folder

from .locate import VllmInstall

DEFAULT_CONTEXT = 8192  # tokens, if the config has no maximum
CPU_BLOCK = 128  # tokens of a block of vLLM's cache on a processor
_STRETCH = ("hf_overrides", "rope_scaling")  # arguments that extend a model's context
_VISIBLE = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES"}
_MIB = 2**20


class UserArguments(dict[str, object]):
    """The user's own arguments for vLLM, by vLLM's names with underscores."""

    def text(self, name: str, default: str) -> str:
        value = self.get(name)
        return value if isinstance(value, str) else default

    def number(self, name: str, default: int) -> int:
        """An integer above 0, else `default`."""
        value = self.get(name)
        return value if type(value) is int and value > 0 else default


@dataclass(frozen=True)
class TargetDevice:
    """The smallest device that vLLM may use.

    count: visible GPUs, 0 for the processor; free: bytes, of the fullest of the used GPUs
    """

    gpu: Gpu
    count: int
    free: int


@dataclass(frozen=True)
class LaunchContext:
    """The checkpoint and the machine, and what our options and the user's arguments request.

    config: the model's config.json; shape, packing, device: None if unknown
    size: bytes of all tensors
    """

    options: ServeOptions
    vllm: VllmInstall | None
    arguments: UserArguments
    folder: Path
    config: dict[str, object]
    shape: ModelShape | None
    size: int
    packing: WeightPacking | None
    device: TargetDevice | None

    @property
    def version(self) -> Version:
        return self.vllm.release if self.vllm else NEWEST

    @property
    def known_version(self) -> Version | None:
        return self.vllm.release if self.vllm and self.vllm.version else None

    @property
    def quantized(self) -> bool:
        return self.packing is not None and self.packing.method != "none"

    @property
    def tp(self) -> int:
        return self.arguments.number("tensor_parallel_size", self.options.tensor_parallel_size)

    @property
    def stages(self) -> int:
        return self.arguments.number("pipeline_parallel_size", 1)

    @property
    def sequences(self) -> int | None:
        return self.arguments.number("max_num_seqs", 0) or self.options.concurrency

    @property
    def requested_context(self) -> int | None:
        """Tokens a sequence, None if not requested."""
        return self.arguments.number("max_model_len", 0) or self.options.context_length

    @property
    def context(self) -> int:
        """Tokens a sequence: as requested, else the model's maximum."""
        maximum = self.shape.context if self.shape else None
        return self.requested_context or maximum or DEFAULT_CONTEXT

    @property
    def stage_shape(self) -> ModelShape | None:
        """The largest pipeline stage: its blocks, and the embedding and head with them."""
        if self.shape is None or self.stages == 1:
            return self.shape
        blocks = self.shape.blocks
        return replace(self.shape, blocks=blocks[: ceil(len(blocks) / self.stages)])

    def workload(self, sequences: int = 1) -> Workload | None:
        """The work of each device; None if the device is unknown."""
        if self.device is None:
            return None
        engine, gpu = find_engine("vllm"), self.device.gpu
        share = self.arguments.get("gpu_memory_utilization")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            share = utilization(engine, gpu)
        kv = self.arguments.text("kv_cache_dtype", "auto")
        sizes = engine.kv_bytes | ({"auto": 4.0} if self.dtype in ("float32", "float") else {})
        block = CPU_BLOCK if gpu.vendor == "cpu" else engine.block
        engine = replace(engine, utilization=float(share), kv_bytes=sizes, block=block)
        kv = kv if kv in sizes else "auto"  # the sizes of other dtypes are unknown
        prompt = min(1024, self.context)
        return Workload(engine, gpu, self.context, sequences, self.tp, kv, prompt, self.version)

    @property
    def dtype(self) -> str | None:
        """The dtype of the activations: as requested, else as planned; None: left to vLLM."""
        requested = self.arguments.text("dtype", self.options.dtype)
        if requested != "auto":
            return requested
        if self.shape is None or self.device is None:
            return None
        workload = Workload(find_engine("vllm"), self.device.gpu, self.context, tp=self.tp)
        best = activations(self.shape, workload)
        if self.packing is None:
            return best
        target = ServingTarget(self.device.gpu, self.tp, self.version, best)
        return served_dtype(self.shape, route(self.shape, self.packing, target), workload)


def launch_context(options: ServeOptions, vllm: VllmInstall | None) -> LaunchContext:
    """Read the folder and the machine.

    Raises ModelError for a folder that is not a model, RequestError for invalid options.
    """
    arguments = user_arguments(options)
    folder = Path(options.checkpoint).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"There is no folder {options.checkpoint}. Give a checkpoint's folder, with "
            "config.json and safetensors; download a model of the Hub first (`hf download`)."
        )
    config = read_json(folder / "config.json")
    try:
        shape = shape_of_folder(folder)
        size = sum(tensor.bytes for tensor in stored_tensors(folder).values())
    except ModelError:  # reported by the check of the checkpoint
        shape, size = None, 0
    check_bounds(options)
    if options.port == 0:
        raise RequestError("--port 0 is out of range for vLLM: give 1 to 65535.")
    maximum = shape.context if shape else None
    stretched = any(name in arguments for name in _STRETCH)
    if options.context_length and maximum and options.context_length > maximum and not stretched:
        raise RequestError(
            f"--context-length {options.context_length} exceeds the model's maximum of {maximum} "
            "tokens (max_position_embeddings in its config.json)."
        )
    device = target_device(
        vllm, arguments.number("tensor_parallel_size", options.tensor_parallel_size)
    )
    packing = packing_of(config, None)
    return LaunchContext(options, vllm, arguments, folder, config, shape, size, packing, device)


def user_arguments(options: ServeOptions) -> UserArguments:
    """The arguments in `options.vllm_args` and in the file that a --config among them names.

    They are read as vLLM reads them, with abbreviations and short forms, and take precedence over
    ours. Raises RequestError for a second model, and for an unreadable file.
    """
    values = settings_of(options.vllm_args, {}).values
    config = values.get("config")
    stored = read_settings(Path(config).expanduser()).values if isinstance(config, str) else {}
    second = values.get("model", stored.get("model"))
    if second is not None:
        raise RequestError(
            f"vLLM serves one model, and {str(second)!r} is a second one in addition to "
            f"{options.checkpoint}. Leave it out; only vLLM's options come after --."
        )
    return UserArguments(stored | values)


def settings_of(argv: Sequence[str], environment: dict[str, str]) -> ServingSettings:
    """vLLM's arguments as the doctor reads them."""
    settings = ServingSettings(Path("command line"), "command")
    put_arguments(settings, [ShellToken(shlex.quote(text), 1) for text in argv], {})
    for name, value in environment.items():
        settings.put_variable(name, value, 1)
    return settings


def target_device(vllm: VllmInstall | None, count: int = 1) -> TargetDevice | None:
    """The device of the first `count` visible GPUs, or the processor of a CPU build; None if
    neither is known."""
    environment = read_environment()
    if vllm is not None and vllm.cpu:
        return TargetDevice(_processor(environment), 0, available_memory())
    cards = visible(environment.cards, os.environ)
    if not cards:
        return None
    used = cards[:count]
    gpu = _gpu(min(used, key=lambda card: card.memory))
    if not all(card.memory for card in used):  # shared memory: the driver shows no free memory
        return TargetDevice(gpu, len(cards), round(gpu.memory * GIB))
    free = min(card.memory - card.used for card in used)
    return TargetDevice(gpu, len(cards), round(free * _MIB))


def visible(cards: tuple[GpuInfo, ...], environment: Mapping[str, str]) -> tuple[GpuInfo, ...]:
    """The cards that a CUDA or HIP program sees, in its order.

    All of them if the variable has UUIDs, whose cards are unknown. The first number without a card
    ends the list, as in CUDA.
    """
    value = environment.get(_VISIBLE[cards[0].vendor]) if cards else None
    if value is None:
        return cards
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    if not all(entry.lstrip("-").isdecimal() for entry in entries):
        return cards
    known = takewhile(lambda number: 0 <= number < len(cards), map(int, entries))
    return tuple(cards[number] for number in known)


def _gpu(card: GpuInfo) -> Gpu:
    """The catalogue's device with the driver's memory; of an unknown one the driver's facts."""
    try:
        gpu = find_gpu(card.name)
    except RequestError:
        return card.as_gpu()
    memory, gfx = card.memory / 1024 or gpu.memory, gpu.gfx or card.gfx
    return replace(gpu, memory=memory, capability=gpu.capability or card.capability, gfx=gfx)


def _processor(environment: Environment) -> Gpu:
    """The processor, with "AMX" as its architecture if it has that: kernels require it."""
    amx = "AMX" if any(flag.startswith("amx") for flag in environment.flags) else ""
    memory = min(environment.memory, environment.limit or environment.memory) / GIB
    return Gpu(environment.cpu or "CPU", "cpu", amx, memory, 0, 0)
