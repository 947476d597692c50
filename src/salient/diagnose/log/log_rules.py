"""What follows from the facts of a log together, where no single line says it.

Rules that conclude from a line's absence ask for a log that holds the engine's first line and the
end of loading.
"""

from collections.abc import Set

from salient.diagnose.finding import Evidence, Finding
from salient.plan.vllm.versions import AUTO_AWQ, CPU_W4A8

from .log_facts import LogFacts
from .traffic import TRAFFIC_RULES, Rule

FASTER = "Marlin was measured up to 2.59 times faster (vLLM pull request #6654)."
# Ids of signatures that already say that the slow kernel runs, and why.
SLOW_TOLD = {
    "awq-forced-slow",
    "awq-unoptimized",
    "awq-layer-fallback",
    "awq-moe-fallback",
    "awq-rocm-triton",
}


def slow_awq(facts: LogFacts, told: Set[str]) -> Finding | None:
    """AWQ on a GPU without a line that names a fast kernel: see auto_awq.py of vLLM 0.32."""
    if not (facts.awq and facts.began and facts.loaded and facts.device in ("gpu", "rocm")):
        return None
    if facts.kernels or told & (SLOW_TOLD | {"kernel-awq-marlin"}):
        return None
    if facts.device == "rocm":
        return _slow_on_rocm(facts)
    if facts.quantization == "awq" and facts.release < AUTO_AWQ:
        return Finding(
            "awq-slow-kernel",
            "slow",
            "quantization=awq: the weights run through the old AWQ kernel, not through Marlin",
            certainty="likely",
            matters=FASTER,
            do=(
                "Drop `--quantization awq` from the command, or upgrade vLLM.",
                "Then look for `awq_marlin` in the engine's first line.",
            ),
            evidence=(_engine_line(facts),),
            rank=6,
        )
    if facts.quantization != "auto_awq":
        return None
    return Finding(
        "awq-slow-kernel",
        "slow",
        "No line says `Using ... for AutoAWQMarlinLinearMethod`: the slow AWQ kernel runs",
        certainty="likely",
        matters=f"{FASTER} The log gives no reason; these are the possible ones.",
        do=(
            "VLLM_BATCH_INVARIANT=1 is set: unset it.",
            "zero_point is false in config.json: quantize with zeros, or write compressed-tensors.",
            "group_size is none of 32, 64, 128: quantize again, salient quantize SOURCE",
            "The GPU's compute capability is below 7.5: serve a GGUF with llama.cpp.",
            f"Look at what the checkpoint says: salient doctor {facts.words()['model']}",
        ),
        evidence=(_engine_line(facts),),
        rank=6,
    )


def _slow_on_rocm(facts: LogFacts) -> Finding:
    return Finding(
        "awq-rocm",
        "slow",
        "AWQ on ROCm runs through a plain Triton kernel; the log does not say so",
        certainty="likely",
        matters="Choosing among the other kernels made a token 5.3 to 8.1 times faster on gfx1151 "
        "(vLLM pull request #55098).",
        do=(
            "Write the checkpoint as compressed-tensors, whose kernels are chosen on ROCm too:",
            "salient quantize SOURCE --format compressed-tensors",
        ),
        evidence=(_engine_line(facts),),
        rank=6,
    )


def slow_awq_bfloat16(facts: LogFacts, told: Set[str]) -> Finding | None:
    """CUDA's awq_gemm reads float16 (csrc/quantization/awq/gemm_kernels.cu)."""
    slow = told & (SLOW_TOLD | {"awq-slow-kernel"})
    if facts.dtype != "bfloat16" or facts.device != "gpu" or not slow:
        return None
    return Finding(
        "awq-slow-bfloat16",
        "warning",
        "The slow AWQ kernel takes float16 only, and the model runs in bfloat16",
        certainty="possible",
        matters="Expect `expected scalar type Half but found BFloat16` at the first request.",
        do=("Serve with --dtype float16, or get Marlin to run.",),
        evidence=(Evidence("engine line", "dtype=torch.bfloat16"),),
    )


