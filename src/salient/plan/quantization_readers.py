"""From a quantization config to rules, writer by writer.

Keys are those of AutoAWQ, GPTQModel, AutoRound, compressed-tensors, ModelOpt, bitsandbytes,
torchao, Quark, HQQ, MLX and of Transformers (utils/quantization_config.py). A reader returns a
text where the config does not say how its weights are stored.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from salient.core.model_files import as_list, as_object

from .gguf_types import BITS
from .matrix_formats import (
    FP8_CHANNEL,
    FP8_TENSOR,
    INT8_CHANNEL,
    MXFP4,
    MXFP8,
    NVFP4,
    MatrixFormat,
    block_fp8,
    codes,
    scaled,
)
from .module_patterns import ModulePatterns, module_patterns
from .quantization_rules import QuantizationRules
from .vllm.types import WeightPacking

Settings = Mapping[str, object]
Entries = tuple[tuple[ModulePatterns, MatrixFormat | None], ...]
# Keys of lists of modules that stay in 16-bit.
SKIPS = (
    "modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules", "exclude",
    "llm_int8_skip_modules", "skip_modules", "linear_weights_not_to_quantize", "modules_to_exclude",
)  # fmt: skip
_NUMBERS = "group_size and bits are no whole numbers, or zero_point is not true or false"


def skips(settings: Settings) -> Entries:
    """The entry of what stays in 16-bit."""
    names = [name for key in SKIPS for name in as_list(settings.get(key))]
    return ((module_patterns(names), None),) if names else ()


def read_codes(method: str, settings: Settings) -> QuantizationRules | str:
    """Codes in groups, as AWQ's and GPTQ's writers declare them."""
    form = _codes(method, settings)
    if isinstance(form, str):
        return form
    if method == "awq" and settings.get("version", "gemm") not in ("gemm", "GEMM", None):
        version = str(settings.get("version"))
        packing = replace(form.packing, method="awq_gemv")
        form = replace(form, packing=packing, title=f"{form.title} ({version.lower()})")
    entries = _dynamic(form, settings) + _extra(form, settings) + skips(settings)
    head = form if settings.get("lm_head") is True else None
    return QuantizationRules(form, entries=entries, head=head)


def _codes(method: str, settings: Settings, base: Settings | None = None) -> MatrixFormat | str:
    """The format; `base` has what `settings` leaves out."""
    whole = {**(base or {}), **settings}
    group = whole.get("group_size", whole.get("q_group_size", 128))
    bits = whole.get("bits", whole.get("w_bit", 4))
    zeros = whole.get("zero_point", not whole.get("sym", False))
    if type(group) is not int or type(bits) is not int or not isinstance(zeros, bool):
        return _NUMBERS
    if (group < 1 and group != -1) or not 1 <= bits <= 16:
        return f"group_size {group} is no number of inputs" if 1 <= bits <= 16 else _NUMBERS
    return codes(method, bits, group, zeros=zeros, order=bool(whole.get("desc_act")))


def _variant(form: MatrixFormat, settings: object, base: Settings) -> MatrixFormat | None:
    """`form` with a module's own bits and group; None where it stays in 16-bit."""
    own = as_object(settings)
    variant = _codes(form.method, {**own, "bits": own.get("bits", form.packing.bits)}, base)
    return form if isinstance(variant, str) else None if variant.code >= 16 else variant


def _dynamic(form: MatrixFormat, settings: Settings) -> Entries:
    """GPTQModel's `dynamic`: "-:expression" skips, "+:expression" differs."""
    entries: list[tuple[ModulePatterns, MatrixFormat | None]] = []
    for key, own in as_object(settings.get("dynamic")).items():
        sign, expression = key[:2], key.removeprefix("+:").removeprefix("-:")
        patterns = module_patterns([f"re:{expression}", f"re:.*{expression}"])
        entries.append((patterns, None if sign == "-:" else _variant(form, own, settings)))
    return tuple(entries)


def _extra(form: MatrixFormat, settings: Settings) -> Entries:
    """AutoRound's `extra_config`: a module or expression -> its own bits."""
    by_format: dict[MatrixFormat | None, list[str]] = {}
    for name, own in as_object(settings.get("extra_config")).items():
        names = by_format.setdefault(_variant(form, own, settings), [])
        names += [name, f"re:{name}"] if re.search(r"[*\\(|]", name) else [name]
    return tuple((module_patterns(names), one) for one, names in by_format.items())


