"""Rules about the quantization method: the argument, and the checkpoint's own.

Facts are vLLM 0.32's, by file name. The checkpoint's tensors are not read.
"""

import difflib
import re

from salient.plan.vllm.versions import AUTO_AWQ, AWQ_TRIES_ALL, TURING_MARLIN

from .rule_context import AWQ_METHODS, BOTH, RuleContext, ServingRule
from .server_arguments import CHOICES

_QUANTIZED_NAME = re.compile(
    r"awq|gptq|int[48]|[48][-_]?bit|w[48]a|fp[48]|quant|gguf|bnb|autoround|compressed|nf4"
)
# Methods that load a checkpoint of each kind.
_COMPATIBLE = {
    "awq": (*AWQ_METHODS, "moe_wna16", "humming", "inc"),
    "gptq": ("gptq", "gptq_marlin", "auto_gptq", "marlin", "moe_wna16", "humming", "inc"),
    "compressed-tensors": ("compressed-tensors",),
}
# methods of other releases and of SGLang, which are no misspelling
_ELSEWHERE = """
    aqlm auto-round auto_round bitblas bitsandbytes deepspeedfp gguf gptq_bitblas gptq_marlin_24
    hqq ipex nvfp4 petit_nvfp4 ptpc_fp8 rtn tpu_int8 w8a8_fp8 w8a8_int8
"""
_MAKE_AWQ = (
    "if its publisher has no such checkpoint, make it: salient quantize {value}",
    "or serve the 16-bit model: leave quantization out",
)


def _forces_awq(context: RuleContext) -> bool:
    """Whether the argument is awq where a faster kernel could have run."""
    if context.text("quantization") != "awq" or not context.may_be_nvidia:
        return False
    least = 80 if context.version is not None and context.version < TURING_MARLIN else 75
    has_faster = not 0 < context.capability < least
    return has_faster and not _base_model(context) and not _mismatch(context)


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
    method, compatible = context.text("quantization"), _COMPATIBLE.get(context.method)
    return context.method if method and compatible and method not in compatible else ""


def _slow_on_rocm(context: RuleContext) -> bool:
    fast = context.version is not None and AWQ_TRIES_ALL <= context.version < AUTO_AWQ
    return context.vendor == "amd" and context.awq and not fast


def _needless(context: RuleContext) -> bool:
    awq = context.version is not None and context.text("quantization") in AWQ_METHODS
    return awq and context.may_be_nvidia and not _base_model(context)


def _unquantized(context: RuleContext) -> bool:
    return bool(context.config) and not context.quantization and not context.is_set("quantization")


def _unknown_method(context: RuleContext) -> str:
    """The known method with the most similar name."""
    method, known = context.value("quantization"), CHOICES["quantization"]
    if not isinstance(method, str) or method in known or method in _ELSEWHERE.split():
        return ""
    near = difflib.get_close_matches(method.lower().replace("-", "_"), known, 1)
    return near[0] if near and near[0] != method else ""


