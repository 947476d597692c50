"""The quantization that a config.json declares, wherever it stands, and the format of its weights.

Spellings are those of vLLM 0.33 (config/model.py, quantization/*.py) and of the writers: AutoAWQ,
GPTQModel, compressed-tensors, AutoRound, bitsandbytes, ModelOpt, torchao, Quark, MLX.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from salient.core.model_files import as_object
from salient.shapes.quantization_parts import KEYS, quantization_parts

from .matrix_formats import FP8_CHANNEL, INT8_CHANNEL, MatrixFormat, scaled
from .quantization_readers import (
    Settings,
    read_bitsandbytes,
    read_codes,
    read_fp8,
    read_gguf,
    read_groups,
    read_hqq,
    read_mlx,
    read_modelopt,
    read_mxfp4,
    read_quark,
    read_torchao,
    skips,
)
from .quantization_rules import QuantizationRules
from .vllm.types import METHODS, WeightPacking

__all__ = ["DeclaredQuantization", "declared_quantization", "quantization_parts"]

_SPELLINGS = {
    "awq_marlin": "awq",
    "auto_awq": "awq",
    "gptq_marlin": "gptq",
    "auto_gptq": "gptq",
    "gptqmodel": "gptq",
    "compressed_tensors": "compressed-tensors",
    "auto_round": "auto-round",
    "intel/auto-round": "auto-round",
    "nvfp4": "modelopt_fp4",
    "modelopt_mixed": "modelopt",
    "gpt_oss_mxfp4": "mxfp4",
    "deepseek_v4_fp8": "fp8",
    "deepgemm_fp8": "fp8",
    "finegrained_fp8": "fp8",
    "bitnet_bitblas": "bitnet",
}
# Methods whose kernels are not counted here, and what is known of them.
NOT_JUDGED = {
    "quark": "Quark's layers have formats of their own",
    "torchao": "torchao's layers have formats of their own",
    "hqq": "HQQ is read by few engines",
    "aqlm": "AQLM is read by few engines",
    "bitnet": "BitNet is read by few engines",
    "experts_int8": "8-bit experts have kernels of their own",
    "awq_gemv": "engines read AWQ's layout gemm, not 'gemv'",
    "w4a8": "4-bit weights with quantized activations (W4A8) have kernels of their own",
    "mlx": "MLX's codes are read by mlx-lm",
}
_FIXED: dict[str, MatrixFormat] = {
    "eetq": scaled("eetq", "EETQ INT8", 8, 16),
    "bitnet": scaled("bitnet", "BitNet", 2, 16),
    "deepspeedfp": scaled("deepspeedfp", "DeepSpeed FP", 8, 16, 512),
    "ptpc_fp8": FP8_CHANNEL,
    "w8a8_fp8": FP8_CHANNEL,
    "w8a8_int8": INT8_CHANNEL,
    "tpu_int8": INT8_CHANNEL,
    "experts_int8": scaled("experts_int8", "INT8 experts", 8, 32),
}


@dataclass(frozen=True)
class DeclaredQuantization:
    """Where a config declares a quantization, and which.

    path: the keys to it, "text_config.quantization_config"   method: by vLLM's name
    rules: the format of each matrix, None where it is not known, and `reason` why
    """

    path: str
    settings: Mapping[str, object] = field(repr=False)
    method: str
    rules: QuantizationRules | None
    reason: str = ""

    @property
    def judged(self) -> bool:
        """Whether vLLM's rules of kernels are known for each of its formats."""
        forms = self.rules.forms if self.rules else ()
        return bool(forms) and all(form.method in METHODS for form in forms)

    @property
    def packing(self) -> WeightPacking | None:
        """What kernels see; None where matrices differ or no rules of kernels are known."""
        forms = self.rules.forms if self.rules else ()
        return forms[0].packing if len(forms) == 1 and forms[0].method in METHODS else None


