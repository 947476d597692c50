"""Rules about the quantization method: which is asked for, and which the checkpoint has.

Facts are vLLM 0.32's, by file name. Left out: the checkpoint's own tensors.
"""

import difflib
import re

from salient.plan.vllm.versions import AUTO_AWQ, AWQ_ASKS, TURING_MARLIN

from .argument_table import CHOICES
from .rule_context import AWQ_METHODS, RuleContext, ServingRule

_QUANTIZED_NAME = re.compile(
    r"awq|gptq|int[48]|[48][-_]?bit|w[48]a|fp[48]|quant|gguf|bnb|autoround|compressed|nf4"
)
_AWQ_TAKEN_BY = (*AWQ_METHODS, "moe_wna16", "humming", "inc")
_FAMILIES = {
    "awq": _AWQ_TAKEN_BY,
    "gptq": ("gptq", "gptq_marlin", "auto_gptq", "marlin", "moe_wna16", "humming", "inc"),
    "compressed-tensors": ("compressed-tensors",),
}
# methods of other releases and of SGLang, which are no misspelling
_ELSEWHERE = """
    aqlm auto-round auto_round bitblas bitsandbytes deepspeedfp gguf gptq_bitblas gptq_marlin_24
    hqq ipex nvfp4 petit_nvfp4 ptpc_fp8 rtn tpu_int8 w8a8_fp8 w8a8_int8
"""
_BOTH = ("vllm", "sglang")


def _forced(case: RuleContext) -> bool:
    """Asked for by name where the faster kernel could have run."""
    if case.text("quantization") != "awq" or not case.may_be_nvidia:
        return False
    least = 80 if case.version is not None and case.version < TURING_MARLIN else 75
    has_faster = not 0 < case.capability < least
    return has_faster and not _named_base(case) and not _mismatch(case)


def _named_base(case: RuleContext) -> str:
    """The model's name, where AWQ is asked of a model that has no AWQ weights."""
    if case.text("quantization") not in AWQ_METHODS:
        return ""
    model = case.value("model")
    name = model.rstrip("/") if isinstance(model, str) else ""
    if case.config is not None:
        return (name or "the model") if not case.quantization else ""
    return name if not _QUANTIZED_NAME.search(name.lower()) else ""


def _base_by_config(case: RuleContext) -> str:
    return _named_base(case) if case.config is not None else ""


def _base_by_name(case: RuleContext) -> str:
    return _named_base(case) if case.config is None else ""


def _mismatch(case: RuleContext) -> str:
    """The checkpoint's method, where the one asked for cannot load it."""
    asked = case.text("quantization")
    taken = _FAMILIES.get(case.method)
    return case.method if asked and taken and asked not in taken else ""


def _slow_on_rocm(case: RuleContext) -> bool:
    asks = case.version is not None and AWQ_ASKS <= case.version < AUTO_AWQ
    return case.vendor == "amd" and case.awq and not asks


def _unquantized(case: RuleContext) -> bool:
    return bool(case.config) and not case.quantization and not case.given("quantization")


def _unknown_method(case: RuleContext) -> str:
    """The known method that is spelled most like the one asked for."""
    asked = case.value("quantization")
    if not isinstance(asked, str) or asked in (*CHOICES["quantization"], *_ELSEWHERE.split()):
        return ""
    near = difflib.get_close_matches(asked.lower().replace("-", "_"), CHOICES["quantization"], 1)
    return near[0] if near and near[0] != asked else ""


