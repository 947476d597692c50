"""Conditions of rules about the model: quantization method, types, kernels, loading of weights.

The checkpoint's tensors are not read; only the log names the kernel that runs in the end.
"""

import difflib
import re

from salient.core.model_files import as_object
from salient.plan.declared_quantization import quantization_parts
from salient.plan.vllm.versions import AUTO_AWQ, AWQ_TRIES_ALL, TURING_MARLIN

from .rule_context import AWQ_METHODS, HALF, SINGLE, Condition, RuleContext
from .server_arguments import CHOICES, METHODS, SAFE_FORMATS

_QUANTIZED_NAME = re.compile(
    r"awq|gptq|int[48]|[48][-_]?bit|w[48]a|fp[48]|quant|gguf|bnb|autoround|compressed|nf4"
)
# methods by the names of checkpoints, and owners whose "AWQ" checkpoints are compressed-tensors
_IN_NAMES = {
    "gptq": r"gptq",
    "awq": r"awq",
    "compressed-tensors": r"quantized\.w\d+a\d+|[-_.]w4a16(?:$|[-_.])|fp8-dynamic",
    "bitsandbytes": r"bnb|[-_]nf4",
    "gguf": r"gguf",
}
_REPACKING_OWNERS = ("cpatonn", "cyankiwi")
_NAMED_METHODS = {*AWQ_METHODS, "gptq", "gptq_marlin", "auto_gptq", "compressed-tensors"}
_SLOW_BACKENDS = ("conch", "triton", "exllama", "emulation", "torch")
_FAST_KERNELS = ("MacheteLinearKernel", "MarlinLinearKernel")


def _forces_awq(context: RuleContext) -> bool:
    """Whether the argument is awq where a faster kernel could have run."""
    if context.text("quantization") != "awq" or not context.may_be_nvidia:
        return False
    least = 80 if context.version is not None and context.version < TURING_MARLIN else 75
    has_faster = not 0 < context.capability < least
    wrong = _base_model(context) or _mismatch(context) or _mismatch_by_name(context)
    return has_faster and not wrong and not _needed(context)


def _needed(context: RuleContext) -> bool:
    """Whether vLLM does not see the checkpoint's own quantization_config."""
    parts = [path for path, _ in quantization_parts(context.config or {})]
    return bool(parts) and not parts[0].startswith(("quant", "compr", "text_config."))


def _base_model(context: RuleContext) -> str:
    """The model's name, where the argument is AWQ and the model has no AWQ weights."""
    if context.text("quantization") not in AWQ_METHODS:
        return ""
    model = context.value("model")
    name = model.rstrip("/") if isinstance(model, str) else ""
    if context.config is not None:
        return "" if context.quantization else name or "the model"
    return "" if _QUANTIZED_NAME.search(name.lower()) else name


def _mismatch(context: RuleContext) -> str:
    """The checkpoint's method, where that of the argument cannot load it."""
    method, compatible = context.text("quantization"), METHODS.get(context.method)
    return context.method if method and compatible and method not in compatible else ""


def _mismatch_by_name(context: RuleContext) -> str:
    """The method in the model's name, where the argument is another and the config is unknown."""
    model, method = context.value("model"), context.text("quantization")
    if context.config is not None or not isinstance(model, str) or method not in _NAMED_METHODS:
        return ""
    owner, _, name = model.lower().rstrip("/").rpartition("/")
    repacked = owner in _REPACKING_OWNERS and "awq" in name
    named = next((of for of, pattern in _IN_NAMES.items() if re.search(pattern, name)), "")
    named = "compressed-tensors" if repacked else named
    compatible = METHODS.get(named, [named])
    return named if named and method not in compatible else ""


def _slow_on_rocm(context: RuleContext) -> bool:
    fast = context.version is not None and AWQ_TRIES_ALL <= context.version < AUTO_AWQ
    return context.vendor == "amd" and context.awq and not fast


