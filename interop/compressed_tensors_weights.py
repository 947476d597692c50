"""Read a compressed-tensors checkpoint with compressed-tensors.

Runs in the environment `llmcompressor`. Every quantized module is decompressed by
compressed-tensors, config matching included, and written as a float32 tensor `NAME.weight`, without
Salient's code. Comparing the file with the weights that Salient reads from the same folder compares
two readers of one format; a difference is a bug in one of them.

Scales are converted to float32 first. Otherwise the library multiplies in 16-bit and rounds each
weight again, and the weights could not be compared for equality.

    PYTHON=$(interop/environment.sh llmcompressor)
    $PYTHON interop/compressed_tensors_weights.py CHECKPOINT OUT.safetensors
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from compressed_tensors.entrypoints.convert.converters.ct_dequantizer import (
    CompressedTensorsDequantizer,
)
from safetensors import safe_open
from safetensors.torch import save_file

PACKED = ".weight_packed"


def quantized_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of all quantized modules, scales as float32."""
    shards = sorted(checkpoint.glob("*.safetensors"))
    if not shards:
        raise SystemExit(f"{checkpoint}: no *.safetensors file; is it a checkpoint folder?")
    tensors: dict[str, torch.Tensor] = {}
    for shard in shards:
        with safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict: it cannot be iterated)
                if name.rpartition(".")[2].startswith("weight_"):
                    tensor = file.get_tensor(name)
                    tensors[name] = tensor.float() if name.endswith("weight_scale") else tensor
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="a compressed-tensors checkpoint folder")
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    arguments = parser.parse_args()

    try:
        decompressor = CompressedTensorsDequantizer(arguments.checkpoint, dtype=torch.float32)
    except ValueError as error:
        raise SystemExit(f"{arguments.checkpoint}: {error}") from error

    tensors = quantized_tensors(arguments.checkpoint)
    modules = sorted(name.removesuffix(PACKED) for name in tensors if name.endswith(PACKED))
    if not modules:
        raise SystemExit(f"{arguments.checkpoint}: no tensor ends in {PACKED!r}; nothing to read")

    # Works on any part of a checkpoint; removes the tensors that the config targets.
    try:
        read = decompressor.validate(tensors)
    except ValueError as error:
        raise SystemExit(f"{arguments.checkpoint}: {error}") from error
    unread = [name for name in modules if f"{name}.weight" not in read]
    if unread:
        raise SystemExit(
            f"{arguments.checkpoint}: {len(unread)} packed modules match no target of the config "
            f"or are ignored by it, such as {unread[0]!r}"
        )

    weights = {f"{name}.weight": read[f"{name}.weight"].contiguous() for name in modules}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, arguments.out)
    json.dump(
        {"modules": len(weights), "compressed_tensors": version("compressed-tensors")}, sys.stdout
    )
    print()


if __name__ == "__main__":
    main()
