"""compressed-tensors' packed linears: types, shapes and the sizes written beside them.

    weight_packed      [out, in*bits/32]
    weight_scale       [out, in/g]
    weight_zero_point  [out*bits/32, in/g]

Source: compressed-tensors 0.17 (compressors/pack_quantized), as vLLM 0.32 allocates them
(schemes/compressed_tensors_wNa16.py).
"""

import struct

from salient.diagnose.finding import Finding

from .awq_layout import CODE_BITS, check_types, place_of
from .contents import FLOATS, WORD_BITS, CheckpointContents, QuantizedLinear, many, place, seen
from .ct_config import WeightArgs, args_of
from .tensor_reader import TensorReader


def check_packed(
    contents: CheckpointContents, groups: list[WeightArgs], reader: TensorReader
) -> list[Finding]:
    """What does not agree; fills in what the linears measure."""
    wrong: list[tuple[str, str]] = []
    for linear in contents.packed.values():
        args = args_of(linear.name, groups)
        words = _measure(linear, (args.bits if args else None) or 4, reader)
        if words:
            wrong.append((place_of(linear), words))
    found = check_types(contents, FLOATS, FLOATS)
    if wrong:
        found.append(
            Finding(
                "shape-disagrees",
                "error",
                f"Shapes that do not fit each other in {many(len(wrong), 'linear')}",
                matters="Readers crash, or read scales and zeros of other weights.",
                do=("Fetch these files again. If they are as written, quantize again.",),
                evidence=seen(wrong),
                count=len(wrong),
                rank=16,
            )
        )
    unpacked = [p.zeros for p in contents.packed.values() if p.zeros and p.zeros.dtype == "I8"]
    if unpacked:
        found = [f for f in found if f.id != "dtype-wrong"] + [
            Finding(
                "zeros-unpacked",
                "error",
                f"Zero points are bytes, not packed words, in {many(len(unpacked), 'linear')}",
                matters="compressed-tensors wrote them so before it packed them; vLLM 0.32 expects "
                "int32 [out/8, groups].",
                do=("Save the checkpoint again with a newer llm-compressor, or quantize again.",),
                evidence=seen((place(t), f"I8 {list(t.shape)}") for t in unpacked),
                count=len(unpacked),
                rank=16,
            )
        ]
    return found


def _measure(linear: QuantizedLinear, bits: int, reader: TensorReader) -> str:
    """Fill in a linear's sizes. Returns what does not fit, "" if all does.

    `bits` is what the settings say; where only others fit the written shape, those are taken.
    """
    codes, scales, zeros = linear.codes, linear.scales, linear.zeros
    if not codes or not scales:
        return ""
    if len(codes.shape) != 2 or len(scales.shape) != 2:
        return f"weight_packed {list(codes.shape)}, weight_scale {list(scales.shape)}; two axes fit"
    out, words = codes.shape
    said = _written_shape(linear, reader)
    fitting = [b for b in (bits, *CODE_BITS) if said and b > 0 and _words(said[1], b) == words]
    linear.bits = fitting[0] if fitting else max(bits, 1)
    width = said[1] if said else words * WORD_BITS // linear.bits
    if said and (said[0] != out or _words(width, linear.bits) != words):
        return f"weight_shape says {list(said)}, weight_packed is {list(codes.shape)} words"
    if scales.shape[0] != out or not 0 < scales.shape[1] <= width:
        return f"weight_scale is {list(scales.shape)}, the codes have {out} rows of {width}"
    groups = scales.shape[1]
    needed = (_words(out, linear.bits), groups)
    if zeros and zeros.dtype == "I32" and zeros.shape != needed:
        return f"weight_zero_point is {list(zeros.shape)}, {list(needed)} fits"
    linear.out, linear.width, linear.groups = out, width, groups
    return ""


def _words(values: int, bits: int) -> int:
    return -(-values * bits // WORD_BITS)


def _written_shape(linear: QuantizedLinear, reader: TensorReader) -> tuple[int, int] | None:
    """The two numbers in weight_shape, None where it is missing or no pair."""
    tensor = linear.parts.get(linear.suffixes.shape)
    if not tensor or tensor.shape != (2,) or tensor.dtype not in ("I64", "I32"):
        return None
    form = "<2q" if tensor.dtype == "I64" else "<2i"
    out, width = struct.unpack(form, reader.read(tensor))
    return out, width
