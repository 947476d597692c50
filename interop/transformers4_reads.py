"""How Transformers 4 reads the config and tokenizer files of a checkpoint.

Runs in the environment `autoawq`, with Transformers 4.51.3, which many deployments still use.
Versions 4 and 5 write different files: the place of the rope settings, the name of the dtype, the
class of the tokenizer. A folder saved by one may load in the other with another meaning, or not at
all. This writes the values as read, to be compared with those of the source.

    PYTHON=$(interop/environment.sh autoawq)
    $PYTHON interop/transformers4_reads.py CHECKPOINT OUT.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer

TEXTS = (
    "The capital of France is Paris.",
    "  two leading spaces,\ttab\nand newline",
    "def double(x):\n    return 2 * x\n",
    "naïve café, Größe, Привет, 你好, 🙂",
    "1234567890 3.14159",
)


def config_read(checkpoint: str) -> dict[str, Any]:
    config = AutoConfig.from_pretrained(checkpoint)
    dtype = getattr(config, "torch_dtype", None)
    return {
        "config_class": type(config).__name__,
        "rope_theta": getattr(config, "rope_theta", None),
        "rope_scaling": getattr(config, "rope_scaling", None),
        "torch_dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "quantization_config": getattr(config, "quantization_config", None),
    }


def tokenizer_read(checkpoint: str) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    return {
        "tokenizer_class": type(tokenizer).__name__,
        "special_ids": {
            "bos": tokenizer.bos_token_id,
            "eos": tokenizer.eos_token_id,
            "pad": tokenizer.pad_token_id,
        },
        "ids": {text: tokenizer(text)["input_ids"] for text in TEXTS},
        "chat_template": tokenizer.chat_template,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="a checkpoint folder")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    arguments = parser.parse_args()
    if not (arguments.checkpoint / "config.json").is_file():
        raise SystemExit(f"{arguments.checkpoint}: no config.json; is it a checkpoint folder?")

    reading: dict[str, Any] = {"transformers": transformers.__version__}
    for part, read in (("config", config_read), ("tokenizer", tokenizer_read)):
        try:
            reading |= read(str(arguments.checkpoint))
        except Exception as error:  # noqa: BLE001 (any error is a result)
            reading[f"{part}_error"] = f"{type(error).__name__}: {error}"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(reading, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
