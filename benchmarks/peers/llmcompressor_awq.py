"""llm-compressor on Salient's calibration tokens.

Runs in the environment `llmcompressor` (`interop/environment.sh`). The tokens come from a file,
already tokenized and without padding, so that both tools use the same ones and text processing is
not timed. Everything else is llm-compressor's default: its alpha grid, duo scaling, mappings
inferred from the architecture, its `sequential` pipeline. `--method rtn` rounds to nearest instead,
with QuantizationModifier only.

By default it computes in the dtype that is fastest on this machine, because 16-bit arithmetic is
several times faster than 32-bit on some CPUs and several times slower on others; the checkpoint is
saved in the source's dtype. Loading, quantizing and saving are timed separately. One workaround:
release 0.14.0.1 pins the memory of its cache even without an accelerator and fails, so pinning is
disabled there.

    PYTHON=$(interop/environment.sh llmcompressor)
    $PYTHON benchmarks/peers/llmcompressor_awq.py MODEL TOKENS.safetensors OUT --group-size 64

The last line on stdout is one JSON object.
"""

import argparse
import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import preset_name_to_scheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from token_file import read_tokens
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SCHEMES = {"asym": "W4A16_ASYM", "sym": "W4A16"}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a 16-bit model folder")
    parser.add_argument(
        "tokens", type=Path, help="safetensors with `tokens` int64 [samples, tokens]"
    )
    parser.add_argument("out", type=Path, help="the compressed-tensors folder to write")
    parser.add_argument("--method", choices=("awq", "rtn"), default="awq")
    parser.add_argument("--scheme", choices=sorted(SCHEMES), default="asym")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="compute dtype (auto: the fastest here)",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="samples per forward pass")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    return parser.parse_args(arguments)


def fastest_dtype(seconds: float = 0.2) -> str:
    """The dtype whose [512, 1024] x [1024, 1024] product runs most often in `seconds`."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    runs = dict.fromkeys(DTYPES, 0)
    for name, dtype in DTYPES.items():
        x = torch.ones(512, 1024, dtype=dtype, device=device)
        weight = torch.ones(1024, 1024, dtype=dtype, device=device)
        torch.nn.functional.linear(x, weight)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            torch.nn.functional.linear(x, weight)[0, 0].item()
            runs[name] += 1
    return max(runs, key=lambda name: runs[name])


def calibration(tokens: torch.Tensor) -> Dataset:
    """The tokens [samples, tokens] as a tokenized data set of llm-compressor."""
    ids = tokens.tolist()
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})


def recipe(method: str, scheme: str, group_size: int) -> list[Any]:
    quantization = preset_name_to_scheme(SCHEMES[scheme], ["Linear"])
    quantization.weights.group_size = group_size
    rounding = QuantizationModifier(config_groups={"group_0": quantization}, ignore=["lm_head"])
    return [AWQModifier(), rounding] if method == "awq" else [rounding]


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None
    tokens = calibration(read_tokens(arguments.tokens))
    dtype = fastest_dtype() if arguments.dtype == "auto" else arguments.dtype

    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=DTYPES[dtype])
    source_dtype = AutoConfig.from_pretrained(arguments.model).dtype or torch.float16
    loaded = time.perf_counter()
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=tokens if arguments.method == "awq" else None,
        recipe=recipe(arguments.method, arguments.scheme, arguments.group_size),
        num_calibration_samples=len(tokens),
        max_seq_length=len(tokens[0]["input_ids"]),
        batch_size=arguments.batch_size,
        shuffle_calibration_samples=False,
    )
    quantized = time.perf_counter()
    model.to(source_dtype).save_pretrained(arguments.out, save_compressed=True)
    tokenizer.save_pretrained(arguments.out)
    saved = time.perf_counter()

    # Linux counts ru_maxrss in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "peer": "llmcompressor",
                "method": arguments.method,
                "scheme": SCHEMES[arguments.scheme],
                "group_size": arguments.group_size,
                "dtype": dtype,
                "batch_size": arguments.batch_size,
                "samples": len(tokens),
                "tokens_per_sample": len(tokens[0]["input_ids"]),
                "threads": torch.get_num_threads(),
                "seconds_load": round(loaded - start, 3),
                "seconds_quantize": round(quantized - loaded, 3),
                "seconds_save": round(saved - quantized, 3),
                "peak_rss_mib": round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1),
                "llmcompressor": version("llmcompressor"),
                "compressed_tensors": version("compressed-tensors"),
                "transformers": version("transformers"),
                "torch": torch.__version__,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
