"""AutoRound on the calibration tokens of a comparison.

Runs in the environment `autoround` (`interop/environment.sh`). Everything is AutoRound's default
for SignRound (batches of 8, tuned ranges, inputs of the quantized blocks, automatic mixed
precision) except the tokens, which come from a file, and the number of iterations, 200 by default
as in its recommended recipe. Asymmetric schemes are saved in AutoAWQ's format, symmetric ones in
AutoGPTQ's: neither changes a code.

    PYTHON=$(interop/environment.sh autoround)
    $PYTHON benchmarks/peers/autoround.py MODEL TOKENS.safetensors OUT --group-size 64

The last line on stdout is one JSON object.
"""

import argparse
import json
import resource
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import torch
from auto_round import AutoRound
from token_file import read_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer

FORMATS = {"asym": "auto_awq", "sym": "auto_gptq"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a 16-bit model folder")
    parser.add_argument("tokens", type=Path, help="safetensors with `tokens` [samples, tokens]")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--scheme", choices=sorted(FORMATS), default="asym")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=200, help="sign steps per block")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    tokens = read_tokens(arguments.tokens)
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto")
    loaded = time.perf_counter()
    rounding = AutoRound(
        model,
        tokenizer,
        bits=4,
        group_size=arguments.group_size,
        sym=arguments.scheme == "sym",
        iters=arguments.iterations,
        seqlen=tokens.shape[1],
        nsamples=len(tokens),
        dataset=[
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in tokens[:, None]
        ],
        device_map="cpu",
        seed=arguments.seed,
    )
    written = arguments.out.with_name(f"{arguments.out.name}.writing")
    shutil.rmtree(written, ignore_errors=True)
    _, folders = rounding.quantize_and_save(str(written), format=FORMATS[arguments.scheme])
    # AutoRound may write to a folder of its own name within the given one.
    folder = Path(folders[0] if isinstance(folders, (list, tuple)) else folders or written)
    shutil.rmtree(arguments.out, ignore_errors=True)
    folder.rename(arguments.out)
    shutil.rmtree(written, ignore_errors=True)
    figures = {
        "peer": "autoround",
        "iterations": arguments.iterations,
        "scheme": arguments.scheme,
        "group_size": arguments.group_size,
        "seed": arguments.seed,
        "samples": len(tokens),
        "tokens_per_sample": tokens.shape[1],
        "threads": torch.get_num_threads(),
        "seconds_load": round(loaded - start, 3),
        "seconds_quantize": round(time.perf_counter() - loaded, 3),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
        "autoround": version("auto-round"),
        "transformers": version("transformers"),
        "torch": torch.__version__,
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