def _needless(context: RuleContext) -> bool:
    awq = context.version is not None and context.text("quantization") in AWQ_METHODS
    return awq and context.may_be_nvidia and not _base_model(context)


def _unknown_method(context: RuleContext) -> str:
    """The known method with the most similar name."""
    method, known = context.value("quantization"), CHOICES["quantization"]
    if not isinstance(method, str) or method in known or method in METHODS["elsewhere"]:
        return ""
    near = difflib.get_close_matches(method.lower().replace("-", "_"), known, 1)
    return near[0] if near and near[0] != method else ""


def _disabled_fast(context: RuleContext) -> str:
    """The fast kernels that are switched off."""
    names = [name.strip() for name in context.variable("VLLM_DISABLED_KERNELS").split(",")]
    return ", ".join(name for name in _FAST_KERNELS if name in names)


def _tracks_weights(context: RuleContext) -> bool:
    config = as_object(context.value("model_loader_extra_config"))
    return config.get("enable_weights_track") is True


def _rounds_activations(context: RuleContext) -> bool:
    bfloat16 = context.text("dtype") not in (*HALF, *SINGLE)
    unset = not context.variable("VLLM_CPU_INT4_W4A8")
    return context.vendor == "cpu" and context.awq and bfloat16 and unset


CONDITIONS: dict[str, Condition] = {
    "base-model-named": lambda c: _base_model(c) if c.config is not None else "",
    "base-model-named-by-name": lambda c: _base_model(c) if c.config is None else "",
    "quantization-mismatch": _mismatch,
    "quantization-mismatch-by-name": _mismatch_by_name,
    "awq-forced-slow": _forces_awq,
    "awq-forced-slow-sglang": _forces_awq,
    "awq-named-needlessly": _needless,
    "awq-marlin-on-cpu": lambda c: c.vendor == "cpu" and c.text("quantization") in AWQ_METHODS[1:],
    "awq-marlin-on-old-gpu": lambda c: (
        0 < c.capability < 80 and c.text("quantization") == "awq_marlin"
    ),
    "capability-too-low": lambda c: c.vendor == "nvidia" and 0 < c.capability < 75 and c.awq,
    "awq-rocm": _slow_on_rocm,
    "quantization-unknown": _unknown_method,
    "model-not-quantized": lambda c: (
        bool(c.config) and not c.quantization and not c.is_set("quantization")
    ),
    "method-from-checkpoint": lambda c: c.awq and not c.is_set("quantization"),
    "float32-with-awq": lambda c: c.awq and c.text("dtype") in SINGLE,
    "bfloat16-with-slow-awq": lambda c: (
        (c.text("dtype"), c.text("quantization")) == ("bfloat16", "awq")
    ),
    "bfloat16-on-old-gpu": lambda c: 0 < c.capability < 80 and c.text("dtype") == "bfloat16",
    "cpu-float16": lambda c: c.vendor == "cpu" and c.text("dtype") in HALF,
    "linear-backend-slow": lambda c: c.may_be_nvidia and c.text("linear_backend") in _SLOW_BACKENDS,
    "batch-invariant": lambda c: c.on("VLLM_BATCH_INVARIANT") and c.may_be_nvidia,
    "kernels-disabled": _disabled_fast,
    "triton-awq": lambda c: c.on("VLLM_USE_TRITON_AWQ") and c.may_be_nvidia,
    "marlin-input-type": lambda c: c.awq and bool(c.variable("VLLM_MARLIN_INPUT_DTYPE")),
    "cpu-w4a8": _rounds_activations,
    "tensors-untracked": lambda c: c.awq and not _tracks_weights(c),
    "dummy-weights": lambda c: c.text("load_format") == "dummy",
    "load-format": lambda c: "" if c.text("load_format") in SAFE_FORMATS else c.text("load_format"),
    "tensors-tracked": _tracks_weights,
}
