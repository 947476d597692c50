"""How much memory quantizing a model of 1.5 billion parameters takes, on a model made for it.

Writes a random Llama of 24 blocks (bf16, about 3 GB, seeded, the demo model's tokenizer) shard by
shard, quantizes it as a child, and compares the child's peak of resident memory with what
`salient quantize --dry-run` foretells. The weights mean nothing; their sizes are what is measured.

    .venv/bin/python benchmarks/memory.py
    .venv/bin/python benchmarks/memory.py --blocks 2 --keep    # a quick look

The bar: 2.5 GB (2.5e9 bytes). Writes WORK/memory.json and removes the model and the checkpoint,
unless `--keep` is given. Exit code 1 if the bar is missed.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

import child
from machine import conditions, in_words
from salient.core.report import Report, Table, duration
from salient.models.source import model_folder

BAR = 2.5e9  # bytes
SPREAD = 0.02  # standard deviation of the weights
BLOCKS_A_SHARD = 4  # half a gigabyte
WIDTH, INNER, HEADS, KEYS, HEAD, VOCABULARY = 2048, 8192, 32, 8, 64, 49152
SHAPES = {
    "input_layernorm": (WIDTH,),
    "self_attn.q_proj": (HEADS * HEAD, WIDTH),
    "self_attn.k_proj": (KEYS * HEAD, WIDTH),
    "self_attn.v_proj": (KEYS * HEAD, WIDTH),
    "self_attn.o_proj": (WIDTH, HEADS * HEAD),
    "post_attention_layernorm": (WIDTH,),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
OPTIONS = ("--scheme", "w4-g128", "--samples", "8", "--sequence-length", "512", "--json")


def main() -> None:
    """Write the model, foretell, quantize, report."""
    given = parse()
    work: Path = given.work
    work.mkdir(parents=True, exist_ok=True)
    model, out = work / "model", work / "checkpoint"
    parameters = write_model(model, given.blocks)
    command = [sys.executable, "-m", "salient", "quantize", str(model), "-o", str(out), *OPTIONS]
    plan = json.loads(child.run([*command, "--dry-run"], work / "plan.log").out)
    run = child.run([*command, "--fresh"], work / "quantize.log")
    data = {
        **conditions(),
        "parameters": parameters,
        "blocks": given.blocks,
        "options": " ".join(OPTIONS),
        **run.cost(),
        "foretold_bytes": plan["peak_memory_bytes"],
        "foretold_parts": plan["memory_bytes"],
        "bar_bytes": BAR,
        "met": run.peak_bytes <= BAR,
    }
    (work / "memory.json").write_text(json.dumps(data, indent=2) + "\n")
    report(data).show(Console(width=100))
    if not given.keep:
        shutil.rmtree(model)
        shutil.rmtree(out)
    if not data["met"]:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--keep", action="store_true", help="keep the model and the checkpoint")
    parser.add_argument("--work", type=Path, default=Path(".work/memory"))
    return parser.parse_args()


def write_model(folder: Path, blocks: int) -> int:
    """Write the random model into `folder`, one shard in memory at a time; its parameters."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    demo = model_folder("smollm2-135m")
    for name in TOKENIZER:
        shutil.copy(demo / name, folder)
    special = json.loads((demo / "generation_config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config(blocks) | special, indent=2) + "\n")
    generator, index, parameters = torch.Generator().manual_seed(0), {}, 0
    for number, shapes in enumerate(shards(blocks), 1):
        child.say(f"writing shard {number} of {folder}")
        name = f"model-{number:05d}.safetensors"
        tensors = {f"{key}.weight": random(shape, generator) for key, shape in shapes.items()}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, name)
        parameters += sum(tensor.numel() for tensor in tensors.values())
    facts = {"metadata": {"total_size": 2 * parameters}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(facts, indent=2) + "\n")
    return parameters


def shards(blocks: int) -> Iterator[dict[str, tuple[int, ...]]]:
    """The modules of each shard with their weights' shapes: first what is outside the blocks."""
    yield {"model.embed_tokens": (VOCABULARY, WIDTH), "model.norm": (WIDTH,)}
    for first in range(0, blocks, BLOCKS_A_SHARD):
        yield {
            f"model.layers.{block}.{name}": shape
            for block in range(first, min(first + BLOCKS_A_SHARD, blocks))
            for name, shape in SHAPES.items()
        }


def random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A bfloat16 weight of `shape`; a norm's is 1."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.randn(shape, generator=generator).mul_(SPREAD).bfloat16()


def config(blocks: int) -> dict[str, Any]:
    """The config.json of a Llama of these sizes, its head tied to its embedding."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
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
    title = f"{data['parameters'] / 1e9:.2f} billion parameters in {data['blocks']} blocks"
    lines = [
        f"{data['options']}: {duration(data['seconds_process'])}; "
        f"the bar is {'met' if data['met'] else 'MISSED'}.",
        in_words(data),
    ]
    return Report(data, [Table(title, ("resident memory", "bytes"), rows)], lines)


if __name__ == "__main__":
    main()
