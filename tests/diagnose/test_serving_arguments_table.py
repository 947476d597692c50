"""tools/vllm_arguments.py reads the kinds of arguments off a parser's behaviour."""

import argparse
import importlib.util
import json
from pathlib import Path

from salient.diagnose.serving.server_arguments import KINDS

PATH = Path(__file__).parents[2] / "tools" / "vllm_arguments.py"


def load_tool():
    spec = importlib.util.spec_from_file_location("vllm_arguments", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def human_size(text: str) -> int:
    return int(text[:-1]) * 1000 if text.endswith("k") else int(text)


def test_a_parser_gives_the_table_of_its_arguments():
    parser = argparse.ArgumentParser()
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--enable-prefix-caching", action=flag, default=None)
    parser.add_argument("--tensor-parallel-size", "-tp", type=int)
    parser.add_argument("--max-model-len", type=human_size)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--hf-overrides", type=json.loads)
    parser.add_argument("--dtype", choices=["auto", "half"])
    table = load_tool().table_of(parser, "0.32", ["awq", "fp8"])
    kinds = {name: kind for kind, names in table["kinds"].items() for name in names}
    assert len(kinds) == 9
    assert all(KINDS[name] == kind for name, kind in kinds.items())
    assert table["on_by_default"] == ["enable_prefix_caching"]
    assert table["short"] == {"tp": "tensor_parallel_size"}
    assert table["choices"] == {"dtype": ["auto", "half"], "quantization": ["awq", "fp8", "marlin"]}
