"""Read an AutoAWQ GEMM checkpoint with AutoAWQ.

Runs in the environment `autoawq`. Every quantized module is unpacked by AutoAWQ's own
`dequantize_gemm` and written as a float32 tensor `NAME.weight` [out, in], without Salient's code.
Comparing the file with the weights that Salient reads from the same folder compares two readers of
one format.

AutoAWQ is unmaintained, and `import awq` imports every model architecture and its dependencies. The
packing code needs only torch, so that file is loaded by its path. Scales are converted to float32
first: AutoAWQ multiplies in the dtype of the scales, and the comparison requires equality.

    PYTHON=$(interop/environment.sh autoawq)
    $PYTHON interop/autoawq_weights.py CHECKPOINT OUT.safetensors
"""

import argparse
import importlib.util
import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import torch
from safetensors import safe_open
from safetensors.torch import save_file

PARTS = ("qweight", "qzeros", "scales")


def packing_code() -> ModuleType:
    """AutoAWQ's awq/utils/packing_utils.py, without running awq/__init__.py."""
    package = importlib.util.find_spec("awq")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("AutoAWQ is not installed; run this in the environment `autoawq`")
    path = Path(package.submodule_search_locations[0]) / "utils" / "packing_utils.py"
    spec = importlib.util.spec_from_file_location("awq_packing_utils", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bits_and_group_size(checkpoint: Path) -> tuple[int, int]:
    """Bits and group size from config.json. Exits for layouts other than GEMM."""
    path = checkpoint / "config.json"
    if not path.is_file():
        raise SystemExit(f"{checkpoint}: no config.json; is it a checkpoint folder?")
    config = json.loads(path.read_text(encoding="utf-8")).get("quantization_config", {})
    if config.get("quant_method") != "awq":
        raise SystemExit(f"{path}: quant_method is {config.get('quant_method')!r}, not 'awq'")
    layout = str(config.get("version", "gemm")).lower()
    if layout != "gemm":
        raise SystemExit(f"{path}: version is {layout!r}; only gemm is supported")
    return config.get("bits", config.get("w_bit")), config.get(
        "group_size", config.get("q_group_size")
    )


def quantized_modules(checkpoint: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Module name -> its qweight, qzeros and scales, of all shards."""
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for shard in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict: it cannot be iterated)
                module, _, part = name.rpartition(".")
                if part in PARTS:
                    modules.setdefault(module, {})[part] = file.get_tensor(name)
    if not modules:
        raise SystemExit(f"{checkpoint}: no tensor ends in {PARTS[0]!r}; nothing to read")
    for module, parts in modules.items():
        if missing := [part for part in PARTS if part not in parts]:
            raise SystemExit(f"{checkpoint}: {module!r} lacks {', '.join(missing)}")
    return modules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="an AutoAWQ GEMM checkpoint folder")
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    arguments = parser.parse_args()

    bits, group_size = bits_and_group_size(arguments.checkpoint)
    modules = quantized_modules(arguments.checkpoint)
    dequantize = packing_code().dequantize_gemm
    weights = {
        f"{name}.weight": dequantize(
            parts["qweight"], parts["qzeros"], parts["scales"].float(), bits, group_size
        ).T.contiguous()
        for name, parts in sorted(modules.items())
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, arguments.out)
    json.dump({"modules": len(weights), "autoawq": version("autoawq")}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
