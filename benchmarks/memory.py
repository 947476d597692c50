"""Memory of quantizing a model of a billion parameters, on random models.

Writes a random model (bf16, seeded, the demo model's tokenizer) shard by shard, quantizes it in a
child process, and compares the child's peak of resident memory with the estimate of
`salient quantize --dry-run`.

    .venv/bin/python benchmarks/memory.py                      # a Llama of 1.56 billion
    .venv/bin/python benchmarks/memory.py --model mixtral      # 8 experts, 1.09 billion
    .venv/bin/python benchmarks/memory.py --blocks 2 --keep    # quick
    .venv/bin/python benchmarks/memory.py --effort balanced

The bars: 2.5 and 3 GB (1e9 bytes) with `fast`, 3 GB with more effort. Writes WORK/MODEL.json and
removes the model and the checkpoint unless `--keep`. Exit code 1 if the bar is missed.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file

from machine import conditions, conditions_line
from random_models import TOKENIZER, LlamaShape, random_weight, special_tokens
from salient.core.report import Report, Table, duration
from salient.formats.folder import copy_metadata
from salient.models.model_folder import model_folder
from subprocess_run import log_step, run

BLOCKS_A_SHARD = 4
LLAMA = LlamaShape(width=2048, inner=8192, blocks=24, heads=32, keys=8, vocabulary=49152)
EXPERTS, EXPERT_INNER = 8, 1792
MOE = {
    "block_sparse_moe.gate": (EXPERTS, LLAMA.width),
    **{
        f"block_sparse_moe.experts.{expert}.{name}": shape
        for expert in range(EXPERTS)
        for name, shape in {
            "w1": (EXPERT_INNER, LLAMA.width),
            "w2": (LLAMA.width, EXPERT_INNER),
            "w3": (EXPERT_INNER, LLAMA.width),
        }.items()
    },
}


@dataclass(frozen=True)
class Model:
    """A random model.

    shapes: of a block's weights   bar: bytes   config: differences to Llama's
    """

    shapes: dict[str, tuple[int, ...]]
    blocks: int
    bar: float
    config: dict[str, Any]


MODELS = {
    "llama": Model({**LLAMA.attention, **LLAMA.mlp}, LLAMA.blocks, 2.5e9, {}),
    "mixtral": Model(
        {**LLAMA.attention, **MOE},
        10,
        3e9,
        {
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "intermediate_size": EXPERT_INNER,
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2,
        },
    ),
}
MORE_EFFORT_BAR = 3e9
OPTIONS = ("--scheme", "w4-g128", "--samples", "8", "--sequence-length", "512", "--json")


def main() -> None:
    """Write the model, estimate, quantize, report."""
    options = parse()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    model, out = work / "model", work / "checkpoint"
    kind = MODELS[options.model]
    blocks = options.blocks or kind.blocks
    parameters = write_model(options.model, model, blocks)
    command = [sys.executable, "-m", "salient", "quantize", str(model), "-o", str(out), *OPTIONS]
    command += ["--effort", options.effort]
    bar = kind.bar if options.effort == "fast" else MORE_EFFORT_BAR
    plan = json.loads(run([*command, "--dry-run"], work / "plan.log").out)
    quantized = run([*command, "--fresh"], work / "quantize.log")
    data = {
        **conditions(),
        "parameters": parameters,
        "model": options.model,
        "blocks": blocks,
        "options": " ".join((*OPTIONS, "--effort", options.effort)),
        **quantized.cost(),
        "estimated_bytes": plan["peak_memory_bytes"],
        "estimated_parts": plan["memory_bytes"],
        "bar_bytes": bar,
        "met": quantized.peak_bytes <= bar,
    }
    (work / f"{options.model}.json").write_text(json.dumps(data, indent=2) + "\n")
    report(data).show(Console(width=100))
    if not options.keep:
        shutil.rmtree(model)
        shutil.rmtree(out)
    if not data["met"]:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--model", choices=MODELS, default="llama")
    parser.add_argument("--blocks", type=int, default=0, help="0: the model's own")
    parser.add_argument("--keep", action="store_true", help="keep the model and the checkpoint")
    parser.add_argument("--work", type=Path, default=Path(".work/memory"))
    return parser.parse_args()


def write_model(kind: str, folder: Path, blocks: int) -> int:
    """Write a random `kind` into `folder`, one shard in memory at a time; its parameters."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copy_metadata(model_folder(TOKENIZER), folder)
    (folder / "config.json").write_text(json.dumps(config(kind, blocks), indent=2) + "\n")
    generator, index, parameters = torch.Generator().manual_seed(0), {}, 0
    for number, shapes in enumerate(shards(kind, blocks), 1):
        log_step(f"writing shard {number} of {folder}")
        name = f"model-{number:05d}.safetensors"
        tensors = {
            f"{key}.weight": random_weight(shape, generator) for key, shape in shapes.items()
        }
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
        parameters += sum(tensor.numel() for tensor in tensors.values())
    facts = {"metadata": {"total_size": 2 * parameters}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(facts, indent=2) + "\n")
    return parameters


def shards(kind: str, blocks: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """The shapes of each shard's weights by module; the first shard is outside the blocks."""
    yield {"model.embed_tokens": (LLAMA.vocabulary, LLAMA.width), "model.norm": (LLAMA.width,)}
    for first in range(0, blocks, BLOCKS_A_SHARD):
        yield {
            f"model.layers.{block}.{name}": shape
            for block in range(first, min(first + BLOCKS_A_SHARD, blocks))
            for name, shape in MODELS[kind].shapes.items()
        }


def config(kind: str, blocks: int) -> dict[str, Any]:
    """The config.json of a model with this many blocks, its head tied to its embedding."""
    return {
        **LLAMA.config,
        **special_tokens(),
        **MODELS[kind].config,
        "num_hidden_layers": blocks,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def report(data: dict[str, Any]) -> Report:
    """The table of peaks and the bar."""
    peaks = {
        "peak (VmHWM)": data["peak_bytes"],
        "upper bound (ru_maxrss)": data["maxrss_bytes"],
        "estimate of --dry-run": data["estimated_bytes"],
        "bar": data["bar_bytes"],
    }
    rows = [(name, f"{count / 1e9:.3f} GB") for name, count in peaks.items()]
    title = (
        f"A random {data['model']} of {data['parameters'] / 1e9:.2f} billion parameters in "
        f"{data['blocks']} blocks"
    )
    lines = [
        f"{data['options']}: {duration(data['seconds_process'])}; "
        f"the bar is {'met' if data['met'] else 'MISSED'}.",
        conditions_line(data),
    ]
    return Report(data, [Table(title, ("resident memory", "bytes"), rows)], lines)


if __name__ == "__main__":
    main()
