"""compressed-tensors' pack-quantized layout, weights only (W4A16, W8A16), as vLLM reads it.

    weight_packed      int32 [out, in/n]    codes, n = 32/bits a word along `in`, the first lowest
    weight_scale       16-bit [out, in/g]   in the model's own type
    weight_zero_point  int32 [out/n, in/g]  packed along `out`; only for asymmetric weights
    weight_shape       int64 [2]            out, in

The format counts codes from -8 to 7 (-128 to 127) and stores them plus 8 (128): they are ours.

Each scheme is a config group. The most frequent has the target `Linear`; the others name their
linears, which vLLM 0.32 (compressed_tensors/utils.py, find_matched_target) and compressed-tensors
0.17 (utils/match.py, match_targets) prefer to the class. The experts of a block are one expression.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from salient.core.errors import CheckpointError
from salient.core.model_files import as_list, as_object
from salient.core.packing import WORD_BITS, pack_codes, unpack_codes
from salient.core.quant import QuantizedWeight
from salient.core.scheme import GROUP_SIZES, LayerSchemes, Scheme, stored_scheme

EVERY_LINEAR = ("Linear", "re:.*")
READ = (
    "Salient reads compressed-tensors checkpoints with pack-quantized weights of 4 or 8 bits in "
    f"groups of {', '.join(map(str, GROUP_SIZES))}, and 16-bit activations (W4A16, W8A16)."
)
SUFFIXES = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")


def pack(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of one module, by local name. Does not modify the input."""
    bits = weight.scheme.bits
    tensors = {
        "weight_packed": _pack_rows(weight.codes, bits),
        "weight_scale": weight.scale.to(dtype),
        "weight_shape": torch.tensor(weight.codes.shape, dtype=torch.int64),
    }
    if not weight.scheme.symmetric:
        tensors["weight_zero_point"] = _pack_rows(weight.zero.t(), bits).t().contiguous()
    return tensors


def unpack(tensors: dict[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    """Exact inverse of `pack`. Does not modify the input.

    Codes that do not fill the words of their bits are returned whole: their shape does not fit.
    """
    out, width = (int(size) for size in tensors["weight_shape"])
    scale = tensors["weight_scale"].float()
    zero = torch.full(scale.shape, scheme.middle, dtype=torch.uint8)
    if not scheme.symmetric:
        zero = _unpack_rows(tensors["weight_zero_point"].t(), out, scheme.bits).t().contiguous()
    codes = unpack_codes(tensors["weight_packed"], scheme.bits)
    if 0 <= codes.shape[1] - width < WORD_BITS // scheme.bits:  # else they are of other bits
        codes = codes[:, :width].contiguous()
    return QuantizedWeight(codes, scale, zero, scheme)


def _pack_rows(codes: Tensor, bits: int) -> Tensor:
    """uint8 [rows, columns] -> int32 [rows, words], padded with code 0."""
    return pack_codes(pad(codes, (0, -codes.shape[1] % (WORD_BITS // bits))), bits)


def _unpack_rows(packed: Tensor, columns: int, bits: int) -> Tensor:
    """int32 [rows, words] -> uint8 [rows, columns]."""
    return unpack_codes(packed, bits)[:, :columns].contiguous()


def config(schemes: LayerSchemes, skipped: list[str], parts: Sequence[str] = ()) -> dict[str, Any]:
    """`quantization_config` of config.json.

    `skipped` are the names of unquantized linears, `parts` modules without a quantized one.
    """
    targets: dict[Scheme, list[str]] = {schemes.main: ["Linear"]}
    for name, scheme in schemes.own.items():
        targets.setdefault(scheme, []).append(name)
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{index}": {"targets": names, "weights": _weights(scheme)}
            for index, (scheme, names) in enumerate(targets.items())
        },
        "ignore": sorted({"lm_head", *skipped})
        + [rf"re:(.*\.)?{re.escape(part)}\..*" for part in parts],
    }


def _weights(scheme: Scheme) -> dict[str, Any]:
    """The settings of a config group's weights."""
    return {
        "num_bits": scheme.bits,
        "type": "int",
        "strategy": "group",
        "group_size": scheme.group_size,
        "symmetric": scheme.symmetric,
        "dynamic": False,
    }


def read_config(settings: dict[str, Any]) -> LayerSchemes:
    """The schemes of a `quantization_config`, ours or others'.

    Raises CheckpointError for other weights than W4A16 and W8A16.
    """
    groups = [as_object(group) for group in as_object(settings.get("config_groups")).values()]
    if not groups:
        raise CheckpointError(f"quantization_config has 0 config_groups. {READ}")
    main: Scheme | None = None
    own: dict[str, Scheme] = {}
    for group in groups:
        scheme = _scheme(group, settings)
        targets = [t for t in as_list(group.get("targets")) if isinstance(t, str)]
        if not targets or any(target in EVERY_LINEAR for target in targets):
            if main not in (None, scheme):
                raise CheckpointError(
                    f"quantization_config has two config_groups for every linear, {main} and "
                    f"{scheme}: correct their targets."
                )
            main = scheme
        own |= {target: scheme for target in targets if target not in EVERY_LINEAR}
    main = main or next(iter(own.values()))
    return LayerSchemes(main, {t: scheme for t, scheme in own.items() if scheme != main})


def _scheme(group: dict[str, object], settings: dict[str, Any]) -> Scheme:
    """The scheme of a config group. Raises CheckpointError if Salient does not read it."""
    weights = as_object(group.get("weights"))
    kind = (
        group.get("format") or settings.get("format"),
        weights.get("num_bits"),
        weights.get("type"),
        weights.get("strategy"),
    )
    reordered = weights.get("actorder") in ("group", True)  # "weight" leaves the groups in place
    symmetric = weights.get("symmetric", True)
    name = f"w{kind[1]}-g{weights.get('group_size')}" + ("-sym" if symmetric else "")
    scheme = stored_scheme(name)
    fits = kind == ("pack-quantized", kind[1], "int", "group") and not reordered
    if not fits or scheme is None or group.get("input_activations"):
        raise CheckpointError(
            "quantization_config has a config group with (format, bits, type, strategy) "
            f"= {kind}, group size {weights.get('group_size')}. {READ}"
        )
    return scheme
