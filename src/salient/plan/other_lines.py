"""The lines that serve with SGLang, llama.cpp, MLX and Transformers."""

import json
import shlex

from .memory import Workload
from .model_source import ModelSource
from .ranking import Candidate
from .yarn import override_keys

SGLANG = ("python", "-m", "sglang.launch_server")


def sglang_line(model: str, best: Candidate, load: Workload, dtype: str) -> str:
    """SGLang's server: its own default address, 127.0.0.1, and its own share of the memory."""
    argv = [*SGLANG, "--model-path", model, "--dtype", dtype, "--context-length", str(load.context)]
    if load.tp > 1:
        argv += ["--tp-size", str(load.tp)]
    if load.kv_dtype != "auto":
        argv += ["--kv-cache-dtype", "fp8_e4m3" if load.kv_dtype == "fp8" else load.kv_dtype]
    if load.max_num_seqs is not None:
        argv += ["--max-running-requests", str(load.max_num_seqs)]
    if load.max_num_batched_tokens is not None:
        argv += ["--chunked-prefill-size", str(load.max_num_batched_tokens)]
    if load.eager:
        argv += ["--disable-cuda-graph"]
    if load.rope is not None:
        argv += ["--json-model-override-args", json.dumps(override_keys(load.rope))]
    if not best.form.ready and best.form.method in ("fp8", "bitsandbytes"):
        argv += ["--quantization", best.form.method]
        argv += ["--load-format", "bitsandbytes"] * (best.form.method == "bitsandbytes")
    return shlex.join(argv)


def llama_cpp_lines(source: ModelSource, best: Candidate, load: Workload) -> tuple[str, ...]:
    """llama.cpp's conversion, its quantization and its server."""
    lines: list[str] = []
    packed = source.argument
    if not (best.form.rules and best.form.method == "gguf"):
        kind = best.form.name.upper() if best.form.gguf else best.form.method.upper()
        original = best.form.method.upper() if best.form.rules else "F16"
        converted = packed = f"{source.name}-{original}.gguf"
        folder = source.served
        if not source.local and "/" in folder:
            lines.append(shlex.join(["hf", "download", folder, "--local-dir", source.name]))
            folder = source.name
        argv = ["python", "convert_hf_to_gguf.py", folder, "--outfile", converted]
        lines.append(shlex.join([*argv, *(() if best.form.rules else ("--outtype", "f16"))]))
        if best.form.gguf:
            packed = f"{source.name}-{kind}.gguf"
            lines.append(shlex.join(["llama-quantize", converted, packed, kind]))
    slots = max(1, load.sequences)
    context = load.context * slots  # llama.cpp shares -c among its slots
    argv = ["llama-server", "-m", packed, "-c", str(context), "-np", str(slots)]
    argv += ["-ngl", "0" if load.gpu.vendor == "cpu" else "99"]
    if load.kv_dtype not in ("auto", "f16"):  # a quantized cache of values needs flash attention
        argv += ["-fa", "on", "-ctk", load.kv_dtype, "-ctv", load.kv_dtype]
    if load.rope is not None:
        argv += ["--rope-scaling", "yarn", "--rope-scale", f"{load.rope.factor:g}"]
        argv += ["--yarn-orig-ctx", str(load.rope.native)]
    return (*lines, shlex.join(argv))


def transformers_lines(source: ModelSource, best: Candidate) -> tuple[str, ...]:
    """Transformers' own server, where it loads the format; else nothing."""
    form = best.form
    if form.method == "bitsandbytes" and not form.ready:
        return (shlex.join(["transformers", "serve", source.served, "--quantization", "bnb-4bit"]),)
    if form.method == "fp8" and not form.ready:
        output = f"{source.name}-FP8"
        code = _rewrite(
            source.served, output, "quantization_config=Q()", "FineGrainedFP8Config as Q"
        )
        return (code, shlex.join(["transformers", "serve", output]))
    return (shlex.join(["transformers", "serve", source.served]),)


def safetensors_line(source: ModelSource, output: str) -> str:
    """The line that loads a model of pickles and writes it as safetensors."""
    return _rewrite(source.argument, output)


def _rewrite(model: str, output: str, option: str = "", imported: str = "") -> str:
    names = ", ".join(filter(None, ("AutoModelForCausalLM as M", "AutoTokenizer as T", imported)))
    source, target = json.dumps(model), json.dumps(output)
    loaded = ", ".join(filter(None, (source, option)))
    return shlex.join(
        [
            "python",
            "-c",
            f"from transformers import {names}; "
            f"M.from_pretrained({loaded}).save_pretrained({target}); "
            f"T.from_pretrained({source}).save_pretrained({target})",
        ]
    )
