"""GPTQ's layout, as GPTQModel, AutoGPTQ and AutoRound write it (`quant_method: gptq`).

    qweight  int32   [in*b/32, out]    b bits a code, 32/b codes a word along `in`, the first lowest
    qzeros   int32   [groups, out*b/32]  packed along `out`, in the same order
    scales   float16 [groups, out]
    g_idx    int32   [in]              the group of each input; may be absent if they are in order

`checkpoint_format` "gptq" (v1) stores zeros less one, as whole words: what GPTQModel 4 subtracts
(utils/model.py, convert_gptq_v2_to_v1_format_module) is added back with its carries. "gptq_v2"
stores them as they are. Salient writes symmetric weights as v1, asymmetric ones as v2: a zero of 0
has no place in a nibble of v1 that every engine reads alike.

With `desc_act` the groups follow the order of activations, and neighbours along `in` have other
scales: such a linear has values, but no QuantizedWeight.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import CheckpointError, ShapeError
from salient.core.model_files import StoredTensor
from salient.core.packing import WORD_BITS, pack_codes, unpack_fields
from salient.core.quant import QuantizedWeight
from salient.core.scheme import STORED, LayerSchemes, Scheme

from .stored_parts import StoredLinear

SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")
OPTIONAL = ("g_idx",)
READ = "Salient reads GPTQ checkpoints of 2, 4 or 8 bits in the formats gptq (v1) and gptq_v2."
_BITS = (2, 4, 8)


def pack(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of one module, by local name.

    Does not modify the input. `dtype` is unused: scales are float16. Raises ShapeError where the
    outputs do not fill words.
    """
    del dtype
    (out, width), bits = weight.codes.shape, weight.scheme.bits
    if out % (WORD_BITS // bits) or width % (WORD_BITS // bits):
        raise ShapeError(
            f"GPTQ packs {WORD_BITS // bits} inputs and outputs a word, which a weight of {out} x "
            f"{width} does not fill. Keep it unquantized, or write compressed-tensors."
        )
    zeros = pack_codes(weight.zero.t().contiguous(), bits)
    groups = torch.arange(width, dtype=torch.int32) // weight.scheme.group_size
    return {
        "qweight": pack_codes(weight.codes, bits).t().contiguous(),
        "qzeros": zeros - _ones(bits) if weight.scheme.symmetric else zeros,
        "scales": weight.scale.t().to(torch.float16).contiguous(),
        "g_idx": groups,
    }


def config(schemes: LayerSchemes, skipped: list[str], parts: Sequence[str] = ()) -> dict[str, Any]:
    """`quantization_config` of config.json. Raises ShapeError for schemes that differ.

    `skipped` are the names of unquantized linears, `parts` modules without a quantized one: both
    become entries of `dynamic` (GPTQModel, vLLM) that skip.
    """
    scheme = schemes.main
    if schemes.own:
        raise ShapeError(
            f"The format gptq has one scheme for all linears, not {schemes}. Write the checkpoint "
            "with --format compressed-tensors."
        )
    skips = [rf"-:^{re.escape(name)}$" for name in skipped if name != "lm_head"]
    skips += [rf"-:(.*\.)?{re.escape(part)}\..*" for part in parts]
    return {
        "quant_method": "gptq",
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "sym": scheme.symmetric,
        "desc_act": False,
        "static_groups": False,
        "true_sequential": True,
        "lm_head": False,
        "pack_dtype": "int32",
        "checkpoint_format": "gptq" if scheme.symmetric else "gptq_v2",
        "dynamic": {skip: {} for skip in skips},
    }


def read_config(settings: dict[str, Any]) -> LayerSchemes:
    """The scheme of a `quantization_config`; a group size of -1 is one group for all inputs.

    Raises CheckpointError for other layouts.
    """
    form = str(settings.get("checkpoint_format") or "gptq").lower()
    if settings.get("quant_method") in ("auto-round", "intel/auto-round"):
        form = "gptq"  # AutoRound's packing_format auto_gptq has zeros less one
    bits, group_size = settings.get("bits"), settings.get("group_size", 128)
    whole = type(group_size) is int and (group_size == -1 or 0 < group_size < 2**20)
    if form not in ("gptq", "gptq_v2") or bits not in _BITS or not whole:
        raise CheckpointError(
            f"quantization_config says checkpoint_format={form!r}, bits={bits}, "
            f"group_size={group_size}. {READ} Quantize the 16-bit model again, or write this one "
            "in such a format with GPTQModel."
        )
    return LayerSchemes(Scheme(group_size, settings.get("sym") is True, bits))


def unpack(
    tensors: dict[str, Tensor], scheme: Scheme, linear: StoredLinear | None = None
) -> QuantizedWeight:
    """The codes of one linear; exact inverse of `pack` without `linear`. Does not modify the input.

    Raises CheckpointError where its groups are not in order, or of a size without kernels.
    """
    linear = linear or StoredLinear("weight", config(LayerSchemes(scheme), []), scheme)
    codes, scale, zero, groups, scheme = _integers(tensors, scheme, linear)
    in_order = torch.equal(groups, torch.arange(len(groups)) // scheme.group_size)
    if scheme not in STORED or not in_order:
        why = (
            "its inputs are reordered (desc_act)" if scheme in STORED else f"its scheme is {scheme}"
        )
        raise CheckpointError(
            f"{linear.name!r} has no codes in groups of neighbours: {why}. validate, evaluate and "
            "compare read its dequantized weight; for kernels and for convert, quantize the 16-bit "
            "model again without desc_act, in groups of 32, 64 or 128."
        )
    return QuantizedWeight(codes, scale, zero, scheme)


def dequantize(tensors: dict[str, Tensor], linear: StoredLinear) -> Tensor:
    """The weight float32 [out, in], exact: (code - zero) * scale of each input's group."""
    assert linear.scheme
    codes, scale, zero, groups, _ = _integers(tensors, linear.scheme, linear)
    index = groups.long()
    return codes.float().sub_(zero.float()[:, index]).mul_(scale[:, index])


def _integers(
    tensors: dict[str, Tensor], scheme: Scheme, linear: StoredLinear
) -> tuple[Tensor, Tensor, Tensor, Tensor, Scheme]:
    """codes [out, in], scale and zero [out, groups], the group of each input, the own scheme."""
    packed, scales = tensors["qweight"], tensors["scales"]
    groups = tensors.get("g_idx")
    bits = scheme.bits
    if groups is not None and groups.numel():
        bits = WORD_BITS * packed.shape[0] // groups.numel()  # `dynamic` has others for some
    count, out = scales.shape
    width = packed.shape[0] * WORD_BITS // bits if bits in _BITS else 0
    columns = out * bits // WORD_BITS
    shapes = (tuple(packed.shape), tuple(tensors["qzeros"].shape))
    if shapes != ((width * bits // WORD_BITS, out), (count, columns)) or not width or width % count:
        raise linear.misfit(tensors)
    if packed.dtype != torch.int32 or tensors["qzeros"].dtype != torch.int32:
        raise linear.misfit(tensors)
    size = width // count
    if scheme.group_size not in (-1, size) and not linear.settings.get("dynamic"):
        raise linear.misfit(tensors, f"which are groups of {size}, not of {scheme.group_size}")
    if groups is None or not groups.numel():
        groups = torch.arange(width) // size
    if groups.shape != (width,) or bool(((groups < 0) | (groups >= count)).any()):
        raise linear.misfit(tensors, "and its g_idx names groups that are not there")
    stored = tensors["qzeros"]
    v1 = str(linear.settings.get("checkpoint_format") or "gptq").lower() == "gptq"
    zero = unpack_fields(stored + _ones(bits) if v1 else stored, bits)
    if scheme.symmetric and bool((zero != 2 ** (bits - 1)).any()):
        raise linear.misfit(
            tensors,
            f"and zeros of {int(zero.min())} to {int(zero.max())}, but sym means "
            f"{2 ** (bits - 1)}: correct sym or checkpoint_format",
        )
    codes = unpack_fields(packed.t(), bits)
    own = replace(scheme, bits=bits, group_size=size)
    return codes, scales.float().t().contiguous(), zero.t().contiguous(), groups.long(), own


def count_weights(headers: dict[str, StoredTensor], linear: StoredLinear) -> int:
    """How many weights the stored tensors of one linear are."""
    assert linear.scheme
    return headers["qweight"].elements * WORD_BITS // linear.scheme.bits


def _ones(bits: int) -> Tensor:
    """A word with 1 in each field: int32."""
    word = sum(1 << shift for shift in range(0, WORD_BITS, bits))
    return torch.tensor(word, dtype=torch.int64).to(torch.int32)
