"""The arguments by which vLLM serves a model well, for lines to type and for a server to start."""

import json

from salient.plan.engine_kernels import activations
from salient.plan.memory import Workload
from salient.shapes.model_shape import ModelShape

from .types import Route
from .versions import TRACKS_WEIGHTS, Version

OURS = ("awq", "compressed-tensors")  # what `salient quantize` writes
# vLLM loads a checkpoint that lacks a tensor without a word unless it tracks them.
TRACKED = {"enable_weights_track": True}


def vllm_arguments(
    shape: ModelShape | None,
    method: str,
    version: Version,
    *,
    dtype: str | None = None,
    context: int | None = None,
    utilization: float | None = None,
    tp: int = 1,
    kv_dtype: str = "auto",
) -> dict[str, list[str]]:
    """Each argument's words by vLLM's name of it; what is None or a default is left to vLLM.

    There is no --quantization for `method` among them: named explicitly, AWQ took the slow kernel
    for years. A shape of None is that of a model which could not be counted.
    """
    made: dict[str, list[str]] = {}
    if dtype is not None:
        made["dtype"] = ["--dtype", dtype]
    if context is not None:
        made["max_model_len"] = ["--max-model-len", str(context)]
    if utilization is not None:
        made["gpu_memory_utilization"] = ["--gpu-memory-utilization", f"{utilization:g}"]
    if tp > 1:
        made["tensor_parallel_size"] = ["--tensor-parallel-size", str(tp)]
    if kv_dtype != "auto":
        made["kv_cache_dtype"] = ["--kv-cache-dtype", kv_dtype]
    if shape is not None and not any(block.cache.state for block in shape.blocks):
        made["enable_prefix_caching"] = ["--enable-prefix-caching"]  # of states: experimental
    if method in OURS and version >= TRACKS_WEIGHTS:
        made["model_loader_extra_config"] = ["--model-loader-extra-config", json.dumps(TRACKED)]
    return made


def served_dtype(shape: ModelShape, route: Route, load: Workload) -> str:
    """Activations: as the model was made, but float16 for the kernel that takes nothing else."""
    return "float16" if route.kernel == "awq_gemm" else activations(shape, load)
