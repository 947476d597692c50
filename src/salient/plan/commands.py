"""The commands that quantize a model and serve it, and vLLM's arguments."""

import json
import shlex
from dataclasses import replace

from salient.core.skip_patterns import covering
from salient.plan.vllm.types import Route
from salient.plan.vllm.versions import TRACKS_WEIGHTS, Version
from salient.shapes.model_shape import ModelShape

from .engine_kernels import activations
from .engine_profiles import step_sizes
from .memory import Workload, most_states
from .model_source import ModelSource, model_source
from .other_lines import llama_cpp_lines, safetensors_line, sglang_line, transformers_lines
from .ranking import Candidate
from .yarn import PARAMETERS_SINCE, override_keys

LOCAL_HOST = "127.0.0.1"  # vLLM's default is every address, without a key
OUR_METHODS = ("awq", "compressed-tensors")  # what `salient quantize` writes
# vLLM loads a checkpoint that lacks a tensor silently unless it tracks them.
TRACK_WEIGHTS = {"enable_weights_track": True}
# --quantization for what vLLM quantizes while loading. "fp8" for 16-bit weights is deprecated in
# 0.32.
_ONLINE = {"fp8": "fp8", "bitsandbytes": "bitsandbytes", "mxfp4": "mxfp4"}
_ONLINE_0_32 = {**_ONLINE, "fp8": "fp8_per_tensor"}


def commands(model: str, shape: ModelShape, best: Candidate, load: Workload) -> tuple[str, ...]:
    """The lines to type for `best`: what makes its weights, then what serves them.

    model: a folder, a config.json or a Hub id, as plan was called with
    Empty where its weights must be made of the 16-bit model, which this one is not, or by others.
    """
    source, method = model_source(model), best.form.method
    if best.form.ready:
        return _serve(source, shape, best, load)
    if shape.quantization or best.form.maker:
        return ()
    if method not in OUR_METHODS:
        return _serve(source, shape, best, load)
    lines: list[str] = []
    argument = source.argument
    if source.pickled:
        argument = f"{source.name}-safetensors"
        lines.append(safetensors_line(source, argument))
    scheme = best.form.title.rpartition(" ")[2]
    output = f"{source.name}-{scheme}" + ("" if method == "awq" else "-ct")
    argv = ["salient", "quantize", argument, "--scheme", scheme, "-o", output]
    if method != "awq":
        argv += ["--format", method]
    unfit = dict.fromkeys(name.partition(":")[0] for name in best.budget.stored.unfit)
    others = {linear.name for linear in shape.linears} - unfit.keys()
    argv += [text for pattern in covering(unfit, others) for text in ("--skip", pattern)]
    checkpoint = ModelSource(output, output)
    return (*lines, shlex.join(argv), *_serve(checkpoint, shape, best, load))


def _serve(
    source: ModelSource, shape: ModelShape, best: Candidate, load: Workload
) -> tuple[str, ...]:
    engine = load.engine.name
    if engine == "vllm":
        return (_vllm(source, shape, best, load),)
    if engine == "sglang":
        return (sglang_line(source.served, best, load, served_dtype(shape, best.route, load)),)
    if engine == "llama.cpp":
        return llama_cpp_lines(source, best, load)
    if engine == "mlx":
        return (shlex.join(["mlx_lm.server", "--model", source.served]),)
    if engine == "transformers":
        return transformers_lines(source, best)
    return (shlex.join(["salient", "generate", source.argument, "-p", "Once upon a time"]),)


def _vllm(source: ModelSource, shape: ModelShape, best: Candidate, load: Workload) -> str:
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
    arguments |= knob_arguments(_with_states(shape, best, load))
    argv = ["vllm", "serve", source.served, "--host", LOCAL_HOST]
    if source.local:  # else clients have to name the path
        argv += ["--served-model-name", source.name]
    argv += [text for argument in arguments.values() for text in argument]
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


def _with_states(shape: ModelShape, best: Candidate, load: Workload) -> Workload:
    """The load with as many sequences as there are blocks of states, where vLLM would stop."""
    most = most_states(shape, load, best.budget)
    default = step_sizes(load.engine, load.gpu, load.prompt, load.sequences)[1]
    if most is None or load.max_num_seqs is not None or default <= most:
        return load
    return replace(load, max_num_seqs=max(load.sequences, most))


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