def other_kernel(facts: LogFacts, told: Set[str]) -> Finding | None:
    """Kernels that vLLM takes on NVIDIA only where Machete, Marlin and Humming refuse."""
    slower = [name for name in facts.kernels if name.startswith(("Conch", "Exllama", "Triton"))]
    if not slower or facts.device != "gpu":
        return None
    return Finding(
        "kernel-other",
        "warning",
        f"Marlin does not take the 4-bit weights: {slower[0]} does",
        matters="vLLM asks Machete, Marlin and Humming first.",
        do=(
            "Look whether VLLM_DISABLED_KERNELS or --linear-backend keeps Marlin away.",
            "Marlin wants groups of 32, 64 or 128 that divide each layer's inputs per GPU.",
        ),
        evidence=(Evidence("kernel line", f"Using {slower[0]}"),),
        rank=30,
    )


def eager(facts: LogFacts, told: Set[str]) -> Finding | None:
    if not facts.eager or facts.device not in ("gpu", "rocm"):
        return None
    return Finding(
        "eager",
        "slow",
        "--enforce-eager: CUDA graphs and torch.compile are off",
        matters="Small batches wait for the CPU to launch each kernel; 4-bit decoding most of all.",
        do=("Drop --enforce-eager; it takes some memory and a longer start.",),
        evidence=(Evidence("engine line", "enforce_eager=True"),),
        rank=20,
    )


def untracked(facts: LogFacts, told: Set[str]) -> Finding | None:
    """A missing qzeros loads without a word (model_loader/default_loader.py of vLLM 0.32)."""
    if not (facts.awq and facts.loaded) or facts.tracked or facts.engine != "vllm":
        return None
    return Finding(
        "tensors-untracked",
        "note",
        "vLLM does not say when a quantized checkpoint lacks tensors: it answers wrongly then",
        do=(
            "Serve with --model-loader-extra-config '{\"enable_weights_track\": true}'",
            f"Look at the files: salient doctor {facts.words()['model']}",
        ),
        evidence=(_engine_line(facts),),
        rank=80,
    )


def cpu_activations(facts: LogFacts, told: Set[str]) -> Finding | None:
    """model_executor/kernels/linear/mixed_precision/cpu.py of vLLM 0.32, no line says it."""
    wide = facts.dtype == "bfloat16" and facts.release >= CPU_W4A8
    if facts.device != "cpu" or not facts.awq or not wide:
        return None
    return Finding(
        "cpu-w4a8",
        "note",
        "On a CPU with AMX, bfloat16 means 8-bit activations, and no line says so",
        certainty="possible",
        do=(
            "grep -o amx_int8 /proc/cpuinfo | head -1 says whether the CPU has AMX.",
            "For 16-bit activations: VLLM_CPU_INT4_W4A8=0, or --dtype float16",
        ),
        evidence=(Evidence("engine line", "dtype=torch.bfloat16, device_config=cpu"),),
        rank=75,
    )


def cpu_float16(facts: LogFacts, told: Set[str]) -> Finding | None:
    if facts.device != "cpu" or facts.dtype != "float16" or not facts.loaded:
        return None
    return Finding(
        "cpu-float16",
        "note",
        "float16 on a CPU: products of many tokens are faster in bfloat16 where the CPU has it",
        certainty="possible",
        do=("grep -o avx512_bf16 /proc/cpuinfo | head -1; if it is there: --dtype bfloat16",),
        evidence=(Evidence("engine line", "dtype=torch.float16, device_config=cpu"),),
        rank=75,
    )


def unknown_error(facts: LogFacts, told: Set[str]) -> Finding | None:
    """An exception that no signature knows, in a log of an engine that did not come to serve."""
    if not facts.exception or facts.complete or facts.requests or facts.traffic.samples:
        return None
    return Finding(
        "unknown-error",
        "error",
        f"It stopped with an error that is not known here: {facts.exception[:200]}",
        certainty="likely",
        do=("Search for its words at https://github.com/vllm-project/vllm/issues",),
        evidence=(Evidence("traceback", facts.exception[:300]),),
        rank=70,
    )


def _engine_line(facts: LogFacts) -> Evidence:
    words = f"quantization={facts.quantization}, dtype={facts.dtype}, device={facts.device}"
    return Evidence("engine line", words)


RULES: tuple[Rule, ...] = (
    slow_awq,
    slow_awq_bfloat16,
    other_kernel,
    eager,
    untracked,
    cpu_activations,
    cpu_float16,
    *TRAFFIC_RULES,
)


def judged(facts: LogFacts, told: Set[str]) -> list[Finding]:
    """The findings of all rules. told: ids of the signatures that were found."""
    found: list[Finding] = []
    for rule in RULES:
        known = told | {finding.id for finding in found}
        if finding := rule(facts, known):
            found.append(finding)
    return found
