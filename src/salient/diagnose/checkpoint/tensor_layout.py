"""Types and shapes of a linear's tensors, and whether they agree: AWQ and compressed-tensors.

AWQ layouts are recognized by shape, as the settings' name for them cannot be trusted. Sources:
AutoAWQ 0.2.9 (awq/modules/linear), GPTQModel (qlinear), vLLM 0.32 (quantization/auto_awq.py).

compressed-tensors 0.17 (compressors/pack_quantized), as vLLM 0.32 allocates it
(schemes/compressed_tensors_wNa16.py):

    weight_packed      [out, in*bits/32]
    weight_scale       [out, in/g]
    weight_zero_point  [out*bits/32, in/g]
    weight_shape       out, in
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterable

from salient.diagnose.finding import Finding
from salient.diagnose.rule import Place

from .contents import FINDINGS, FLOATS, WORD_BITS, CheckpointContents, QuantizedLinear, place
from .ct_config import WeightArgs, args_of
from .tensor_reader import TensorReader

WHOLE_ROW = -1  # group_size for one scale a row
CODE_BITS = (4, 8, 2)
Shape = tuple[int, ...]


def _values_per_word(codes: int, values: int) -> int:
    """Values per word if `codes` words hold `values` of them evenly, else 0."""
    return next((WORD_BITS // b for b in CODE_BITS if codes * (WORD_BITS // b) == values), 0)


def _gemm(q: Shape, s: Shape, z: Shape | None) -> bool:
    fits = _values_per_word(q[1], s[1]) and s[0] and q[0] % s[0] == 0
    return bool(fits) and z in (None, (s[0], q[1]))


def _gptq(q: Shape, s: Shape, z: Shape | None) -> bool:
    return q[1] == s[1] and z is not None and z[0] == s[0] and _values_per_word(z[1], s[1]) > 0


# AWQ layouts by the shapes of codes, scales and zeros, in the order of their tests.
LAYOUTS: dict[str, Callable[[Shape, Shape, Shape | None], bool]] = {
    "gemm": _gemm,
    "gptq": _gptq,
    "gemv": lambda q, s, z: z is not None and q[0] == s[0] == z[0] and z[1] * 8 == s[1],
    "marlin": lambda q, s, z: z is None and q[1] == 2 * s[1] and s[0] > 0 and q[0] * 16 % s[0] == 0,
}


def layout_of(linear: QuantizedLinear) -> str:
    """The layout that the shapes fit, "" for none, or where codes or scales are missing."""
    if not linear.codes or not linear.scales:
        return ""
    if linear.codes.dtype == "I16":
        return "gemv-fast"
    q, s = linear.codes.shape[-2:], linear.scales.shape[-2:]
    z = linear.zeros.shape[-2:] if linear.zeros else None
    if any(shape is not None and len(shape) != 2 for shape in (q, s, z)):
        return ""
    return next((name for name, fits in LAYOUTS.items() if fits(q, s, z)), "")


def check_awq_layout(contents: CheckpointContents) -> tuple[str, list[Finding]]:
    """The layout of most linears, and tensors that do not fit it. Fills in GEMM linears' sizes."""
    layouts = {linear.name: layout_of(linear) for linear in contents.packed.values()}
    counts = Counter(filter(None, layouts.values()))
    most = counts.most_common(1)[0][0] if counts else "gemm"
    if most != "gemm":
        linear = next(p for p in contents.packed.values() if layouts[p.name] == most)
        shapes = ", ".join(f"{s} {t.dtype} {list(t.shape)}" for s, t in linear.parts.items())
        return most, FINDINGS[f"layout-{most}"].at([(linear.place, shapes)], count=counts[most])
    for linear in contents.packed.values():
        if layouts[linear.name] == "gemm" and linear.codes and linear.scales:
            linear.width, columns = linear.codes.shape[-2:]
            linear.groups, linear.out = linear.scales.shape[-2:]
            linear.bits = WORD_BITS // _values_per_word(columns, linear.out)
    strange = [p for p in contents.packed.values() if p.codes and p.scales and not p.groups]
    group = usual_group(contents.packed.values())
    findings = FINDINGS["shape-disagrees"].at(
        (p.place, _expected_shapes(p, group)) for p in strange
    )
    return most, findings + check_types(contents, FLOATS, ("F16",))


def usual_group(linears: Iterable[QuantizedLinear]) -> int | None:
    """The group size of most linears with understood shapes, WHOLE_ROW for one scale a row."""
    measured = [linear for linear in linears if linear.groups]
    if measured and all(p.groups == 1 for p in measured) and len({p.width for p in measured}) > 1:
        return WHOLE_ROW
    counts = Counter(linear.group for linear in measured)
    return counts.most_common(1)[0][0] if counts else None


