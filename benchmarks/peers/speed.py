"""What the speed scripts of all engines share: one command line, one way to count, one JSON line.

    prefill   seconds to compute a prompt from an empty cache, logits of its last token only
    decode    seconds from one token to the next, batch 1, right after the prompt
    together  tokens a second of several sequences that decode in one batch

Figures are medians, and nothing is counted before it has run once. Standard library only: each
engine runs in an environment of its own.

The file of prompts is a JSON list of lists of token ids. The first is the prompt of batch 1; all
are used together. Each is cut to --prompt-tokens.
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
    """What one engine did in one process.

    decode: seconds from each token to the next   prefill: seconds, one for each repeat
    together: seconds of each step of `sequences` in one batch; empty if that was not run
    how: the engine's choices that decide its speed, and its versions, in plain values
    """

    engine: str
    decode: list[float]
    prefill: list[float]
    together: list[float] = field(default_factory=list)
    sequences: int = 0
    how: dict[str, Any] = field(default_factory=dict)


def parse(description: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of all engines. Call before torch is imported: threads are set here."""
    parser = parser_of(description)
    given = parser.parse_args(arguments)
    use_threads(given.threads)
    return given


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The same, for a script that adds options of its own."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    parser.add_argument("--model", required=True, help="a checkpoint folder, or a GGUF file")
    parser.add_argument("--ids", type=Path, required=True, help="JSON: lists of token ids")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="how often the prompt is computed")
    return parser


def use_threads(count: int) -> None:
    """Have OpenMP and all that reads its settings use `count` threads."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(count)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def prompts(given: argparse.Namespace) -> list[list[int]]:
    """The prompts, cut to length; stops if one is too short."""
    rows = json.loads(given.ids.read_text("utf-8"))
    if not rows or any(len(row) < given.prompt_tokens for row in rows):
        raise SystemExit(f"{given.ids}: want lists of at least {given.prompt_tokens} token ids")
    return [row[: given.prompt_tokens] for row in rows]


def renewed(prompt: list[int], number: int) -> list[int]:
    """`prompt` with token `number` for its first: no cache of beginnings can help."""
    return [number, *prompt[1:]]


def gaps(times: Sequence[float]) -> list[float]:
    """Seconds between neighbours of `times`."""
    return [after - before for before, after in itertools.pairwise(times)]


def tell(given: argparse.Namespace, speed: Speed) -> None:
    """Print the one JSON line."""
    found: dict[str, Any] = {
        "engine": speed.engine,
        "model": str(given.model),
        "threads": given.threads,
        "prompt_tokens": given.prompt_tokens,
        "new_tokens": given.new_tokens,
        "decode_seconds": statistics.median(speed.decode),
        "prefill_seconds": statistics.median(speed.prefill),
        "prefill_repeats": speed.prefill,
    }
    if speed.together:
        found["sequences"] = speed.sequences
        found["together_tokens_per_s"] = speed.sequences / statistics.median(speed.together)
    print(json.dumps({**found, **speed.how, "cpu": instructions()}), flush=True)


def instructions() -> list[str]:
    """What this processor has of the instructions that decide how fast it multiplies."""
    text = Path("/proc/cpuinfo").read_text()
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return [name for name in INSTRUCTIONS if name in flags]
