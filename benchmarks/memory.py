"""How much memory quantizing a model of a billion parameters takes, on models made for it.

Writes a random model (bf16, seeded, the demo model's tokenizer) shard by shard, quantizes it as a
child, and compares the child's peak of resident memory with what `salient quantize --dry-run`
foretells. The weights mean nothing; their sizes are what is measured.

    .venv/bin/python benchmarks/memory.py                      # a Llama of 1.56 billion
    .venv/bin/python benchmarks/memory.py --model mixtral      # 8 experts, 1.09 billion
    .venv/bin/python benchmarks/memory.py --blocks 2 --keep    # a quick look

The bars: 2.5 and 3 GB (1e9 bytes). Writes WORK/MODEL.json and removes the model and the checkpoint,
unless `--keep` is given. Exit code 1 if the bar is missed.
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
from torch import Tensor

from machine import conditions, in_words
from salient.core.report import Report, Table, duration
from salient.models.model_folder import model_folder
from subprocess_run import run, say

SPREAD = 0.02  # standard deviation of the weights
BLOCKS_A_SHARD = 4
WIDTH, INNER, HEADS, KEYS, HEAD, VOCABULARY = 2048, 8192, 32, 8, 64, 49152
EXPERTS, EXPERT_INNER = 8, 1792
ATTENTION = {
    "input_layernorm": (WIDTH,),
    "self_attn.q_proj": (HEADS * HEAD, WIDTH),
    "self_attn.k_proj": (KEYS * HEAD, WIDTH),
    "self_attn.v_proj": (KEYS * HEAD, WIDTH),
    "self_attn.o_proj": (WIDTH, HEADS * HEAD),
    "post_attention_layernorm": (WIDTH,),
}
MLP = {
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}
MOE = {
    "block_sparse_moe.gate": (EXPERTS, WIDTH),
    **{
        f"block_sparse_moe.experts.{expert}.{name}": shape
        for expert in range(EXPERTS)
        for name, shape in {
            "w1": (EXPERT_INNER, WIDTH),
            "w2": (WIDTH, EXPERT_INNER),
            "w3": (EXPERT_INNER, WIDTH),
        }.items()
    },
}


@dataclass(frozen=True)
class Model:
    """A random model: its blocks' weights, how many blocks, what its config says; bar in bytes."""

    shapes: dict[str, tuple[int, ...]]
    blocks: int
    bar: float
    config: dict[str, Any]


MODELS = {
    "llama": Model(
        {**ATTENTION, **MLP},
        24,
        2.5e9,
        {"architectures": ["LlamaForCausalLM"], "intermediate_size": INNER},
    ),
    "mixtral": Model(
        {**ATTENTION, **MOE},
        10,
        3e9,
        {
            "architectures": ["MixtralForCausalLM"],
            "intermediate_size": EXPERT_INNER,
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2,
        },
    ),
}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
OPTIONS = ("--scheme", "w4-g128", "--samples", "8", "--sequence-length", "512", "--json")


def main() -> None:
    """Write the model, foretell, quantize, report."""
    given = parse()
    work: Path = given.work
    work.mkdir(parents=True, exist_ok=True)
    model, out = work / "model", work / "checkpoint"
    made = MODELS[given.model]
    blocks = given.blocks or made.blocks
    parameters = write_model(given.model, model, blocks)
    command = [sys.executable, "-m", "salient", "quantize", str(model), "-o", str(out), *OPTIONS]
    plan = json.loads(run([*command, "--dry-run"], work / "plan.log").out)
    quantized = run([*command, "--fresh"], work / "quantize.log")
    data = {
        **conditions(),
        "parameters": parameters,
        "model": given.model,
        "blocks": blocks,
        "options": " ".join(OPTIONS),
        **quantized.cost(),
        "foretold_bytes": plan["peak_memory_bytes"],
        "foretold_parts": plan["memory_bytes"],
        "bar_bytes": made.bar,
        "met": quantized.peak_bytes <= made.bar,
    }
    (work / f"{given.model}.json").write_text(json.dumps(data, indent=2) + "\n")
    report(data).show(Console(width=100))
    if not given.keep:
        shutil.rmtree(model)
        shutil.rmtree(out)
    if not data["met"]:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", choices=MODELS, default="llama")
    parser.add_argument("--blocks", type=int, default=0, help="fewer or more than the model's own")
    parser.add_argument("--keep", action="store_true", help="keep the model and the checkpoint")
    parser.add_argument("--work", type=Path, default=Path(".work/memory"))
    return parser.parse_args()


def write_model(kind: str, folder: Path, blocks: int) -> int:
    """Write a random `kind` into `folder`, one shard in memory at a time; its parameters."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    demo = model_folder("smollm2-135m")
    for name in TOKENIZER:
        shutil.copy(demo / name, folder)
    special = json.loads((demo / "generation_config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config(kind, blocks) | special, indent=2) + "\n")
    generator, index, parameters = torch.Generator().manual_seed(0), {}, 0
    for number, shapes in enumerate(shards(kind, blocks), 1):
        say(f"writing shard {number} of {folder}")
        name = f"model-{number:05d}.safetensors"
        tensors = {f"{key}.weight": random(shape, generator) for key, shape in shapes.items()}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
        parameters += sum(tensor.numel() for tensor in tensors.values())
    facts = {"metadata": {"total_size": 2 * parameters}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(facts, indent=2) + "\n")
    return parameters


def shards(kind: str, blocks: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """The modules of each shard with their weights' shapes: first what is outside the blocks."""
    yield {"model.embed_tokens": (VOCABULARY, WIDTH), "model.norm": (WIDTH,)}
    for first in range(0, blocks, BLOCKS_A_SHARD):
        yield {
            f"model.layers.{block}.{name}": shape
            for block in range(first, min(first + BLOCKS_A_SHARD, blocks))
            for name, shape in MODELS[kind].shapes.items()
        }


def random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A bfloat16 weight of `shape`; a norm's is 1."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.randn(shape, generator=generator).mul_(SPREAD).bfloat16()


def config(kind: str, blocks: int) -> dict[str, Any]:
    """The config.json of a model of these sizes, its head tied to its embedding."""
    return {
        **MODELS[kind].config,
        "model_type": kind,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "num_hidden_layers": blocks,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "head_dim": HEAD,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": VOCABULARY,
    }


def report(data: dict[str, Any]) -> Report:
    """The table of peaks, in bytes as the bar is."""
    peaks = {
        "peak (VmHWM)": data["peak_bytes"],
        "upper bound (ru_maxrss)": data["maxrss_bytes"],
        "foretold by --dry-run": data["foretold_bytes"],
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
        in_words(data),
    ]
    return Report(data, [Table(title, ("resident memory", "bytes"), rows)], lines)


if __name__ == "__main__":
    main()
