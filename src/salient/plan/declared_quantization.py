"""The quantization that a config.json declares, wherever it stands, and the packing of its weights.

Spellings are those of vLLM 0.33 (config/model.py, quantization/*.py) and of the writers: AutoAWQ,
GPTQModel, compressed-tensors, AutoRound, bitsandbytes, ModelOpt.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from salient.core.model_files import as_object

from .vllm.types import WeightPacking

KEYS = ("quantization_config", "compression_config")
# parts of multimodal configs: the language model's first, then any other
LANGUAGE_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
MAX_DEPTH = 4
_SPELLINGS = {
    "awq_marlin": "awq",
    "auto_awq": "awq",
    "gptq_marlin": "gptq",
    "auto_gptq": "gptq",
    "compressed_tensors": "compressed-tensors",
    "auto_round": "auto-round",
    "intel/auto-round": "auto-round",
    "nvfp4": "modelopt_fp4",
}
# Methods whose kernels are not counted here, and what runs them.
NOT_JUDGED = {
    "modelopt": "ModelOpt FP8 needs compute capability 8.9",
    "modelopt_fp4": "NVFP4 computes on compute capability 10.0 and newer; older ones widen it",
    "modelopt_mixed": "ModelOpt's mixed precision: each layer has a format of its own",
    "mxfp4": "MXFP4 experts: the engine selects a kernel for each GPU",
    "gpt_oss_mxfp4": "MXFP4 experts: the engine selects a kernel for each GPU",
    "quark": "Quark's layers have formats of their own",
    "torchao": "torchao's layers have formats of their own",
    "hqq": "HQQ is read by few engines",
    "aqlm": "AQLM is read by few engines",
    "bitnet": "BitNet is read by few engines",
    "fbgemm_fp8": "FBGEMM FP8 has kernels of its own",
    "experts_int8": "8-bit experts have kernels of their own",
}


@dataclass(frozen=True)
class DeclaredQuantization:
    """Where a config declares a quantization, and which.

    path: the keys to it, "text_config.quantization_config"   method: by vLLM's name
    packing: None if its kernels are not judged; reason: why not
    """

    path: str
    settings: Mapping[str, object]
    method: str
    packing: WeightPacking | None
    reason: str = ""


def quantization_parts(config: Mapping[str, object]) -> list[tuple[str, dict[str, object]]]:
    """The path and content of every quantization config: the top's first, then the language's."""
    return list(_parts(config, "", MAX_DEPTH))


def _parts(
    config: Mapping[str, object], path: str, depth: int
) -> Iterator[tuple[str, dict[str, object]]]:
    for key in KEYS:
        if settings := as_object(config.get(key)):
            yield path + key, settings
    names = [name for name in LANGUAGE_PARTS if name in config]
    names += [name for name in config if name not in names and name not in KEYS]
    for name in names if depth else ():
        if part := as_object(config.get(name)):
            yield from _parts(part, f"{path}{name}.", depth - 1)


def declared_quantization(config: Mapping[str, object]) -> DeclaredQuantization | None:
    """The quantization of the language model; None if the weights are unquantized."""
    parts = quantization_parts(config)
    if not parts:
        wrong = next((key for key in KEYS if config.get(key) is not None), "")
        return DeclaredQuantization(wrong, {}, "", None, "it is no JSON object") if wrong else None
    path, settings = parts[0]
    method = _method(settings)
    packing = _packing(method, settings)
    reason = packing if isinstance(packing, str) else ""
    return DeclaredQuantization(
        path, settings, method, None if isinstance(packing, str) else packing, reason
    )


def _method(settings: Mapping[str, object]) -> str:
    """The method by name, or by what only one writer writes."""
    name = settings.get("quant_method")
    algorithm = settings.get(
        "quant_algo", as_object(settings.get("quantization")).get("quant_algo")
    )
    producer = as_object(settings.get("producer")).get("name")
    if producer == "modelopt" or (name in (None, "modelopt") and algorithm):
        return "modelopt_fp4" if "FP4" in str(algorithm).upper() else "modelopt"
    if isinstance(name, str):
        return _SPELLINGS.get(name.lower(), name.lower())
    if "config_groups" in settings:
        return "compressed-tensors"
    return "bitsandbytes" if settings.get("load_in_4bit") or settings.get("load_in_8bit") else ""


def _packing(method: str, settings: Mapping[str, object]) -> WeightPacking | str:
    """The packing, or why it is not judged."""
    if method in ("awq", "gptq"):
        return _of_codes(method, settings)
    if method in ("auto-round", "inc"):
        form = str(settings.get("packing_format", "auto_round:auto_gptq")).lower()
        return _of_codes("awq" if "awq" in form else "gptq", settings)
    if method == "compressed-tensors":
        return _of_groups(settings)
    if method in ("fp8", "bitsandbytes", "gguf"):
        return WeightPacking(method)
    if not method:
        return "it names no quant_method"
    return NOT_JUDGED.get(method, f"the method {method!r} is not known here")


def _of_codes(method: str, settings: Mapping[str, object]) -> WeightPacking | str:
    """Codes in groups, as AWQ's and GPTQ's writers declare them."""
    group = settings.get("group_size", settings.get("q_group_size", 128))
    bits = settings.get("bits", settings.get("w_bit", 4))
    zeros = settings.get("zero_point", not settings.get("sym", False))
    if type(group) is not int or type(bits) is not int or not isinstance(zeros, bool):
        return "group_size and bits are no whole numbers, or zero_point is not true or false"
    if group < 1 and group != -1:
        return f"group_size {group} is no number of inputs"
    if method == "awq" and settings.get("version", "gemm") not in ("gemm", "GEMM", None):
        return f"engines read AWQ's layout gemm, not {settings.get('version')!r}"
    return WeightPacking(method, group, zeros, bits, bool(settings.get("desc_act")))


def _of_groups(settings: Mapping[str, object]) -> WeightPacking | str:
    """compressed-tensors: the first group of weights; several formats are not judged."""
    groups = [as_object(one) for one in as_object(settings.get("config_groups")).values()]
    if not groups:
        return "config_groups is empty"
    packings = {_of_group(group, settings) for group in groups}
    if len(packings) > 1:
        return "its config_groups have different formats"
    return packings.pop()


def _of_group(group: Mapping[str, object], settings: Mapping[str, object]) -> WeightPacking | str:
    weights, form = as_object(group.get("weights")), group.get("format") or settings.get("format")
    bits, size = weights.get("num_bits", 8), weights.get("group_size")
    if weights.get("type") == "float":
        return WeightPacking("fp8") if bits == 8 else _float_reason(bits, form)
    if as_object(group.get("input_activations")):
        return (
            f"{bits}-bit weights with quantized activations (W{bits}A8) have kernels of their own"
        )
    if form not in ("pack-quantized", None, "None", "dense"):
        return f"the format {form!r} is not known here"
    if weights.get("strategy") == "channel" or size is None:
        size = -1
    if type(size) is not int or type(bits) is not int or (size < 1 and size != -1):
        return "group_size or num_bits is no whole number"
    order = weights.get("actorder") in ("group", "dynamic", True)
    return WeightPacking("compressed-tensors", size, weights.get("symmetric") is False, bits, order)


def _float_reason(bits: object, form: object) -> str:
    if bits == 4 and "mxfp4" in str(form):
        return NOT_JUDGED["mxfp4"]
    return NOT_JUDGED["modelopt_fp4"] if bits == 4 else f"{bits}-bit floats are not known here"
