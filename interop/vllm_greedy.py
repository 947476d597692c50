"""Greedy tokens of vLLM, their log-probabilities, and the selected kernel.

Runs in the environment `vllm`, on a CPU. Prompts are token ids, so no tokenizer is needed. A
missing tensor is an error (`enable_weights_track`): by default vLLM loads such a checkpoint
silently and computes with uninitialized memory.

vLLM runs inside this process: its usual processes would be two more interpreters for a model of a
few megabytes, and their logs would not be seen here.

    PYTHON=$(interop/environment.sh vllm)
    $PYTHON interop/vllm_greedy.py CHECKPOINT PROMPTS.json OUT.json --tokens 24
"""

import argparse
import json
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

TOP = 5
KERNEL = re.compile(r"Using %s for (mixed-precision linear|\S*LinearMethod|CompressedTensors\S*)")


def collect_kernels() -> list[str]:
    """A list that collects vLLM's log messages about the kernel of a quantized linear.

    It hooks the creation of records: vLLM configures its loggers again for every engine and removes
    other handlers.
    """
    lines: list[str] = []
    make = logging.getLogRecordFactory()

    def record(*arguments: Any, **named: Any) -> logging.LogRecord:
        message = make(*arguments, **named)
        if KERNEL.match(str(message.msg)) and message.getMessage() not in lines:
            lines.append(message.getMessage())
        return message

    logging.setLogRecordFactory(record)
    return lines


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="a checkpoint folder, quantized or not")
    parser.add_argument("prompts", type=Path, help="JSON: a list of lists of token ids")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to generate per prompt")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32", "auto"), default="bfloat16"
    )
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--kv-cache-mib", type=int, default=256)
    return parser.parse_args(arguments)


def read_prompts(path: Path, room: int) -> list[list[int]]:
    prompts = json.loads(path.read_text("utf-8"))
    if not (
        isinstance(prompts, list)
        and prompts
        and all(isinstance(row, list) and row for row in prompts)
        and all(isinstance(token, int) for row in prompts for token in row)
    ):
        raise SystemExit(f"{path}: expected a list of non-empty lists of token ids: [[1, 2], ...]")
    if (longest := max(map(len, prompts))) > room:
        raise SystemExit(
            f"{path}: the longest prompt has {longest} tokens; --max-model-len minus --tokens "
            f"leaves {room}"
        )
    return prompts


def generate(arguments: argparse.Namespace, prompts: list[list[int]]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams, TokensPrompt, __version__

    from vllm_cpu_op import supply_if_missing

    supplied = supply_if_missing()
    kernels = collect_kernels()
    start = time.perf_counter()
    engine = LLM(
        model=str(arguments.checkpoint),
        dtype=arguments.dtype,
        skip_tokenizer_init=True,
        enforce_eager=True,
        enable_prefix_caching=False,
        max_model_len=arguments.max_model_len,
        max_num_seqs=len(prompts),
        kv_cache_memory_bytes=arguments.kv_cache_mib * 2**20,
        model_loader_extra_config={"enable_weights_track": True},
        disable_log_stats=True,
    )
    loaded = time.perf_counter()
    answers = engine.generate(
        [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
        SamplingParams(
            temperature=0.0,
            max_tokens=arguments.tokens,
            ignore_eos=True,
            logprobs=TOP,
            detokenize=False,
        ),
        use_tqdm=False,
    )
    generated = time.perf_counter()
    outputs = [answer.outputs[0] for answer in answers]
    return {
        "tokens": [list(output.token_ids) for output in outputs],
        "logprobs": [
            [
                {str(token): likelihood.logprob for token, likelihood in step.items()}
                for step in output.logprobs
            ]
            for output in outputs
        ],
        "kernel": kernels,
        "arithmetic": "torch, without AVX-512" if supplied else "vllm",
        "quantization": engine.llm_engine.model_config.quantization,
        "dtype": str(engine.llm_engine.model_config.dtype).removeprefix("torch."),
        "vllm": __version__,
        "seconds_load": round(loaded - start, 3),
        "seconds_generate": round(generated - loaded, 3),
    }


def main() -> None:
    arguments = parse()
    if not (arguments.checkpoint / "config.json").is_file():
        raise SystemExit(f"{arguments.checkpoint}: no config.json; is it a checkpoint folder?")
    prompts = read_prompts(arguments.prompts, arguments.max_model_len - arguments.tokens)

    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault(
        "TORCHDYNAMO_DISABLE", "1"
    )  # else small functions are compiled by a C++ compiler
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    result = generate(arguments, prompts)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result) + "\n", "utf-8")


if __name__ == "__main__":
    main()
