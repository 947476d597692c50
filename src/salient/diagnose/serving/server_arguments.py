"""Arguments of vLLM's server: names, kinds of values, short forms, and how their texts are read.

The table is that of 0.32's own parser, written by tools/vllm_arguments.py. What each argument does
is left to the rules.
"""

import difflib
import json
import re
from pathlib import Path
from typing import Any, Literal, cast

from salient.diagnose.toml_file import read_toml
from salient.plan.engine_options import option_names

Kind = Literal["flag", "integer", "size", "number", "list", "json", "text"]

_FOLDER = Path(__file__).parent
_TABLE = json.loads((_FOLDER / "vllm-0.32.json").read_text(encoding="utf-8"))
KINDS = cast(
    "dict[str, Kind]", {name: kind for kind, names in _TABLE["kinds"].items() for name in names}
)
# flags whose default is not false, so that false changes something
ON_BY_DEFAULT: list[str] = _TABLE["on_by_default"]
SHORT: dict[str, str] = _TABLE["short"]
CHOICES: dict[str, list[str]] = _TABLE["choices"]
_OTHER_NAMES = read_toml(_FOLDER / "arguments.toml")
ALIASES: dict[str, str] = _OTHER_NAMES["aliases"]
SGLANG: dict[str, str] = _OTHER_NAMES["sglang"]
# SGLang's options for one of vLLM in a step; what replaces an option in releases without it
IN_SGLANG: dict[str, list[str]] = _OTHER_NAMES["in-sglang"]
OTHER_SPELLINGS: dict[str, str] = _OTHER_NAMES["other-spellings"]
# arguments of older releases and their replacements
REMOVED: dict[str, str] = _OTHER_NAMES["removed"]
REMOVED_VARIABLES: dict[str, str] = _OTHER_NAMES["removed-variables"]
VALUES: dict[Kind, str] = _OTHER_NAMES["values"]
METHODS: dict[str, list[str]] = _OTHER_NAMES["methods"]
SAFE_FORMATS: list[str] = _OTHER_NAMES["formats"]["safe"]
SGLANG_FLAGS = ("enforce_eager", "trust_remote_code", "disable_radix_cache")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_POWERS = "kmgt"


def full_name(written: str, *, exact: bool = False) -> str:
    """The name of the argument `written`: dashes, short forms and prefixes resolved.

    As in argparse, a prefix of one argument only stands for it, unless `exact`. An unknown name
    comes back with underscores.
    """
    bare = written.lstrip("-").replace("-", "_")
    if written.startswith("-") and not written.startswith("--") and bare in SHORT:
        return SHORT[bare]
    name = ALIASES.get(bare, bare)
    if exact or name in KINDS or name in REMOVED:
        return name
    matches = [known for known in KINDS if len(name) > 3 and known.startswith(name)]
    return matches[0] if len(matches) == 1 else name


def nearest(name: str, engine: str = "vllm") -> str | None:
    """The known argument with the most similar name, None if none is similar."""
    names = KINDS if engine == "vllm" else option_names(engine)
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.8)), None)


def value_of(name: str, text: str) -> Any:
    """`text` as a value of the argument `name`; the text itself where it is invalid."""
    kind = KINDS.get(name, "text")
    try:
        if kind in ("integer", "size"):
            return _size(text) if kind == "size" else int(text)
        if kind == "number":
            return float(text)
        if kind == "json":
            return json.loads(text)
    except (ValueError, OverflowError, RecursionError):
        return text
    return text


def _size(text: str) -> int:
    """32k is 32000, 32K is 32768, "auto" is -1 (vllm/utils/argparse_utils.py)."""
    if text == "auto":
        return -1
    match = _SIZE.fullmatch(text)
    if not match:
        return int(text)
    power = _POWERS.index(match[2].lower()) + 1
    return int(float(match[1]) * (1000 if match[2].islower() else 1024) ** power)


def fits(name: str, value: Any) -> bool:
    """Whether `value` has the type of the argument `name`; unknown arguments take all."""
    kind = KINDS.get(name)
    if kind is None or kind == "json" or value is None:
        return True
    if kind == "flag" or isinstance(value, bool):
        return kind == "flag" and isinstance(value, bool)
    if kind in ("integer", "size"):
        return isinstance(value, int)
    if kind == "number":
        return isinstance(value, int | float)
    return kind == "list" or not isinstance(value, dict | list)