def read_groups(method: str, settings: Settings) -> QuantizationRules | str:
    """compressed-tensors: a format for each group of targets."""
    groups = [as_object(one) for one in as_object(settings.get("config_groups")).values()]
    if not groups:
        return "config_groups is empty"
    pairs: list[tuple[list[object], MatrixFormat]] = []
    for group in groups:
        form = group_format(group, settings)
        if isinstance(form, str):
            return form
        pairs.append((as_list(group.get("targets")) or ["Linear"], form))
    general = [form for targets, form in pairs if _is_general(targets)]
    if len(set(general)) > 1:
        return "its config_groups have different formats for the same modules"
    named = tuple((module_patterns(t), form) for t, form in pairs if not _is_general(t))
    return QuantizationRules(general[0] if general else None, entries=skips(settings) + named)


def _is_general(targets: list[object]) -> bool:
    return any(target in ("Linear", "re:.*", "*", "LinearBase") for target in targets)


def group_format(group: Settings, settings: Settings) -> MatrixFormat | str:
    """The format of one of compressed-tensors' (and ModelOpt's) groups."""
    weights, form = as_object(group.get("weights")), group.get("format") or settings.get("format")
    bits, size = weights.get("num_bits", 8), weights.get("group_size")
    strategy = weights.get("strategy")
    if weights.get("type") == "float":
        return _float(bits, size, strategy, str(form), weights.get("block_structure"))
    if strategy in ("channel", "tensor") or size is None:
        size = -1
    if type(size) is not int or type(bits) is not int or (size < 1 and size != -1):
        return "group_size or num_bits is no whole number"
    if as_object(group.get("input_activations")):
        return (
            INT8_CHANNEL if bits == 8 else scaled("w4a8", f"INT{bits} (W{bits}A8)", bits, 16, size)
        )
    if form in ("int-quantized", "naive-quantized") and bits == 8:
        return INT8_CHANNEL
    if form not in ("pack-quantized", "marlin-24", None, "None", "dense", "mixed-precision"):
        return f"the format {form!r} is not known here"
    order = weights.get("actorder") in ("group", "dynamic", True)
    zeros = weights.get("symmetric") is False
    return codes("compressed-tensors", bits, size, zeros=zeros, order=order)


def _float(
    bits: object, size: object, strategy: object, form: str, block: object
) -> MatrixFormat | str:
    if bits == 4:
        return MXFP4 if "mxfp4" in form or size == 32 else NVFP4
    if bits != 8:
        return f"{bits}-bit floats are not known here"
    if "mxfp8" in form or size == 32:
        return MXFP8
    if strategy == "block":
        return _blocks(block) or block_fp8(128, 128)
    return FP8_TENSOR if strategy == "tensor" else FP8_CHANNEL


def _blocks(sizes: object) -> MatrixFormat | None:
    """FP8 in blocks of [outputs, inputs]; None where it has no sizes."""
    pair = as_list(sizes)
    fits = len(pair) == 2 and all(type(size) is int and 0 < size < 2**20 for size in pair)
    return block_fp8(pair[0], pair[1]) if fits else None


def read_fp8(method: str, settings: Settings) -> QuantizationRules | str:
    """DeepSeek's blocks, else a scale a tensor; FBGEMM has one for each output."""
    form = _blocks(settings.get("weight_block_size")) or FP8_TENSOR
    if method == "fbgemm_fp8":
        form = FP8_CHANNEL
    experts = MXFP4 if str(settings.get("expert_dtype")).lower() in ("fp4", "mxfp4") else None
    return QuantizationRules(form, experts, skips(settings))


_ALGORITHMS: dict[str, MatrixFormat] = {
    "FP8": replace(FP8_TENSOR, packing=WeightPacking("modelopt_fp8")),
    "FP8_PER_CHANNEL_PER_TOKEN": FP8_CHANNEL,
    "FP8_PB_WO": block_fp8(128, 128),
    "FP8_PB_REAL": block_fp8(128, 128),
    "NVFP4": NVFP4,
    "NVFP4_AWQ": NVFP4,
    "W4A16_NVFP4": NVFP4,
    "W4A8_NVFP4_FP8": NVFP4,
    "MXFP4": MXFP4,
    "W4A8_MXFP4_FP8": MXFP4,
    "MXFP8": MXFP8,
    "INT8_SQ": INT8_CHANNEL,
    "W8A8_SQ_PER_CHANNEL": INT8_CHANNEL,
    "W4A16_AWQ": codes("compressed-tensors", 4, 128, zeros=False),
    "W4A8_AWQ": scaled("w4a8", "INT4 (W4A8)", 4, 16, 128),
}


