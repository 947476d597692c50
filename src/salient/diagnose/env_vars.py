"""Environment variables that matter to an engine, and values without their secrets."""

import re
from collections.abc import Iterable, Mapping
from typing import cast

_PREFIXES = ("VLLM_", "CUDA_", "HIP_", "ROCR_", "HSA_", "NCCL_", "PYTORCH_", "HF_", "SGLANG_")
_NAMES = ("LD_PRELOAD", "OMP_NUM_THREADS", "HUGGING_FACE_HUB_TOKEN")
_SECRET_VARIABLE = re.compile("TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL")
_SECRET_ARGUMENT = re.compile(r"(?:^|_)(?:token|key|secret|password)$")
_USER_IN_ADDRESS = re.compile(r"://[^/@\s]+@")
SET, UNSET = "(set)", "(unset)"
_MAX_DEPTH = 20
_MAX_BITS = 512  # of an integer; Python refuses to print the largest ones
LONGEST = 120  # characters of a value that is shown


def matters(name: str) -> bool:
    """Whether an engine, its libraries or its GPUs read the variable `name`."""
    return name.startswith(_PREFIXES) or name in _NAMES


def shown(name: str, value: str) -> str:
    """The value of the variable `name`; only whether it is set for a token, key or password."""
    if _SECRET_VARIABLE.search(name.upper()):
        return SET if value else UNSET
    return plain(_USER_IN_ADDRESS.sub("://(hidden)@", value))


def plain(text: str) -> str:
    """`text` as one printable line of at most LONGEST characters."""
    text = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * LONGEST])
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def relevant(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that matter, by name, with secrets hidden."""
    return {name: shown(name, environment[name]) for name in sorted(environment) if matters(name)}


def masked(name: str, value: object, depth: int = _MAX_DEPTH) -> object:
    """`value` of the argument `name` as JSON values without secrets."""
    if _SECRET_ARGUMENT.search(name.lower().replace("-", "_")):
        return SET if value else UNSET
    if depth == 0:
        return "..."
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        named = [(str(masked("", key, depth - 1)), part) for key, part in items]
        return {key: masked(key, part, depth - 1) for key, part in named}
    if isinstance(value, list | tuple | set | frozenset):
        return [masked("", part, depth - 1) for part in cast("Iterable[object]", value)]
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return "..."
    if value is None or isinstance(value, bool | int | float):
        return value
    return _USER_IN_ADDRESS.sub("://(hidden)@", str(value)).encode("utf-8", "replace").decode()
