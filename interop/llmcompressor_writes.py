"""Write a checkpoint with llm-compressor and the packer of compressed-tensors.

Runs in the environment `llmcompressor`, without Salient's code. The linears of a 16-bit model are
rounded to nearest by QuantizationModifier, which needs no tokens, and saved by `save_pretrained`.

    PYTHON=$(interop/environment.sh llmcompressor)
    $PYTHON interop/llmcompressor_writes.py MODEL OUT --group-size 64 [--symmetric]
"""

import argparse
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from compressed_tensors.quantization import preset_name_to_scheme
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def main() -> None:
    """Quantize and save; print the versions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a 16-bit model folder")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--symmetric", action="store_true")
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto")
    scheme = preset_name_to_scheme("W4A16" if arguments.symmetric else "W4A16_ASYM", ["Linear"])
    scheme.weights.group_size = arguments.group_size
    rounding = QuantizationModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])
    oneshot(model=model, recipe=[rounding])
    model.save_pretrained(arguments.out, save_compressed=True)
    for name in TOKENIZER:
        if (arguments.model / name).exists():
            shutil.copyfile(arguments.model / name, arguments.out / name)
    libraries = ("llmcompressor", "compressed-tensors", "transformers")
    json.dump({name: version(name) for name in libraries}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