def read_modelopt(method: str, settings: Settings) -> QuantizationRules | str:
    """ModelOpt: one algorithm, or one for each of `quantized_layers`."""
    inner = {**settings, **as_object(settings.get("quantization"))}
    algorithm = str(inner.get("quant_algo")).upper()
    layers = as_object(inner.get("quantized_layers"))
    if layers:
        by_format: dict[MatrixFormat, list[str]] = {}
        for name, own in layers.items():
            form = _ALGORITHMS.get(str(as_object(own).get("quant_algo")).upper())
            if form:
                by_format.setdefault(form, []).append(name)
        entries = tuple((module_patterns(names), form) for form, names in by_format.items())
        if rest := _blocks(inner.get("weight_block_size")):  # what is not listed stayed in FP8
            return QuantizationRules(rest, entries=entries)
        return QuantizationRules(None, entries=entries + skips(inner))
    if algorithm in _ALGORITHMS:
        return QuantizationRules(_ALGORITHMS[algorithm], entries=skips(inner))
    if inner.get("config_groups"):
        return read_groups(method, inner)
    return f"ModelOpt's {algorithm} is not known here"


def read_mxfp4(method: str, settings: Settings) -> QuantizationRules | str:
    """Only experts: Transformers and vLLM have no other MXFP4 modules of this method."""
    return QuantizationRules(None, MXFP4, skips(settings))


def read_bitsandbytes(method: str, settings: Settings) -> QuantizationRules | str:
    if settings.get("load_in_8bit", settings.get("_load_in_8bit")):
        form = scaled("bitsandbytes", "bitsandbytes INT8", 8, 32)
        return QuantizationRules(form, entries=skips(settings))
    double = bool(settings.get("bnb_4bit_use_double_quant"))
    # an absmax for 64 weights: float32, or 8 bits and a float32 for 256 of them
    scale = 8 + 32 / 256 if double else 32.0
    kind = str(settings.get("bnb_4bit_quant_type", "fp4")).upper()
    form = MatrixFormat(WeightPacking("bitsandbytes"), f"bitsandbytes {kind}", 4, scale, 64)
    return QuantizationRules(form, entries=skips(settings))


def _mlx(settings: Settings) -> MatrixFormat | None:
    """MLX's modes: affine codes have a 16-bit scale and bias for each group."""
    bits, group, mode = settings.get("bits"), settings.get("group_size"), settings.get("mode")
    if type(bits) is not int or not 0 < bits < 16 or type(group) is not int or group < 1:
        return None
    scale = 8 if mode in ("mxfp4", "mxfp8", "nvfp4") else 32
    title = f"MLX {str(mode).upper()}" if scale == 8 else f"MLX {bits}-bit g{group}"
    return scaled("mlx", title, bits, scale, group)


def read_mlx(method: str, settings: Settings) -> QuantizationRules | str:
    """MLX quantizes embeddings and heads too; entries of modules are false or differ."""
    form = _mlx(settings)
    if form is None:
        return "group_size and bits are no whole numbers"
    by_format: dict[MatrixFormat | None, list[str]] = {}
    for name, own in settings.items():
        module = as_object(own)
        if own is False or module:
            differs = {**settings, **module} if module else {}
            by_format.setdefault(_mlx(differs), []).append(name)
    entries = tuple((module_patterns(names), one) for one, names in by_format.items())
    return QuantizationRules(form, entries=entries, embedding=form, head=form)


_TORCHAO = (
    (r"mxfp4|mx_?fp4", MXFP4),
    (r"nvfp4", NVFP4),
    (r"float8|fp8", FP8_CHANNEL),
    (r"int8.*int4|8da4w", scaled("torchao", "torchao INT4 (W4A8)", 4, 32, 32)),
    (r"int4|uint4", scaled("torchao", "torchao INT4", 4, 32, 128)),
    (r"int8", scaled("torchao", "torchao INT8", 8, 32)),
)


def _torchao(config: object) -> MatrixFormat | None:
    """torchao's name of a config, with the group size of its data."""
    data = as_object(as_object(config).get("_data")) or as_object(config)
    name = str(as_object(config).get("_type", config)).lower()
    group = data.get("group_size")
    for pattern, form in _TORCHAO:
        if re.search(pattern, name):
            packing = replace(form.packing, method="torchao")
            form = replace(form, packing=packing, title=f"torchao {form.title.split()[-1]}")
            fits = type(group) is int and 0 < group < 2**20 and form.group > 0
            return replace(form, group=group) if fits else form
    return None


