"""All that is known before vLLM starts, read once: the request, the folder's headers, the machine.

No tensor is read; the check of a checkpoint's contents is in preflight.py.
"""

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from salient.core.errors import ModelError, RequestError
from salient.core.model_files import read_json, stored_tensors
from salient.core.options import check_bounds
from salient.diagnose.engine_support import packing_of
from salient.plan.commands import served_dtype
from salient.plan.engine_kernels import activations
from salient.plan.engine_profiles import find_engine
from salient.plan.memory import Workload, utilization
from salient.plan.vllm.route import ServingTarget, WeightPacking, route
from salient.plan.vllm.versions import NEWEST, Version
from salient.serve.options import ServeOptions
from salient.shapes.model_shape import ModelShape
from salient.shapes.resolve import shape_of_folder

from .device import TargetDevice, find_place
from .locate import VllmInstall
from .user_arguments import UserArguments, read_given

DEFAULT_CONTEXT = 8192  # tokens, where a config does not say what the model was made for
CPU_BLOCK = 128  # tokens that vLLM's cache gives out at once on a processor
_LONGER = ("hf_overrides", "rope_scaling")  # arguments that stretch a model's context


@dataclass(frozen=True)
class LaunchContext:
    """What is there, and what was asked of it, by us or in the words for vLLM.

    config: the model's config.json; shape, packing, place: None where they cannot be told
    size: bytes of all tensors
    """

    request: ServeOptions
    vllm: VllmInstall | None
    given: UserArguments
    folder: Path
    config: dict[str, Any]
    shape: ModelShape | None
    size: int
    packing: WeightPacking | None
    place: TargetDevice | None

    @property
    def version(self) -> Version:
        return self.vllm.release if self.vllm else NEWEST

    @property
    def tp(self) -> int:
        return self.given.number("tensor_parallel_size", self.request.tensor_parallel_size)

    @property
    def stages(self) -> int:
        """Parts that pipeline parallelism cuts the blocks into."""
        return self.given.number("pipeline_parallel_size", 1)

    @property
    def sequences(self) -> int | None:
        return self.given.number("max_num_seqs", 0) or self.request.concurrency

    @property
    def asked_context(self) -> int | None:
        """Tokens a sequence that were asked for, None if none were."""
        return self.given.number("max_model_len", 0) or self.request.context_length

    @property
    def context(self) -> int:
        """Tokens a sequence that were asked for, else all that the model was made for."""
        made_for = self.shape.context if self.shape else None
        return self.asked_context or made_for or DEFAULT_CONTEXT

    @property
    def stage_shape(self) -> ModelShape | None:
        """What one stage of a pipeline holds at most: its blocks, and the ends with them."""
        if self.shape is None or self.stages == 1:
            return self.shape
        return replace(
            self.shape, blocks=self.shape.blocks[: ceil(len(self.shape.blocks) / self.stages)]
        )

    def load(self, sequences: int = 1) -> Workload | None:
        """What is put on each device; None where device or model is not known."""
        if self.place is None:
            return None
        engine, gpu = find_engine("vllm"), self.place.gpu
        share = self.given.share("gpu_memory_utilization", utilization(engine, gpu))
        kv = self.given.text("kv_cache_dtype", "auto")
        sizes = engine.kv_bytes | ({"auto": 4.0} if self.dtype in ("float32", "float") else {})
        block = CPU_BLOCK if gpu.vendor == "cpu" else engine.block
        engine = replace(engine, utilization=share, kv_bytes=sizes, block=block)
        kv = kv if kv in sizes else "auto"  # of other types the size is not known
        prompt = min(1024, self.context)
        return Workload(engine, gpu, self.context, sequences, self.tp, kv, prompt, self.version)

    @property
    def dtype(self) -> str | None:
        """The type of the activations: as asked, else by the plan; None leaves it to vLLM."""
        asked = self.given.text("dtype", self.request.dtype)
        if asked != "auto" or self.shape is None or self.place is None:
            return asked if asked != "auto" else None
        load = Workload(find_engine("vllm"), self.place.gpu, self.context, tp=self.tp)
        best = activations(self.shape, load)
        if self.packing is None:
            return best
        served = ServingTarget(self.place.gpu, self.tp, self.version, best)
        return served_dtype(self.shape, route(self.shape, self.packing, served), load)


def survey(request: ServeOptions, vllm: VllmInstall | None) -> LaunchContext:
    """Read what there is.

    Raises ModelError where `request.checkpoint` is no model folder, RequestError for numbers and
    words that cannot be.
    """
    given = read_given(request)
    folder = Path(request.checkpoint).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"There is no folder {request.checkpoint}. Give a checkpoint's folder, with "
            "config.json and safetensors; a model of the Hub must be fetched first (`hf download`)."
        )
    config = read_json(folder / "config.json")
    shape, size = _counted(folder)
    wanted = max(1, given.number("tensor_parallel_size", request.tensor_parallel_size))
    place = find_place(vllm, wanted)
    packing = packing_of(config, None)
    found = LaunchContext(request, vllm, given, folder, config, shape, size, packing, place)
    _check(found)
    return found


def _counted(folder: Path) -> tuple[ModelShape | None, int]:
    """The model's shape, None where it cannot be counted, and the bytes of its tensors."""
    try:
        shape = shape_of_folder(folder)
        return shape, sum(one.end - one.start for one in stored_tensors(folder).values())
    except ModelError:  # the check of the checkpoint says what is wrong with it
        return None, 0


def _check(found: LaunchContext) -> None:
    request, made_for = found.request, found.shape.context if found.shape else None
    check_bounds(request)
    if request.port == 0:
        raise RequestError("--port 0 is out of range for vLLM: give 1 to 65535.")
    longer = any(name in found.given for name in _LONGER)
    if request.context_length and made_for and request.context_length > made_for and not longer:
        raise RequestError(
            f"--context-length {request.context_length} is more than the model was made for: "
            f"{made_for} tokens (max_position_embeddings in its config.json)."
        )
