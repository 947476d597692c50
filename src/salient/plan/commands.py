"""The commands that quantize a model and serve it, and vLLM's arguments."""

import json
import shlex

from salient.plan.vllm.types import Route
from salient.plan.vllm.versions import TRACKS_WEIGHTS, Version
from salient.shapes.model_shape import ModelShape

from .engine_kernels import activations
from .memory import Workload
from .ranking import Candidate
from .yarn import PARAMETERS_SINCE, override_keys

OUR_METHODS = ("awq", "compressed-tensors")  # what `salient quantize` writes
# vLLM loads a checkpoint that lacks a tensor silently unless it tracks them.
TRACK_WEIGHTS = {"enable_weights_track": True}
# --quantization for what vLLM quantizes while loading. "fp8" for 16-bit weights is deprecated in
# 0.32.
_ONLINE = {"fp8": "fp8", "bitsandbytes": "bitsandbytes", "mxfp4": "mxfp4"}
_ONLINE_0_32 = {**_ONLINE, "fp8": "fp8_per_tensor"}


def commands(model: str, shape: ModelShape, best: Candidate, load: Workload) -> tuple[str, ...]:
    """The lines to type for `best`: what makes its weights, then what serves them.

    Empty where its weights must be made of the 16-bit model, which this one is not, or by others.
    """
    method = best.form.method
    if best.form.ready:
        return _serve(model, shape, best, load)
    if shape.quantization or best.form.maker:
        return ()
    if method not in OUR_METHODS:
        return _serve(model, shape, best, load)
    scheme = best.form.title.rpartition(" ")[2]
    name = model.rstrip("/").rpartition("/")[2].removesuffix(".json") or "model"
    output = f"{name}-{scheme}"
    argv = ["salient", "quantize", model, "--scheme", scheme, "-o", output]
    if method != "awq":
        argv += ["--format", method]
    return (shlex.join(argv), *_serve(output, shape, best, load))


def _serve(model: str, shape: ModelShape, best: Candidate, load: Workload) -> tuple[str, ...]:
    if load.engine.name == "vllm":
        return (_vllm(model, shape, best, load),)
    if load.engine.name == "llama.cpp":
        return _llama_cpp(model, best, load)
    if load.engine.name == "mlx":
        return (shlex.join(["mlx_lm.server", "--model", model]),)
    if best.form.ready and shape.quantization and "salient" not in best.form.engines:
        return (shlex.join(["transformers", "serve", model]),)
    return (shlex.join(["salient", "generate", model, "-p", "Once upon a time"]),)


def _vllm(model: str, shape: ModelShape, best: Candidate, load: Workload) -> str:
    method = best.form.method
    arguments = vllm_arguments(
        shape,
        method,
        load.version,
        dtype=served_dtype(shape, best.route, load),
        context=load.context,
        utilization=load.share if load.gpu.vendor != "cpu" else None,
        tp=load.tp,
        kv_dtype=load.kv_dtype,
    )
    arguments |= knob_arguments(load)
    argv = ["vllm", "serve", model, *(word for argument in arguments.values() for word in argument)]
    if method in _ONLINE and not best.form.ready:
        online = _ONLINE_0_32 if load.version >= (0, 32) else _ONLINE
        argv += ["--quantization", online[method]]
    return shlex.join(argv)


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
    """The words of each argument by vLLM's name of it; None and defaults are left to vLLM.

    There is no --quantization for `method`: named explicitly, AWQ took the slow kernel for years.
    `shape` is None where the model could not be counted.
    """
    arguments: dict[str, list[str]] = {}
    if dtype is not None:
        arguments["dtype"] = ["--dtype", dtype]
    if context is not None:
        arguments["max_model_len"] = ["--max-model-len", str(context)]
    if utilization is not None:
        arguments["gpu_memory_utilization"] = ["--gpu-memory-utilization", f"{utilization:g}"]
    if tp > 1:
        arguments["tensor_parallel_size"] = ["--tensor-parallel-size", str(tp)]
    if kv_dtype != "auto":
        arguments["kv_cache_dtype"] = ["--kv-cache-dtype", kv_dtype]
    if shape is not None and not any(block.cache.state for block in shape.blocks):
        arguments["enable_prefix_caching"] = ["--enable-prefix-caching"]  # of states: experimental
    if method in OUR_METHODS and version >= TRACKS_WEIGHTS:
        config = json.dumps(TRACK_WEIGHTS)
        arguments["model_loader_extra_config"] = ["--model-loader-extra-config", config]
    return arguments


def knob_arguments(load: Workload) -> dict[str, list[str]]:
    """The words of the load's knobs, by vLLM's names of them."""
    arguments: dict[str, list[str]] = {}
    if load.max_num_seqs is not None:
        arguments["max_num_seqs"] = ["--max-num-seqs", str(load.max_num_seqs)]
    if load.max_num_batched_tokens is not None:
        tokens = str(load.max_num_batched_tokens)
        arguments["max_num_batched_tokens"] = ["--max-num-batched-tokens", tokens]
    if load.language_model_only:
        arguments["language_model_only"] = ["--language-model-only"]
    if load.eager:
        arguments["enforce_eager"] = ["--enforce-eager"]
    if load.rope is not None:
        keys = override_keys(load.rope, parameters=load.version >= PARAMETERS_SINCE)
        arguments["hf_overrides"] = ["--hf-overrides", json.dumps(keys)]
    return arguments


def served_dtype(shape: ModelShape, route: Route, load: Workload) -> str:
    """Activations: the model's own type, but float16 for the kernel that takes nothing else."""
    return "float16" if route.kernel == "awq_gemm" else activations(shape, load)


def _llama_cpp(model: str, best: Candidate, load: Workload) -> tuple[str, ...]:
    kind = best.form.name.upper() if best.form.gguf else best.form.method.upper()
    original = best.form.method if best.form.rules else "f16"
    converted, packed = f"model-{original}.gguf", f"model-{kind}.gguf"
    lines = [shlex.join(["python", "convert_hf_to_gguf.py", model, "--outfile", converted])]
    if best.form.rules and best.form.method == "gguf":
        lines, converted = [], model
    elif best.form.gguf:
        lines.append(shlex.join(["llama-quantize", converted, packed, kind]))
    slots = max(1, load.sequences)
    context = load.context * slots  # llama.cpp shares -c among its slots
    argv = ["llama-server", "-m", packed if best.form.gguf else converted, "-c", str(context)]
    argv += ["-np", str(slots), "-ngl", "0" if load.gpu.vendor == "cpu" else "99"]
    if load.kv_dtype not in ("auto", "f16"):
        argv += ["-ctk", load.kv_dtype, "-ctv", load.kv_dtype]
    if load.rope:
        argv += ["--rope-scaling", "yarn", "--rope-scale", f"{load.rope.factor:g}"]
        argv += ["--yarn-orig-ctx", str(load.rope.native)]
    return (*lines, shlex.join(argv))
