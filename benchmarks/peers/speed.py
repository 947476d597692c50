"""Shared by the speed scripts of all engines: command line, measures, output of one JSON line.

    prefill   seconds to compute a prompt from an empty cache, logits of its last token only
    decode    seconds from one token to the next, batch 1, right after the prompt
    together  tokens per second of several sequences that decode in one batch

Figures are medians after a warm-up. Standard library only: each engine has its own environment.

The file of prompts is a JSON list of lists of token ids. The first is the prompt of batch 1; all
are used for `together`. Each is truncated to --prompt-tokens.
"""

import argparse
import itertools
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")


@dataclass
class Speed:
    """The times of one engine in one process.

    decode: seconds from each token to the next   prefill: seconds, one for each repeat
    together: seconds of each step of `sequences` in one batch; empty if not measured
    how: the engine's settings and versions
    """

    engine: str
    decode: list[float]
    prefill: list[float]
    together: list[float] = field(default_factory=list)
    sequences: int = 0
    how: dict[str, Any] = field(default_factory=dict)


def parse(description: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of all engines. Call before the import of torch: this sets the threads."""
    parser = parser_of(description)
    args = parser.parse_args(arguments)
    use_threads(args.threads)
    return args


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The parser of these options, for scripts with more options."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    parser.add_argument("--model", required=True, help="a checkpoint folder, or a GGUF file")
    parser.add_argument("--ids", type=Path, required=True, help="JSON: lists of token ids")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="prefills to measure")
    return parser


def use_threads(count: int) -> None:
    """Set `count` threads for OpenMP and MKL."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(count)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def prompts(args: argparse.Namespace) -> list[list[int]]:
    """The prompts, truncated; exits if one is too short."""
    rows = json.loads(args.ids.read_text("utf-8"))
    if not rows or any(len(row) < args.prompt_tokens for row in rows):
        raise SystemExit(f"{args.ids}: expected lists of at least {args.prompt_tokens} token ids")
    return [row[: args.prompt_tokens] for row in rows]


def renewed(prompt: list[int], number: int) -> list[int]:
    """`prompt` with first token `number`: no prefix cache applies."""
    return [number, *prompt[1:]]


def gaps(times: Sequence[float]) -> list[float]:
    """The differences of consecutive `times`."""
    return [after - before for before, after in itertools.pairwise(times)]


def print_figures(args: argparse.Namespace, speed: Speed) -> None:
    """Print one line of JSON."""
    figures: dict[str, Any] = {
        "engine": speed.engine,
        "model": str(args.model),
        "threads": args.threads,
        "prompt_tokens": args.prompt_tokens,
        "new_tokens": args.new_tokens,
        "decode_seconds": statistics.median(speed.decode),
        "prefill_seconds": statistics.median(speed.prefill),
        "prefill_repeats": speed.prefill,
    }
    if speed.together:
        figures["sequences"] = speed.sequences
        figures["together_tokens_per_s"] = speed.sequences / statistics.median(speed.together)
    print(json.dumps({**figures, **speed.how, "cpu": instructions()}), flush=True)


def instructions() -> list[str]:
    """The instruction sets of this processor that decide the speed of products."""
    text = Path("/proc/cpuinfo").read_text()
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return [name for name in INSTRUCTIONS if name in flags]
