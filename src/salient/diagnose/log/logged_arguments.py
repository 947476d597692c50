"""Arguments of a server as its log prints them, and the facts that steps depend on."""

import re
from collections.abc import Mapping

from salient.diagnose.serving.server_arguments import SGLANG
from salient.diagnose.steps import DTYPES, ServerFacts, release_of

# 'name': value of a dict, name=value of Namespace(...) and ServerArgs(...)
_ARGUMENT = re.compile(
    r"(?<![\w.])'?([a-z]\w*)'?(?:=|: )"
    r"""('[^']*'|"[^"]*"|\[[^\]]*\]|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|[\w.+-]+)"""
)
_CONSTANTS: dict[str, object] = {"True": True, "False": False, "None": None}
_DEVICES = {"gpu": "nvidia", "rocm": "amd", "xpu": "intel", "cpu": "cpu"}


def read_arguments(text: str, engine: str) -> dict[str, object]:
    """The arguments of a line by vLLM's names; nested ones as their text, unset ones left out."""
    names = SGLANG if engine == "sglang" else {}
    pairs = ((match[1], _value(match[2])) for match in _ARGUMENT.finditer(text))
    return {names.get(name, name): value for name, value in pairs if value is not None}


def _value(text: str) -> object:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text.strip("'\"")


def method_of(name: str) -> str:
    """The checkpoint's method of a loaded one: "awq" of "awq_marlin" and "auto_awq"."""
    return name.removeprefix("auto_").removesuffix("_marlin")


def logged_server(
    *,
    engine: str,
    version: str,
    device: str,
    dtype: str,
    quantization: str,
    tp: int | None,
    utilization: str,
    arguments: Mapping[str, object],
    complete: bool,
    draft: bool | None,
) -> ServerFacts:
    """What a log states about its server; "" is unknown.

    complete: the log names every argument that is set
    """
    number = re.fullmatch(r"\d+(?:\.\d+)?", utilization)
    return ServerFacts(
        engine=engine or None,
        version=release_of(version),
        device=_DEVICES.get(device),
        tp=tp,
        dtype=DTYPES.get(dtype, dtype) or None,
        method=method_of(quantization) or None,
        draft="speculative_config" in arguments or draft,
        utilization=float(number[0]) if number else None,
        arguments=arguments,
        complete=complete,
    )