def _expected_shapes(linear: QuantizedLinear, group: int | None) -> str:
    """A linear's shapes, and the scales and zeros that its codes would need."""
    actual = ", ".join(f"{s} {list(t.shape)}" for s, t in linear.parts.items())
    codes = linear.first
    if len(codes.shape) != 2 or not group or group == WHOLE_ROW:
        return actual
    width, columns = codes.shape
    groups = width // group
    needs = f"scales {[groups, columns * 8]}, qzeros {[groups, columns]}"
    return f"{actual}; in groups of {group} these codes need {needs}"


def check_types(
    contents: CheckpointContents, scales: tuple[str, ...], usual: tuple[str, ...]
) -> list[Finding]:
    """Types of codes, scales and zeros. `usual` are the scales' types that its writers use."""
    wrong: list[Place] = []
    odd: list[Place] = []
    for linear in contents.packed.values():
        suffixes = linear.suffixes
        types = {suffixes.codes: ("I32",), suffixes.zeros: ("I32",)}
        types |= {suffixes.scales: scales, suffixes.shape: ("I64", "I32")}
        for suffix, tensor in linear.parts.items():
            fits = types.get(suffix)
            if fits and tensor.dtype not in fits:
                wrong.append((place(tensor), f"{tensor.dtype}; {' or '.join(fits)} fits"))
            elif suffix == suffixes.scales and tensor.dtype not in usual:
                odd.append((place(tensor), tensor.dtype))
    return FINDINGS["dtype-wrong"].at(wrong) + FINDINGS["dtype-scales"].at(
        odd, usual=" or ".join(usual)
    )


def check_ct_layout(
    contents: CheckpointContents, groups: list[WeightArgs], reader: TensorReader
) -> list[Finding]:
    """Tensors of compressed-tensors that do not agree. Fills in the linears' sizes."""
    wrong: list[Place] = []
    for linear in contents.packed.values():
        args = args_of(linear.name, groups)
        if text := _measure(linear, (args.bits if args else None) or 4, reader):
            wrong.append((linear.place, text))
    unpacked = [p.zeros for p in contents.packed.values() if p.zeros and p.zeros.dtype == "I8"]
    findings = check_types(contents, FLOATS, FLOATS)
    if unpacked:
        findings = [finding for finding in findings if finding.id != "dtype-wrong"]
    return [
        *findings,
        *FINDINGS["shape-disagrees"].at(wrong),
        *FINDINGS["zeros-unpacked"].at((place(t), f"I8 {list(t.shape)}") for t in unpacked),
    ]


def _measure(linear: QuantizedLinear, bits: int, reader: TensorReader) -> str:
    """Fill in a linear's sizes. Returns a description of a mismatch, "" if all fits.

    `bits` comes from the settings; where only others fit the stored shape, those are taken.
    """
    codes, scales, zeros = linear.codes, linear.scales, linear.zeros
    if not codes or not scales:
        return ""
    if len(codes.shape) != 2 or len(scales.shape) != 2:
        return f"weight_packed {list(codes.shape)}, weight_scale {list(scales.shape)}; two axes fit"
    out, columns = codes.shape
    shape = _stored_shape(linear, reader)
    fitting = [
        b for b in (bits, *CODE_BITS) if shape and b > 0 and _word_count(shape[1], b) == columns
    ]
    linear.bits = fitting[0] if fitting else max(bits, 1)
    width = shape[1] if shape else columns * WORD_BITS // linear.bits
    if shape and (shape[0] != out or _word_count(width, linear.bits) != columns):
        return f"weight_shape says {list(shape)}, weight_packed is {list(codes.shape)} words"
    if scales.shape[0] != out or not 0 < scales.shape[1] <= width:
        return f"weight_scale is {list(scales.shape)}, the codes have {out} rows of {width}"
    groups = scales.shape[1]
    needed = (_word_count(out, linear.bits), groups)
    if zeros and zeros.dtype == "I32" and zeros.shape != needed:
        return f"weight_zero_point is {list(zeros.shape)}, {list(needed)} fits"
    linear.out, linear.width, linear.groups = out, width, groups
    return ""


def _word_count(values: int, bits: int) -> int:
    return -(-values * bits // WORD_BITS)


def _stored_shape(linear: QuantizedLinear, reader: TensorReader) -> tuple[int, int] | None:
    """The pair in weight_shape, None where it is missing or no pair."""
    tensor = linear.parts.get(linear.suffixes.shape)
    if not tensor or tensor.shape != (2,) or tensor.dtype not in ("I64", "I32"):
        return None
    out, width = struct.unpack("<2q" if tensor.dtype == "I64" else "<2i", reader.read(tensor))
    return out, width
