"""Rules about types, kernels and loading of the weights.

Facts are vLLM 0.32's, by file name. Left out: which kernel runs in the end; the log tells.
"""

from salient.plan.vllm.versions import AUTO_AWQ, BATCH_INVARIANT, CPU_W4A8, NEWEST

from .rule_context import HALF, SINGLE, RuleContext, ServingRule

_SAFE_FORMATS = (
    "",
    "auto",
    "hf",
    "safetensors",
    "fastsafetensors",
    "instanttensor",
    "runai_streamer",
    "runai_streamer_sharded",
    "sharded_state",
    "tensorizer",
    "mistral",
    "ipc_cache",
    "modelexpress",
)
_SLOW_BACKENDS = ("conch", "triton", "exllama", "emulation", "torch")
_BOTH = ("vllm", "sglang")


def _disabled_fast(case: RuleContext) -> str:
    """Those of the fast kernels that are switched off."""
    names = case.variable("VLLM_DISABLED_KERNELS").split(",")
    fast = ("MacheteLinearKernel", "MarlinLinearKernel")
    return ", ".join(name for name in fast if name in (one.strip() for one in names))


def _tracked(case: RuleContext) -> bool:
    held = case.value("model_loader_extra_config")
    return isinstance(held, dict) and held.get("enable_weights_track") is True


