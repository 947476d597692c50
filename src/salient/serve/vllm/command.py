"""The command that starts vLLM: our arguments, less those that the user's own words settle."""

import os
from pathlib import Path

from salient.plan.commands import OUR_METHODS, TRACK_WEIGHTS, vllm_arguments
from salient.plan.engine_profiles import find_engine
from salient.plan.memory import utilization

from .locate import VllmInstall
from .memory_fit import CACHE_VARIABLE, MemoryFit
from .target import LaunchContext

PLAIN = VllmInstall(("vllm", "serve"))  # for the line to read where vLLM is not here
# ways of loading that know the key by which tensors are tracked (model_loader/__init__.py)
_TRACKING = ("auto", "hf", "safetensors", "pt", "npcache", "mistral", "fastsafetensors")


def arguments_of(found: LaunchContext, fit: MemoryFit) -> dict[str, list[str]]:
    """Our arguments by vLLM's names of them; those that the user gave are left out."""
    request, method = found.request, found.packing.method if found.packing else ""
    gpu = found.place.gpu if found.place else None
    name = request.served_model_name or Path(os.path.abspath(found.folder)).name
    made = {
        "served_model_name": ["--served-model-name", name],
        "host": ["--host", request.host],
        "port": ["--port", str(request.port)],
    }
    made |= vllm_arguments(
        found.shape,
        method if found.given.text("load_format", "auto") in _TRACKING else "",
        found.version,
        dtype=found.dtype,
        context=fit.context,
        utilization=utilization(find_engine("vllm"), gpu) if gpu and gpu.vendor != "cpu" else None,
        tp=request.tensor_parallel_size,
    )
    if request.concurrency is not None:
        made["max_num_seqs"] = ["--max-num-seqs", str(request.concurrency)]
    if "uds" in found.given:
        made = {name: words for name, words in made.items() if name not in ("host", "port")}
    return {name: words for name, words in made.items() if name not in found.given}


def words_of(found: LaunchContext, fit: MemoryFit) -> tuple[list[str], dict[str, str]]:
    """The command, and the variables that it needs beside the environment.

    The key is among the variables, for other users of a machine can read a command line.
    """
    start = (found.vllm or PLAIN).start
    ours = [word for words in arguments_of(found, fit).values() for word in words]
    variables = {}
    if found.request.api_key:
        variables["VLLM_API_KEY"] = found.request.api_key
    if fit.cache_gib is not None:
        variables[CACHE_VARIABLE] = str(fit.cache_gib)
    return [*start, str(found.folder), *ours, *found.request.vllm_args], variables


def untracked(found: LaunchContext) -> str:
    """What to know where the user's own words keep vLLM from tracking tensors, "" else."""
    method = found.packing.method if found.packing else ""
    held = found.given.values.get("model_loader_extra_config")
    if (
        method not in OUR_METHODS
        or held is None
        or (isinstance(held, dict) and held.keys() & TRACK_WEIGHTS)
    ):
        return ""
    (key,) = TRACK_WEIGHTS
    return (
        "Your --model-loader-extra-config replaces ours, so vLLM will not say when a tensor is "
        f'missing. Add "{key}": true to it.'
    )