def read_torchao(method: str, settings: Settings) -> QuantizationRules | str:
    kind = settings.get("quant_type")
    default = as_object(kind).get("default", kind)
    arguments = as_object(settings.get("quant_type_kwargs"))
    by_name = as_object(as_object(default).get("_data"))
    modules = as_object(by_name.get("module_fqn_to_config") or by_name.get("fqn_to_config"))
    if not modules:
        named = {"_type": default, "_data": arguments} if isinstance(default, str) else default
        form = _torchao(named)
        if form is None:
            return "torchao's layers have formats of their own"
        ends = form if settings.get("include_input_output_embeddings") is True else None
        return QuantizationRules(form, entries=skips(settings), embedding=ends, head=ends)
    by_format: dict[MatrixFormat | None, list[str]] = {}
    for name, own in modules.items():
        if name != "_default":
            by_format.setdefault(_torchao(own), []).append(name)
    entries = tuple((module_patterns(names), one) for one, names in by_format.items())
    return QuantizationRules(_torchao(modules.get("_default")), entries=entries + skips(settings))


def _quark(config: object) -> MatrixFormat | None:
    """Quark's spec of weights: the first of several stages."""
    weight = as_object(config).get("weight")
    spec = as_object(as_list(weight)[0] if as_list(weight) else weight)
    kind, scheme, group = (str(spec.get(key)).lower() for key in ("dtype", "qscheme", "group_size"))
    size = int(group) if group.isdecimal() and len(group) < 7 and int(group) else 128
    if kind in ("fp8_e4m3", "fp8_e5m2"):
        return FP8_TENSOR if scheme == "per_tensor" else FP8_CHANNEL
    if kind in ("fp4", "mxfp4", "mx"):
        return MXFP4
    if kind in ("fp6_e2m3", "fp6_e3m2", "mx6"):
        return scaled("quark", "MXFP6", 6, 8, 32)
    if kind in ("int4", "uint4"):
        return scaled("quark", f"Quark INT4 g{size}", 4, 16 + 4 * (kind == "uint4"), size)
    return INT8_CHANNEL if kind in ("int8", "uint8") else None


def read_quark(method: str, settings: Settings) -> QuantizationRules | str:
    default = _quark(settings.get("global_quant_config"))
    layers = as_object(settings.get("layer_quant_config"))
    entries = tuple((module_patterns([name]), _quark(own)) for name, own in layers.items())
    if default is None and not entries:
        return "Quark's layers have formats of their own"
    return QuantizationRules(default, entries=skips(settings) + entries)


def read_hqq(method: str, settings: Settings) -> QuantizationRules | str:
    config = as_object(settings.get("quant_config"))
    weights = as_object(config.get("weight_quant_params"))
    form = _hqq(weights)
    if form:
        return QuantizationRules(form, entries=skips(settings))
    by_format: dict[MatrixFormat | None, list[str]] = {}
    for name, own in config.items():
        own = as_object(own)
        one = _hqq(as_object(own.get("weight_quant_params")) or own)
        by_format.setdefault(one, []).append(name)
    if not any(by_format):
        return "HQQ's layers have formats of their own"
    entries = tuple((module_patterns(names), one) for one, names in by_format.items())
    return QuantizationRules(None, entries=entries + skips(settings))


def _hqq(weights: Settings) -> MatrixFormat | None:
    bits, group = weights.get("nbits"), weights.get("group_size")
    if type(bits) is not int or not 0 < bits < 16:
        return None
    size = group if type(group) is int and 0 < group < 2**20 else -1
    return scaled(
        "hqq", f"HQQ {bits}-bit g{size}" if size > 0 else f"HQQ {bits}-bit", bits, 32, size
    )


def read_gguf(method: str, settings: Settings) -> QuantizationRules | str:
    """The types of a GGUF file's header, by module; the first has most bytes."""
    kinds = as_object(settings.get("types"))
    if not kinds:
        return "a GGUF model without the header of its file"
    forms: dict[str, MatrixFormat | None] = {
        kind: scaled("gguf", f"GGUF {kind}", BITS[kind], 0) if kind in BITS else None
        for kind in kinds
    }
    entries = tuple((module_patterns(as_list(kinds[kind])), form) for kind, form in forms.items())
    title = str(settings.get("file_type")) or next(iter(kinds))
    return QuantizationRules(next(iter(forms.values())), entries=entries, title=f"GGUF {title}")
