"""Rules about types, kernels and loading of the weights.

Facts are vLLM 0.32's, by file name. Only the log names the kernel that runs in the end.
"""

from salient.plan.vllm.versions import AUTO_AWQ, BATCH_INVARIANT, CPU_W4A8, NEWEST

from .rule_context import BOTH, HALF, SINGLE, RuleContext, ServingRule

_SAFE_FORMATS = """
    auto hf safetensors fastsafetensors instanttensor runai_streamer runai_streamer_sharded
    sharded_state tensorizer mistral ipc_cache modelexpress dummy
"""
_SLOW_BACKENDS = ("conch", "triton", "exllama", "emulation", "torch")
_FAST_KERNELS = ("MacheteLinearKernel", "MarlinLinearKernel")


def _disabled_fast(context: RuleContext) -> str:
    """The fast kernels that are switched off."""
    names = [name.strip() for name in context.variable("VLLM_DISABLED_KERNELS").split(",")]
    return ", ".join(name for name in _FAST_KERNELS if name in names)


def _tracks_weights(context: RuleContext) -> bool:
    config = context.value("model_loader_extra_config")
    return isinstance(config, dict) and config.get("enable_weights_track") is True


def _rounds_activations(context: RuleContext) -> bool:
    bfloat16 = context.text("dtype") not in (*HALF, *SINGLE)
    unset = not context.variable("VLLM_CPU_INT4_W4A8")
    return context.vendor == "cpu" and context.awq and bfloat16 and unset


def _other_format(context: RuleContext) -> str:
    name = context.text("load_format")
    return "" if name in _SAFE_FORMATS.split() else name


RULES = (
    ServingRule(
        "float32-with-awq",
        "error",
        "AWQ kernels compute in 16-bit; float32 is refused",
        lambda c: c.awq and c.text("dtype") in SINGLE,
        why="vLLM stops: float32 is not among the types that the method supports.",
        change={"dtype": "auto"},
        engines=BOTH,
    ),
    ServingRule(
        "bfloat16-with-slow-awq",
        "error",
        "The slow AWQ kernel of these releases takes float16 only",
        lambda c: c.text("dtype") == "bfloat16" and c.text("quantization") == "awq",
        why="vLLM stops: bfloat16 is not supported for quantization method awq (issue 1823). "
        "awq_marlin takes both types.",
        keys=("dtype", "quantization"),
        change={"quantization": None},
        rank=9,
        until=AUTO_AWQ,
    ),
    ServingRule(
        "bfloat16-on-old-gpu",
        "error",
        "This GPU has no bfloat16",
        lambda c: 0 < c.capability < 80 and c.text("dtype") == "bfloat16",
        why="vLLM refuses bfloat16 below compute capability 8.0 (vllm/platforms/cuda.py).",
        change={"dtype": "half"},
        engines=BOTH,
    ),
    ServingRule(
        "cpu-float16",
        "warning",
        "On most CPUs float16 is slower than bfloat16",
        lambda c: c.vendor == "cpu" and c.text("dtype") in HALF,
        why="The 4-bit layers take both, but the 16-bit ones (lm_head) do not: on an AVX512-BF16 "
        "CPU PyTorch 2.13 multiplied 4096 x 4096 by 64 rows in 60 ms in float16, 6.5 ms in "
        "bfloat16. With AMX, float16 has a use: it keeps activations in 16-bit.",
        change={"dtype": "bfloat16"},
        certainty="likely",
    ),
    ServingRule(
        "linear-backend-slow",
        "slow",
        "linear_backend puts this kernel before Machete and Marlin",
        lambda c: c.may_be_nvidia and c.text("linear_backend") in _SLOW_BACKENDS,
        why="exllama cannot take AWQ's zeros at all; conch and triton are the fallbacks of vLLM's "
        "own order (kernels/linear/__init__.py).",
        change={"linear_backend": "auto"},
        certainty="likely",
    ),
    ServingRule(
        "batch-invariant",
        "slow",
        "VLLM_BATCH_INVARIANT leaves the Marlin kernels out",
        lambda c: c.on("VLLM_BATCH_INVARIANT") and c.may_be_nvidia,
        why="AWQ layers then run the slow kernel (auto_awq.py); with old releases' slow kernel 5x "
        "was measured. It also turns off faster attention and matrix kernels.",
        change={"VLLM_BATCH_INVARIANT": None},
        do=("use it only where equal answers at every batch size are needed",),
        rank=12,
        since=BATCH_INVARIANT,
    ),
    ServingRule(
        "kernels-disabled",
        "slow",
        "VLLM_DISABLED_KERNELS switches off {value}",
        _disabled_fast,
        why="The remaining kernels for AWQ (Conch, TritonW4A16) are slower.",
        change={"VLLM_DISABLED_KERNELS": None},
        rank=12,
    ),
    ServingRule(
        "triton-awq",
        "warning",
        "VLLM_USE_TRITON_AWQ takes the Triton kernel on the slow path",
        lambda c: c.on("VLLM_USE_TRITON_AWQ") and c.may_be_nvidia,
        why="It is meant for AMD GPUs. It changes nothing while Marlin runs; on the slow path it "
        "replaces the CUDA kernel, and takes groups of 32, 64, 128 only.",
        change={"VLLM_USE_TRITON_AWQ": None},
        certainty="likely",
    ),
    ServingRule(
        "marlin-input-type",
        "error",
        "VLLM_MARLIN_INPUT_DTYPE breaks AWQ checkpoints",
        lambda c: c.awq and bool(c.variable("VLLM_MARLIN_INPUT_DTYPE")),
        why="8-bit activations need weights without zeros; with AWQ vLLM stops: 'W8A8 is not "
        "supported by marlin kernel' (kernels/linear/mixed_precision/marlin.py).",
        change={"VLLM_MARLIN_INPUT_DTYPE": None},
        certainty="likely",
    ),
    ServingRule(
        "cpu-w4a8",
        "note",
        "With AMX and bfloat16, vLLM rounds activations to 8 bits by default",
        _rounds_activations,
        why="The default is 1, and the log does not mention it. It is faster, and no longer what "
        "was evaluated: 4-bit weights with 16-bit activations.",
        change={"VLLM_CPU_INT4_W4A8": "0"},
        do=("or leave it, and evaluate the served model",),
        certainty="possible",
        since=CPU_W4A8,
    ),
    ServingRule(
        "tensors-untracked",
        "note",
        "A missing tensor would go unnoticed",
        lambda c: c.awq and not _tracks_weights(c),
        why="0.32 loads a quantized checkpoint with a tensor missing without a warning, and "
        "answers nonsense (model_loader/default_loader.py).",
        keys=("model_loader_extra_config",),
        do=("add --model-loader-extra-config '{{\"enable_weights_track\": true}}'",),
        since=NEWEST,
    ),
    ServingRule(
        "dummy-weights",
        "error",
        "load_format: dummy serves random weights",
        lambda c: c.text("load_format") == "dummy",
        why="It is for profiling; every answer is noise.",
        change={"load_format": "auto"},
        rank=4,
        engines=BOTH,
    ),
    ServingRule(
        "load-format",
        "warning",
        "load_format: {value} does not look for safetensors, which AWQ checkpoints have",
        _other_format,
        why="pt and npcache read PyTorch's pickled files: slower, and code in them is run.",
        change={"load_format": "auto"},
        certainty="likely",
    ),
    ServingRule(
        "tensors-tracked",
        "good",
        "A missing tensor is reported at loading",
        _tracks_weights,
        keys=("model_loader_extra_config",),
    ),
)