RULES = (
    ServingRule(
        "base-model-named",
        "error",
        "{value} has no quantization_config: these are not AWQ weights",
        lambda c: _base_model(c) if c.config is not None else "",
        why="vLLM stops: it finds no config file of the method, or no tensor named .qweight.",
        keys=("model", "quantization"),
        change={"model": "{value}-AWQ"},
        do=_MAKE_AWQ,
        rank=5,
        engines=BOTH,
    ),
    ServingRule(
        "base-model-named",
        "error",
        "{value} looks like a 16-bit model, but quantization is AWQ",
        lambda c: _base_model(c) if c.config is None else "",
        why="If its config.json has no quantization_config, vLLM stops: no config file of the "
        "method.",
        keys=("model", "quantization"),
        change={"model": "{value}-AWQ"},
        do=_MAKE_AWQ,
        certainty="likely",
        rank=5,
        engines=BOTH,
    ),
    ServingRule(
        "quantization-mismatch",
        "error",
        "The checkpoint is quantized with {value}; the argument names another method",
        _mismatch,
        why="vLLM stops: the method in the model's config does not match the argument "
        "(vllm/config/model.py).",
        change={"quantization": None},
        rank=6,
        engines=BOTH,
    ),
    ServingRule(
        "awq-forced-slow",
        "slow",
        "quantization: awq forces the slow AWQ kernel",
        _forces_awq,
        why="vLLM before 0.24 obeys it and leaves the Marlin kernel out: 23 against 123 tokens/s "
        "in vLLM issue 21376, 5x slower. Later ones ignore it on GPUs. Without it every release "
        "chooses the fastest kernel.",
        change={"quantization": None},
        rank=10,
        until=AUTO_AWQ,
    ),
    ServingRule(
        "awq-forced-slow",
        "slow",
        "quantization awq forces the slow AWQ kernel",
        _forces_awq,
        why="SGLang obeys it and leaves the Marlin kernel out, with vLLM's own warning ('forcing "
        "awq'); in vLLM that is 5x slower (issue 21376).",
        change={"quantization": None},
        certainty="likely",
        rank=10,
        engines=("sglang",),
    ),
    ServingRule(
        "awq-named-needlessly",
        "note",
        "The AWQ method is named; vLLM chooses it from the checkpoint anyway",
        _needless,
        why="Harmless on a GPU: all of awq, awq_marlin and auto_awq load the same way "
        "(auto_awq.py). Before 0.24 'awq' was slow, and a CPU refuses the other spellings.",
        change={"quantization": None},
        since=AUTO_AWQ,
    ),
    ServingRule(
        "awq-marlin-on-cpu",
        "error",
        "On a CPU only 'awq' names the method; this one is refused",
        lambda c: c.vendor == "cpu" and c.text("quantization") in AWQ_METHODS[1:],
        why="vLLM stops: the method in the model config (awq) does not match the argument.",
        change={"quantization": None},
        rank=8,
        since=AUTO_AWQ,
    ),
    ServingRule(
        "awq-marlin-on-old-gpu",
        "error",
        "awq_marlin needs compute capability 8.0 in these releases",
        lambda c: 0 < c.capability < 80 and c.text("quantization") == "awq_marlin",
        why="A T4 (7.5) has only the slow kernel there; from 0.14 on Marlin runs from 7.5 on.",
        change={"quantization": None},
        do=("upgrade vLLM to 0.14 or newer for the faster kernel",),
        certainty="likely",
        until=TURING_MARLIN,
    ),
    ServingRule(
        "capability-too-low",
        "error",
        "AWQ needs compute capability 7.5; this GPU has less",
        lambda c: c.vendor == "nvidia" and 0 < c.capability < 75 and c.awq,
        why="vLLM refuses AWQ and compressed-tensors below 7.5 (V100 is 7.0).",
        keys=("model",),
        do=("run it with llama.cpp or Transformers there, or take a T4 or newer",),
        rank=3,
    ),
    ServingRule(
        "awq-rocm",
        "slow",
        "On AMD GPUs vLLM runs AWQ checkpoints with its slow kernel",
        _slow_on_rocm,
        why="From 0.24 on AWQ goes to the Triton fallback on ROCm without a warning, as it did "
        "before 0.19. The kernels between were 5.3 to 8.1x faster per token on gfx1151 (vLLM pull "
        "request 55098), and compressed-tensors checkpoints reach them.",
        keys=("model",),
        do=(
            "make the same weights in the other format: "
            "salient quantize MODEL --format compressed-tensors",
        ),
        certainty="likely",
        rank=8,
    ),
    ServingRule(
        "quantization-unknown",
        "error",
        "There is no quantization method of this name; the nearest is '{value}'",
        _unknown_method,
        why="vLLM stops and lists the methods that it knows.",
        change={"quantization": "{value}"},
        certainty="likely",
    ),
    ServingRule(
        "model-not-quantized",
        "note",
        "The model is served in 16-bit",
        _unquantized,
        why="Its weights take nearly 4x the memory of a 4-bit checkpoint.",
        keys=("model",),
        do=("salient quantize MODEL",),
    ),
    ServingRule(
        "method-from-checkpoint",
        "good",
        "The checkpoint determines the method, so the fastest kernel can be chosen",
        lambda c: c.awq and not c.is_set("quantization"),
        keys=("model",),
    ),
)
