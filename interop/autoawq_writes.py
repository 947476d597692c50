"""A checkpoint as AutoAWQ itself writes one: its rounding, its packing, its config, its files.

Runs in the environment `autoawq`. The linears of a 16-bit model are rounded plainly, by the
arithmetic of AutoAWQ's `pseudo_quantize_tensor`, packed by its `WQLinear_GEMM.from_linear`,
described by its `AwqConfig`, and saved in the layout of its `save_quantized`, which itself needs
the loader of the whole zoo. Nothing of Salient takes part.

AutoAWQ is no longer maintained, and `import awq` pulls in its whole zoo of models and what they
import. So its packages are entered without that.

    PYTHON=$(interop/environment.sh autoawq)
    $PYTHON interop/autoawq_writes.py MODEL OUT --group-size 64
"""

import argparse
import importlib
import importlib.util
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM

ZOO = ("awq", "awq.models")  # packages whose `__init__` imports every architecture
UNUSED = ("accelerate", "datasets")  # imported by AutoAWQ's files, for what is not called here
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def main() -> None:
    """Quantize, save, say what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a 16-bit model folder")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--group-size", type=int, default=128)
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, torch_dtype=torch.float16)
    packed = pack(model, arguments.group_size)
    save(model, arguments.out, arguments.group_size)
    for name in TOKENIZER:
        if (arguments.model / name).exists():
            shutil.copyfile(arguments.model / name, arguments.out / name)
    json.dump({"modules": packed, "autoawq": version("autoawq")}, sys.stdout)
    print()


def from_autoawq(module: str) -> ModuleType:
    """The module awq.MODULE, without what ZOO would pull in."""
    package = importlib.util.find_spec("awq") if "awq" not in sys.modules else None
    if package is not None and package.submodule_search_locations:
        home = Path(package.submodule_search_locations[0])
        for name in ZOO:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [str(home.joinpath(*name.split(".")[1:]))]
        for name in UNUSED:
            sys.modules.setdefault(name, MagicMock())
    try:
        return importlib.import_module(f"awq.{module}")
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; run this in the environment `autoawq`") from error


def pack(model: Any, group_size: int) -> int:
    """Put AutoAWQ's linears in place of those of the blocks; how many."""
    gemm = from_autoawq("modules.linear.gemm").WQLinear_GEMM
    linears = {n: m for n, m in model.model.layers.named_modules() if isinstance(m, nn.Linear)}
    for name, linear in linears.items():
        rounded, scales, zeros = plainly_rounded(linear.weight.data.float(), group_size)
        # As AutoAWQ does: the weight is replaced by what it is rounded to, then packed.
        linear.weight.data = rounded
        columns = (scales.t().contiguous(), zeros.t().contiguous())
        made = gemm.from_linear(linear, 4, group_size, scales=columns[0], zeros=columns[1])
        parent, _, leaf = name.rpartition(".")
        setattr(model.model.layers.get_submodule(parent), leaf, made)
    return len(linears)


def plainly_rounded(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, ...]:
    """Weight, scales [out, groups] and zeros [out, groups] by AutoAWQ's own arithmetic."""
    quantizer = from_autoawq("quantize.quantizer").AwqQuantizer
    settings = SimpleNamespace(group_size=group_size, zero_point=True, w_bit=4)
    return quantizer.pseudo_quantize_tensor(settings, weight)


def save(model: Any, out: Path, group_size: int) -> None:
    """Config and tensors as `save_quantized` leaves them."""
    settings = from_autoawq("models._config").AwqConfig(q_group_size=group_size)
    model.config.quantization_config = settings.to_transformers_dict()
    out.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(out)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
