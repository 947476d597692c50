"""Salient's quantization on the calibration tokens of a comparison.

Runs in this environment. `salient quantize` reads texts; this script gives it the tokens of a file
instead, so that all quantizers have the same ones. Everything else is the default of the effort.

    .venv/bin/python benchmarks/peers/salient_awq.py MODEL TOKENS.safetensors OUT --effort balanced

The last line on stdout is one JSON object.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from token_file import read_tokens

from salient import api
from salient.awq import job
from salient.models.token_packing import TokenBatch, heldout_samples


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a 16-bit model folder")
    parser.add_argument("tokens", type=Path, help="safetensors with `tokens` [samples, tokens]")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--scheme", default="w4-g128")
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    return parser.parse_args()


def main() -> None:
    """Quantize, and print the cost."""
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    tokens = read_tokens(arguments.tokens)
    started = time.perf_counter()

    def from_file(*_: Any, **__: Any) -> TokenBatch:
        count = len(tokens)
        return TokenBatch(tokens, count, dropped_tokens=0, heldout=heldout_samples(count))

    with patch.object(job, "calibration_tokens", from_file):
        result = api.quantize(
            arguments.model,
            arguments.out,
            scheme=arguments.scheme,
            effort=arguments.effort,
            samples=len(tokens),
            sequence_length=tokens.shape[1],
            fresh=True,
        )
    figures = {
        "effort": arguments.effort,
        "scheme": result.scheme,
        "samples": len(tokens),
        "tokens_per_sample": tokens.shape[1],
        "threads": torch.get_num_threads(),
        "seconds_quantize": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": result.report.data["peak_memory_bytes"],
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