RULES = (
    ServingRule(
        "base-model-named",
        "error",
        "{0} has no quantization_config: these are not AWQ weights",
        ("model", "quantization"),
        _base_by_config,
        matters="vLLM stops: it finds no config file of the method, or no tensor named .qweight.",
        change=(("model", "{0}-AWQ"),),
        do=(
            "if its publisher has no such checkpoint, make it: salient quantize {0}",
            "or serve the 16-bit model: leave quantization out",
        ),
        rank=5,
        engines=_BOTH,
    ),
    ServingRule(
        "base-model-named",
        "error",
        "{0} looks like a 16-bit model, but quantization asks for AWQ weights",
        ("model", "quantization"),
        _base_by_name,
        "likely",
        "If its config.json has no quantization_config, vLLM stops: no config file of the method.",
        change=(("model", "{0}-AWQ"),),
        do=(
            "if its publisher has no such checkpoint, make it: salient quantize {0}",
            "or serve the 16-bit model: leave quantization out",
        ),
        rank=5,
        engines=_BOTH,
    ),
    ServingRule(
        "quantization-mismatch",
        "error",
        "The checkpoint is quantized with {0}; another method is asked for",
        ("quantization",),
        _mismatch,
        matters="vLLM stops: the method in the model's config does not match the argument "
        "(vllm/config/model.py).",
        change=(("quantization", None),),
        rank=6,
        engines=_BOTH,
    ),
    ServingRule(
        "awq-forced-slow",
        "slow",
        "quantization: awq forces the slow AWQ kernel",
        ("quantization",),
        _forced,
        matters="vLLM before 0.24 obeys it and leaves the Marlin kernel out: 23 against 123 "
        "tokens/s in vLLM issue 21376, 5x slower. Later ones ignore it on GPUs. Without it every "
        "release chooses the fastest kernel.",
        change=(("quantization", None),),
        rank=10,
        until=AUTO_AWQ,
    ),
    ServingRule(
        "awq-forced-slow",
        "slow",
        "quantization awq forces the slow AWQ kernel",
        ("quantization",),
        lambda case: case.settings.engine == "sglang" and _forced(case),
        "likely",
        "SGLang obeys it and leaves the Marlin kernel out, with the words of vLLM's own warning "
        "('forcing awq'); in vLLM that is 5x slower (issue 21376).",
        change=(("quantization", None),),
        rank=10,
        engines=("sglang",),
    ),
    ServingRule(
        "awq-named-needlessly",
        "note",
        "The AWQ method is named; vLLM chooses it from the checkpoint anyway",
        ("quantization",),
        lambda case: (
            case.version is not None
            and case.text("quantization") in AWQ_METHODS
            and case.vendor in ("", "nvidia")
            and not _named_base(case)
        ),
        matters="Harmless on a GPU: all of awq, awq_marlin and auto_awq load the same way "
        "(auto_awq.py). Before 0.24 'awq' was slow, and a CPU refuses the other spellings.",
        change=(("quantization", None),),
        since=AUTO_AWQ,
    ),
    ServingRule(
        "awq-marlin-on-cpu",
        "error",
        "On a CPU only 'awq' names the method; this one is refused",
        ("quantization",),
        lambda case: case.vendor == "cpu" and case.text("quantization") in AWQ_METHODS[1:],
        matters="vLLM stops: the method in the model config (awq) does not match the argument.",
        change=(("quantization", None),),
        rank=8,
        since=AUTO_AWQ,
    ),
    ServingRule(
        "awq-marlin-on-old-gpu",
        "error",
        "awq_marlin needs compute capability 8.0 in these releases",
        ("quantization",),
        lambda case: 0 < case.capability < 80 and case.text("quantization") == "awq_marlin",
        "likely",
        "A T4 (7.5) has only the slow kernel there; from 0.14 on Marlin runs from 7.5 on.",
        change=(("quantization", None),),
        do=("upgrade vLLM to 0.14 or newer for the faster kernel",),
        until=TURING_MARLIN,
    ),
    ServingRule(
        "capability-too-low",
        "error",
        "AWQ needs compute capability 7.5; this GPU has less",
        ("model",),
        lambda case: case.vendor == "nvidia" and 0 < case.capability < 75 and case.awq,
        matters="vLLM refuses AWQ and compressed-tensors below 7.5 (V100 is 7.0).",
        do=("run it with llama.cpp or Transformers there, or take a T4 or newer",),
        rank=3,
    ),
    ServingRule(
        "awq-rocm",
        "slow",
        "On AMD GPUs vLLM runs AWQ checkpoints with its slow kernel",
        ("model",),
        _slow_on_rocm,
        "likely",
        "From 0.24 on AWQ goes to the Triton fallback on ROCm without a word, as it did before "
        "0.19. The kernels between were 5.3 to 8.1x faster per token on gfx1151 (vLLM pull request "
        "55098), and compressed-tensors checkpoints reach them.",
        do=(
            "make the same weights in the other format: "
            "salient quantize MODEL --format compressed-tensors",
        ),
        rank=8,
    ),
    ServingRule(
        "quantization-unknown",
        "error",
        "There is no quantization method of this name; the nearest is '{0}'",
        ("quantization",),
        _unknown_method,
        "likely",
        "vLLM stops and lists the methods that it knows.",
        change=(("quantization", "{0}"),),
    ),
    ServingRule(
        "model-not-quantized",
        "note",
        "The model is served at 16 bits",
        ("model",),
        _unquantized,
        matters="Its weights take nearly 4x the memory of a 4-bit checkpoint.",
        do=("salient quantize MODEL",),
    ),
    ServingRule(
        "method-from-checkpoint",
        "good",
        "The method is left to the checkpoint, so the fastest kernel can be chosen",
        ("model",),
        lambda case: case.awq and not case.given("quantization"),
    ),
)
