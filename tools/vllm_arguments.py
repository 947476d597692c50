"""Write the table of vLLM's server arguments that `salient doctor --config` reads.

Run in an environment with the new vLLM release, then point TABLE of
src/salient/diagnose/serving/server_arguments.py to the new file:

    python tools/vllm_arguments.py src/salient/diagnose/serving/

The kind of an argument is determined by the values that its parser accepts, not by the type's name.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Modules with make_arg_parser, newest first.
MODULES = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
KINDS = ("flag", "integer", "size", "number", "list", "json", "text")
# Texts by which an integer such as 32k, an integer, and a number are recognized, in this order.
PROBES = (("size", "1k", int), ("integer", "7", int), ("number", "0.5", float))
# Arguments whose choices are compared; those of quantization come from vLLM's own list.
CHECKED = ("dtype", "kv_cache_dtype", "linear_backend", "performance_mode")
# A server's parser lacks the first; vLLM's AWQ also accepts the second.
EXTRA_ARGUMENTS, EXTRA_METHODS = {"model": "text"}, ("marlin",)


def kind_of(action: argparse.Action) -> str:
    """The kind of an argument's values."""
    if action.nargs == 0:
        return "flag"
    if action.nargs in ("+", "*"):
        return "list"
    convert = action.type if callable(action.type) else str
    parsed = _converted(convert, "{}")
    if parsed is not None and not isinstance(parsed, str):
        return "json"
    for kind, text, result in PROBES:
        if isinstance(_converted(convert, text), result):
            return kind
    return "text"


def _converted(convert: Callable[[str], Any], text: str) -> Any:
    """The value of `text`; None if it is invalid."""
    try:
        return convert(text)
    except Exception:  # noqa: BLE001 - the parser's own functions raise many types
        return None


def table_of(parser: argparse.ArgumentParser, release: str, methods: list[str]) -> dict[str, Any]:
    """The table of a server's parser. methods: names of quantization methods."""
    kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
    table = {"release": release, "kinds": kinds, "on_by_default": [], "short": {}, "choices": {}}
    names = dict(EXTRA_ARGUMENTS)
    for action in parser._actions:
        long = [option for option in action.option_strings if option.startswith("--")]
        if not long or long[0] == "--help":
            continue
        name = long[0].lstrip("-").replace("-", "_")
        names[name] = kind_of(action)
        if names[name] == "flag" and action.default is not False:
            table["on_by_default"].append(name)
        short = [option for option in action.option_strings if not option.startswith("--")]
        table["short"] |= {option.lstrip("-").replace("-", "_"): name for option in short}
        if name in CHECKED and action.choices:
            table["choices"][name] = list(map(str, action.choices))
    for name in sorted(names):
        kinds[names[name]].append(name)
    table["choices"]["quantization"] = [*methods, *EXTRA_METHODS]
    return table


def main(folder: Path) -> None:
    import vllm
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    for module in MODULES:
        try:
            make_arg_parser = importlib.import_module(module).make_arg_parser
            break
        except ImportError:
            continue
    else:
        sys.exit(f"None of {', '.join(MODULES)} is in vLLM {vllm.__version__}. Add its new module.")
    release = ".".join(vllm.__version__.split(".")[:2])
    table = table_of(make_arg_parser(FlexibleArgumentParser()), release, [*QUANTIZATION_METHODS])
    path = folder / f"vllm-{release}.json"
    path.write_text(json.dumps(table, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