RULES = (
    ServingRule(
        "float32-with-awq",
        "error",
        "AWQ kernels compute in 16 bits; float32 is refused",
        ("dtype",),
        lambda case: case.awq and case.text("dtype") in SINGLE,
        matters="vLLM stops: float32 is not among the types that the method supports.",
        change=(("dtype", "auto"),),
        engines=_BOTH,
    ),
    ServingRule(
        "bfloat16-with-slow-awq",
        "error",
        "The slow AWQ kernel of these releases takes float16 alone",
        ("dtype", "quantization"),
        lambda case: case.text("dtype") == "bfloat16" and case.text("quantization") == "awq",
        matters="vLLM stops: bfloat16 is not supported for quantization method awq (issue 1823). "
        "awq_marlin takes both types.",
        change=(("quantization", None),),
        rank=9,
        until=AUTO_AWQ,
    ),
    ServingRule(
        "bfloat16-on-old-gpu",
        "error",
        "This GPU has no bfloat16",
        ("dtype",),
        lambda case: 0 < case.capability < 80 and case.text("dtype") == "bfloat16",
        matters="vLLM refuses bfloat16 below compute capability 8.0 (vllm/platforms/cuda.py).",
        change=(("dtype", "half"),),
        engines=_BOTH,
    ),
    ServingRule(
        "cpu-float16",
        "warning",
        "On most CPUs float16 is slower than bfloat16",
        ("dtype",),
        lambda case: case.vendor == "cpu" and case.text("dtype") in HALF,
        "likely",
        "The 4-bit layers take both, but the 16-bit ones (lm_head) do not: on an AVX512-BF16 CPU "
        "PyTorch 2.13 multiplied 4096 x 4096 by 64 rows in 60 ms in float16, 6.5 ms in bfloat16. "
        "With AMX, float16 has a use: it keeps activations at 16 bits.",
        change=(("dtype", "bfloat16"),),
    ),
    ServingRule(
        "linear-backend-slow",
        "slow",
        "linear_backend puts this kernel before Machete and Marlin",
        ("linear_backend",),
        lambda case: case.may_be_nvidia and case.text("linear_backend") in _SLOW_BACKENDS,
        "likely",
        "exllama cannot take AWQ's zeros at all; conch and triton are the fallbacks of vLLM's own "
        "order (kernels/linear/__init__.py).",
        change=(("linear_backend", "auto"),),
    ),
    ServingRule(
        "batch-invariant",
        "slow",
        "VLLM_BATCH_INVARIANT leaves the Marlin kernels out",
        ("VLLM_BATCH_INVARIANT",),
        lambda case: case.on("VLLM_BATCH_INVARIANT") and case.may_be_nvidia,
        matters="AWQ layers then run the slow kernel (auto_awq.py); with old releases' slow kernel "
        "5x was measured. It also turns off faster attention and matrix kernels.",
        change=(("VLLM_BATCH_INVARIANT", None),),
        do=("keep it only where equal answers at every batch size are needed",),
        rank=12,
        since=BATCH_INVARIANT,
    ),
    ServingRule(
        "kernels-disabled",
        "slow",
        "VLLM_DISABLED_KERNELS switches off {0}",
        ("VLLM_DISABLED_KERNELS",),
        _disabled_fast,
        matters="What is left for AWQ (Conch, TritonW4A16) is slower.",
        change=(("VLLM_DISABLED_KERNELS", None),),
        rank=12,
    ),
    ServingRule(
        "triton-awq",
        "warning",
        "VLLM_USE_TRITON_AWQ takes the Triton kernel on the slow path",
        ("VLLM_USE_TRITON_AWQ",),
        lambda case: case.on("VLLM_USE_TRITON_AWQ") and case.may_be_nvidia,
        "likely",
        "It is meant for AMD GPUs. It changes nothing while Marlin runs; where the slow path is "
        "taken it replaces the CUDA kernel, and takes groups of 32, 64, 128 alone.",
        change=(("VLLM_USE_TRITON_AWQ", None),),
    ),
    ServingRule(
        "marlin-input-type",
        "error",
        "VLLM_MARLIN_INPUT_DTYPE breaks AWQ checkpoints",
        ("VLLM_MARLIN_INPUT_DTYPE",),
        lambda case: case.awq and bool(case.variable("VLLM_MARLIN_INPUT_DTYPE")),
        "likely",
        "8-bit activations need weights without zeros; with AWQ vLLM stops: 'W8A8 is not supported "
        "by marlin kernel' (kernels/linear/mixed_precision/marlin.py).",
        change=(("VLLM_MARLIN_INPUT_DTYPE", None),),
    ),
    ServingRule(
        "cpu-w4a8",
        "note",
        "With AMX and bfloat16, vLLM rounds activations to 8 bits unless told not to",
        ("VLLM_CPU_INT4_W4A8",),
        lambda case: (
            case.vendor == "cpu"
            and case.awq
            and case.text("dtype") not in (*HALF, *SINGLE)
            and not case.variable("VLLM_CPU_INT4_W4A8")
        ),
        "possible",
        "The default is 1, and nothing in the log tells. It is faster, and no longer what was "
        "evaluated: 4-bit weights with 16-bit activations.",
        change=(("VLLM_CPU_INT4_W4A8", "0"),),
        do=("or keep it, and evaluate the served model",),
        since=CPU_W4A8,
    ),
    ServingRule(
        "tensors-untracked",
        "note",
        "A missing tensor would go unnoticed",
        ("model_loader_extra_config",),
        lambda case: case.awq and not _tracked(case),
        matters="0.32 loads a quantized checkpoint with a tensor missing without a warning, and "
        "answers nonsense (model_loader/default_loader.py).",
        do=("add --model-loader-extra-config '{\"enable_weights_track\": true}'",),
        since=NEWEST,
    ),
    ServingRule(
        "dummy-weights",
        "error",
        "load_format: dummy serves random weights",
        ("load_format",),
        lambda case: case.text("load_format") == "dummy",
        matters="It is for profiling; every answer is noise.",
        change=(("load_format", "auto"),),
        rank=4,
        engines=_BOTH,
    ),
    ServingRule(
        "load-format",
        "warning",
        "load_format: {0} does not look for safetensors, as AWQ checkpoints have",
        ("load_format",),
        lambda case: (
            case.text("load_format")
            if case.text("load_format") not in (*_SAFE_FORMATS, "dummy")
            else ""
        ),
        "likely",
        "pt and npcache read PyTorch's pickled files: slower, and code in them is run.",
        change=(("load_format", "auto"),),
    ),
    ServingRule(
        "tensors-tracked",
        "good",
        "A missing tensor will be told at loading",
        ("model_loader_extra_config",),
        _tracked,
    ),
)
