"""From a decision to the lines to type: make the checkpoint, serve it."""

import shlex

from salient.plan.vllm.arguments import OURS, served_dtype, vllm_arguments
from salient.shapes.model_shape import ModelShape

from .engine_profiles import find_engine
from .memory import Workload, utilization
from .ranking import Candidate

# --quantization for what vLLM rounds while loading. "fp8" for 16-bit weights is deprecated in 0.32.
_ONLINE = {"fp8": "fp8", "bitsandbytes": "bitsandbytes"}
_RENAMED = ((0, 32), {"fp8": "fp8_per_tensor"})


def commands(model: str, shape: ModelShape, chosen: Candidate, load: Workload) -> tuple[str, ...]:
    """The lines to type for `chosen`: what makes its weights, then what serves them."""
    method = chosen.form.method
    name = model.rstrip("/").rpartition("/")[2].removesuffix(".json") or "model"
    if method in OURS:
        scheme = chosen.form.title.rpartition(" ")[2]
        out = f"{name}-{scheme}"
        words = ["salient", "quantize", model, "--scheme", scheme, "-o", out]
        words += [] if method == "awq" else ["--format", method]
        return (_line(*words), *_served(out, shape, chosen, load))
    return _served(model, shape, chosen, load)


def _served(model: str, shape: ModelShape, chosen: Candidate, load: Workload) -> tuple[str, ...]:
    makers = {"vllm": _vllm, "llama.cpp": _llama_cpp}
    maker = makers.get(load.engine.name)
    if maker:
        return maker(model, shape, chosen, load)
    return (_line("salient", "generate", model, "-p", "Once upon a time"),)


def _vllm(model: str, shape: ModelShape, chosen: Candidate, load: Workload) -> tuple[str, ...]:
    """No --quantization for AWQ: named explicitly it forced the slow kernel for years."""
    share = utilization(find_engine("vllm"), load.gpu)
    arguments = vllm_arguments(
        shape,
        chosen.form.method,
        load.version,
        dtype=served_dtype(shape, chosen.route, load),
        context=load.context,
        utilization=share if load.gpu.vendor != "cpu" else None,
        tp=load.tp,
        kv_dtype=load.kv_dtype,
    )
    words = ["vllm", "serve", model, *(word for words in arguments.values() for word in words)]
    if chosen.form.method in _ONLINE:
        since, names = _RENAMED
        online = _ONLINE | (names if load.version >= since else {})
        words += ["--quantization", online[chosen.form.method]]
    return (_line(*words),)


def _llama_cpp(model: str, shape: ModelShape, chosen: Candidate, load: Workload) -> tuple[str, ...]:
    kind = chosen.form.name.upper() if chosen.form.gguf else "F16"
    plain, packed = "model-f16.gguf", f"model-{kind}.gguf"
    lines = [_line("python", "convert_hf_to_gguf.py", model, "--outfile", plain)]
    if chosen.form.gguf:
        lines.append(_line("llama-quantize", plain, packed, kind))
    tokens = load.context * max(1, load.sequences)  # llama.cpp shares -c among its slots
    serve = ["llama-server", "-m", packed if chosen.form.gguf else plain, "-c", str(tokens)]
    serve += ["-np", str(max(1, load.sequences)), "-ngl", "0" if load.gpu.vendor == "cpu" else "99"]
    if load.kv_dtype not in ("auto", "f16"):
        serve += ["-ctk", load.kv_dtype, "-ctv", load.kv_dtype]
    return (*lines, _line(*serve))


def _line(*words: str) -> str:
    return " ".join(map(shlex.quote, words))
