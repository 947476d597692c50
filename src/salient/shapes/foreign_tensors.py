"""Models that are stored otherwise than config.json declares: quantized, wrapped, or unmerged.

Weights of 8 or 4 bits look like weights of any model if their scales are ignored, so each sign of
another layout is refused: names of tensors, their types, side-car files, keys of config.json.
Headers only; imports no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from salient.core.carried_files import SIDE_CARS
from salient.core.errors import ModelError
from salient.core.model_files import (
    ADAPTER_CONFIG,
    StoredTensor,
    read_json,
    sixteen_bit_remedy,
)
from salient.core.records import is_object

from .tensor_names import is_matrix

FLOATS = ("BF16", "F16", "F32", "F64")
CONFIG_KEYS = ("quantization_config", "quantization", "quant_config", "compression_config")


@dataclass(frozen=True)
class ForeignLayout:
    """A layout of others.

    names: of its tensors   title: what the tensors are   remedy: how to get 16-bit weights
    quantized: whether a quantization_config could describe it
    """

    names: re.Pattern[str]
    title: str
    remedy: str
    quantized: bool


def _layout(names: str, title: str, remedy: str = "", *, quantized: bool = True) -> ForeignLayout:
    remedy = remedy or sixteen_bit_remedy(None)
    return ForeignLayout(re.compile(names), title, remedy, quantized)


LAYOUTS = (
    _layout(
        r"^base_model\.model\.|\.(lora_|base_layer\.|modules_to_save\.|original_module\.|"
        r"token_adapter\.)",
        "an adapter of peft that is not merged",
        "Merge it (peft's merge_and_unload, then save_pretrained), or give the base model, with "
        "--adapter FOLDER.",
        quantized=False,
    ),
    _layout(
        r"(^|\.)_orig_mod\.",
        "the tensors of a compiled model",
        "Save it without '_orig_mod.' (model._orig_mod.save_pretrained), or rename its tensors.",
        quantized=False,
    ),
    _layout(
        r"^module\.|(^|\.)_(fsdp|checkpoint)_wrapped_module\.",
        "the tensors of a model that was wrapped for training",
        "Save it without the prefix (model.module.save_pretrained), or rename its tensors.",
        quantized=False,
    ),
    _layout(r"\.(qweight|qzeros|g_idx)$", "GPTQ or AWQ codes"),
    _layout(r"\.weight_(packed|shape|zero_point|g_idx)$", "compressed-tensors codes"),
    _layout(
        r"\.((nested_)?(absmax|quant_map)|quant_state\..*|SCB|weight_format)$",
        "bitsandbytes codes",
        sixteen_bit_remedy("bitsandbytes"),
    ),
    _layout(
        r"(gate|up|down)_proj_(blocks|scales)$",
        "MXFP4 weights",
        sixteen_bit_remedy("mxfp4"),
    ),
    _layout(
        r"_scale_inv$",
        "FP8 weights with scales",
        sixteen_bit_remedy("fp8"),
    ),
    _layout(
        r"\.(weight|input|output|activation)_(\w+_)?scales?(_\d|_ub)?$|\.[kqv]_scale$",
        "FP8, FP4 or INT8 weights with scales",
    ),
    _layout(r"_quantizer(\.|$)|amax$|pre_quant_scale$", "ModelOpt's quantizers"),
    _layout(
        r"\.(W_q|Qidxs|SU|SV|codebooks|codes|trellis|suh|svh|centroids|q_weight|q_scale\w*|q_perm|"
        r"q_invperm|q_groups|weight\._(data|scale|shift)|int_weight)$",
        "codes of HQQ, AQLM, QuIP#, VPTQ, Quanto, EXL2 or EXL3",
    ),
    _layout(r"\.(scales|biases)$", "codes with scales, as mlx, AWQ and GPTQ store them"),
)
# Of a tensor that the model has no place for.
SCALES = re.compile(r"(^|[._])(scales?|zeros?|zero_points?)(_inv|_\d)?$")
QUANTIZED = _layout("", "quantized weights")


def layout_of(name: str, *, leftover: bool = False) -> ForeignLayout | None:
    """The layout that has a tensor called `name`; `leftover`: the model has no place for it."""
    known = next((layout for layout in LAYOUTS if layout.names.search(name)), None)
    return known or (QUANTIZED if leftover and SCALES.search(name) else None)


def matches_pattern(name: str, pattern: str) -> bool:
    """Whether `--drop pattern` means the tensor `name`: all of it, its last parts, or a glob."""
    return name == pattern or name.endswith(f".{pattern}") or fnmatchcase(name, pattern)


def check_no_adapter(folder: Path) -> None:
    """Raise ModelError if `folder` has an adapter alone, naming the model that it changes."""
    if (folder / "config.json").exists() or not (folder / ADAPTER_CONFIG).is_file():
        return
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    named = f" ({ADAPTER_CONFIG} names {base!r})" if base else ""
    raise ModelError(
        f"{folder} is an adapter, no model: it has {ADAPTER_CONFIG} and no config.json. Give the "
        f"model that it was trained on{named}; salient quantize MODEL --adapter {folder} merges it."
    )


def check_declared(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor],
    drop: tuple[str, ...] = (),
) -> None:
    """Refuse signs of another layout in a folder whose config declares no quantization.

    `drop`: patterns of tensors that are not looked at. Raises ModelError naming the signs.
    """
    if is_declared(config):
        return
    names = [n for n in tensors if not any(matches_pattern(n, p) for p in drop)]
    named = {n: layout for n in names if (layout := layout_of(n)) is not None}
    signs = [f"tensors such as {min(named)!r} ({len(named)})"] if named else []
    typed = [t for t in tensors.values() if _is_quantized(t)]
    if typed:
        signs.append(f"{typed[0].name!r} of type {typed[0].dtype} ({len(typed)} such)")
    signs += [f"the key {key!r} in config.json" for key in _config_keys(config)]
    files = [name for name in SIDE_CARS if (folder / name).is_file()]
    signs += [f"the file {name} (of {SIDE_CARS[name]})" for name in files]
    if not signs:
        return
    layout = min(named.values(), key=LAYOUTS.index, default=QUANTIZED)
    stray = ""
    if not named and not typed:
        where = "the file" if files else "the key"
        stray = f", or remove {where} if all weights are 16-bit floats"
    missing = ", and config.json has no quantization_config that describes them"
    raise ModelError(
        f"{folder} holds {layout.title}: it has {', '.join(signs)}"
        f"{missing if layout.quantized else ''}. {layout.remedy.removesuffix('.')}{stray}."
    )


def is_declared(config: Mapping[str, Any]) -> bool:
    """Whether the config declares a quantization where Transformers and vLLM look for it."""
    text = config.get("text_config")
    text = text if is_object(text) else {}
    return bool(config.get("quantization_config") or text.get("quantization_config"))


def _is_quantized(tensor: StoredTensor) -> bool:
    """Whether it is a matrix of a type that 16-bit models have no matrix of."""
    if tensor.dtype in FLOATS:
        return False
    plain = tensor.dtype.startswith(("I", "U", "BOOL"))
    return not plain or is_matrix(tensor.name, tensor.shape)


def _config_keys(config: Mapping[str, Any], home: str = "", depth: int = 3) -> list[str]:
    """The keys of `config` and of the configs in it that describe a quantization."""
    keys: list[str] = []
    for key, value in config.items():
        if is_object(value) and value and depth:
            keys += [f"{home}{key}"] if key in CONFIG_KEYS else []
            keys += _config_keys(value, f"{home}{key}.", depth - 1)
    return keys
