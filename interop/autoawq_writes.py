"""Write a checkpoint with AutoAWQ: its rounding, packing, config and files.

Runs in the environment `autoawq`, without Salient's code. The linears of a 16-bit model are rounded
to nearest by AutoAWQ's `pseudo_quantize_tensor`, packed by `WQLinear_GEMM.from_linear`, described
by `AwqConfig`, and saved in the layout of `save_quantized`, which itself needs AutoAWQ's model
loader.

AutoAWQ is unmaintained, and `import awq` imports every model architecture and its dependencies.
`import_autoawq` skips those.

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

SKIPPED_PACKAGES = ("awq", "awq.models")  # their `__init__` imports every architecture
UNUSED = ("accelerate", "datasets")  # imported by AutoAWQ, not used here
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def main() -> None:
    """Quantize and save; print the number of modules."""
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


def import_autoawq(module: str) -> ModuleType:
    """The module awq.MODULE, without the imports of SKIPPED_PACKAGES."""
    package = importlib.util.find_spec("awq") if "awq" not in sys.modules else None
    if package is not None and package.submodule_search_locations:
        home = Path(package.submodule_search_locations[0])
        for name in SKIPPED_PACKAGES:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [str(home.joinpath(*name.split(".")[1:]))]
        for name in UNUSED:
            sys.modules.setdefault(name, MagicMock())
    try:
        return importlib.import_module(f"awq.{module}")
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; run this in the environment `autoawq`") from error


def pack(model: Any, group_size: int) -> int:
    """Replace the linears of the blocks by AutoAWQ's; returns their number."""
    gemm = import_autoawq("modules.linear.gemm").WQLinear_GEMM
    linears = {n: m for n, m in model.model.layers.named_modules() if isinstance(m, nn.Linear)}
    for name, linear in linears.items():
        rounded, scales, zeros = round_to_nearest(linear.weight.data.float(), group_size)
        # As in AutoAWQ: the weight is replaced by its rounded values, then packed.
        linear.weight.data = rounded
        columns = (scales.t().contiguous(), zeros.t().contiguous())
        packed = gemm.from_linear(linear, 4, group_size, scales=columns[0], zeros=columns[1])
        parent, _, leaf = name.rpartition(".")
        setattr(model.model.layers.get_submodule(parent), leaf, packed)
    return len(linears)


def round_to_nearest(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, ...]:
    """Weight, scales [out, groups] and zeros [out, groups] by AutoAWQ's own arithmetic."""
    quantizer = import_autoawq("quantize.quantizer").AwqQuantizer
    settings = SimpleNamespace(group_size=group_size, zero_point=True, w_bit=4)
    return quantizer.pseudo_quantize_tensor(settings, weight)


def save(model: Any, out: Path, group_size: int) -> None:
    """Write config and tensors in the layout of `save_quantized`."""
    settings = import_autoawq("models._config").AwqConfig(q_group_size=group_size)
    model.config.quantization_config = settings.to_transformers_dict()
    out.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(out)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