def declared_quantization(config: Mapping[str, object]) -> DeclaredQuantization | None:
    """The quantization of the language model; None if the weights are unquantized."""
    parts = quantization_parts(config)
    if not parts:
        wrong = next((key for key in KEYS if config.get(key) is not None), "")
        return DeclaredQuantization(wrong, {}, "", None, "it is no JSON object") if wrong else None
    path, settings = parts[0]
    method = _method(settings)
    rules = read_rules(method, settings)
    if isinstance(rules, str):
        return DeclaredQuantization(path, settings, method, None, rules)
    unknown = next((form for form in rules.forms if form.method not in METHODS), None)
    reason = f"the kernels of {unknown.title} are not known here" if unknown else ""
    reason = NOT_JUDGED.get(unknown.method, reason) if unknown else ""
    return DeclaredQuantization(path, settings, method, rules, reason)


def _method(settings: Settings) -> str:
    """The method by name, or by what only one writer writes."""
    name = settings.get("quant_method")
    inner = as_object(settings.get("quantization"))
    algorithm = settings.get("quant_algo", inner.get("quant_algo"))
    producer = as_object(settings.get("producer")).get("name")
    if producer == "modelopt" or (name in (None, "modelopt") and algorithm):
        return "modelopt_fp4" if "FP4" in str(algorithm).upper() else "modelopt"
    if isinstance(name, str):
        return _SPELLINGS.get(name.lower(), name.lower())
    if "config_groups" in settings:
        return "compressed-tensors"
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    if "w_bit" in settings or "zero_point" in settings:
        return "awq"
    if "desc_act" in settings or "damp_percent" in settings:
        return "gptq"
    return "mlx" if "bits" in settings and "group_size" in settings else ""


Reader = Callable[[str, Settings], QuantizationRules | str]
_READERS: dict[str, Reader] = {
    "awq": read_codes,
    "gptq": read_codes,
    "compressed-tensors": read_groups,
    "fp8": read_fp8,
    "fbgemm_fp8": read_fp8,
    "modelopt": read_modelopt,
    "modelopt_fp4": read_modelopt,
    "modelopt_mxfp8": read_modelopt,
    "mxfp4": read_mxfp4,
    "bitsandbytes": read_bitsandbytes,
    "mlx": read_mlx,
    "torchao": read_torchao,
    "quark": read_quark,
    "hqq": read_hqq,
    "gguf": read_gguf,
}


def read_rules(method: str, settings: Settings) -> QuantizationRules | str:
    """The format of each matrix, or why it is not known."""
    if not method:
        return "it names no quant_method"
    if method in ("auto-round", "inc"):
        form = str(settings.get("packing_format", "auto_round:auto_gptq")).lower()
        return read_codes("awq" if "awq" in form else "gptq", settings)
    if reader := _READERS.get(method):
        return reader(method, settings)
    form = _FIXED.get(method) or _bits_only(method, settings)
    if form is None:
        return NOT_JUDGED.get(method, f"the method {method!r} is not known here")
    if method == "experts_int8":
        return QuantizationRules(None, form)
    return QuantizationRules(form, entries=skips(settings))


def _bits_only(method: str, settings: Settings) -> MatrixFormat | None:
    """A method of which only the mean of the bits is known: AQLM's codebooks, EXL2, HIGGS, ..."""
    bits = settings.get("bits", settings.get("nbits"))
    if method == "aqlm":
        keys = ("nbits_per_codebook", "num_codebooks", "in_group_size", "out_group_size")
        sizes = [settings.get(key, 1) for key in keys]
        whole = [size for size in sizes if type(size) is int and 0 < size < 2**16]
        bits = whole[0] * whole[1] / (whole[2] * whole[3]) if len(whole) == 4 else None
    if isinstance(bits, bool) or not isinstance(bits, int | float) or not 0 < bits < 16:
        return None
    return scaled(method, f"{method.upper()} {bits:g}-bit", float(bits), 16)
