"""Are a linear's tensors all there, and do their types and shapes agree: AWQ's layouts.

Layouts are told apart by shape, as the settings' word for them cannot be trusted. Sources: AutoAWQ
0.2.9 (awq/modules/linear), GPTQModel (qlinear), vLLM 0.32 (quantization/auto_awq.py).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from salient.core.model_files import StoredTensor
from salient.diagnose.finding import Finding

from .contents import (
    FLOATS,
    WORD_BITS,
    CheckpointContents,
    QuantizedLinear,
    many,
    place,
    seen,
    told,
)

WHOLE_ROW = -1  # group_size for one scale a row
CODE_BITS = (4, 8, 2)
Shape = tuple[int, ...]


def _pack(codes: int, values: int) -> int:
    """Values a word, if `codes` words hold `values` of them evenly; else 0."""
    return next((WORD_BITS // b for b in CODE_BITS if codes * (WORD_BITS // b) == values), 0)


def _gemm(q: Shape, s: Shape, z: Shape | None) -> bool:
    fits = _pack(q[1], s[1]) and s[0] and q[0] % s[0] == 0
    return bool(fits) and z in (None, (s[0], q[1]))


def _gptq(q: Shape, s: Shape, z: Shape | None) -> bool:
    return q[1] == s[1] and z is not None and z[0] == s[0] and _pack(z[1], s[1]) > 0


def _gemv(q: Shape, s: Shape, z: Shape | None) -> bool:
    return z is not None and q[0] == s[0] == z[0] and z[1] * 8 == s[1]


def _marlin(q: Shape, s: Shape, z: Shape | None) -> bool:
    return z is None and q[1] == 2 * s[1] and s[0] > 0 and q[0] * 16 % s[0] == 0


@dataclass(frozen=True)
class AwqLayout:
    """A way to lay out an AWQ linear. `fits` takes the shapes of codes, scales, zeros."""

    name: str
    title: str
    fits: Callable[[Shape, Shape, Shape | None], bool]
    matters: str = ""
    do: tuple[str, ...] = ()


REQUANTIZE = "Or quantize the 16-bit model again: salient quantize MODEL -o OUT"
LAYOUTS = (
    AwqLayout("gemm", "AutoAWQ's GEMM", _gemm),
    AwqLayout(
        "gptq",
        "GPTQ's",
        _gptq,
        "The codes are packed along the inputs. Under quant_method awq readers unpack them along "
        "the outputs: a crash over shapes, or noise.",
        (
            "If it was quantized with GPTQ, say so in config.json: quant_method "
            '"gptq", with the keys bits, group_size, sym and desc_act of its writer.',
            REQUANTIZE,
        ),
    ),
    AwqLayout(
        "gemv",
        "AutoAWQ's GEMV",
        _gemv,
        "vLLM and SGLang read GEMM only.",
        (
            "Look for the same model in version gemm.",
            "Transformers with GPTQModel can run it: from_pretrained with backend gemv.",
            REQUANTIZE,
        ),
    ),
    AwqLayout(
        "marlin",
        "AutoAWQ's Marlin",
        _marlin,
        "Codes and scales are permuted for one kernel and there are no zeros; vLLM and "
        "Transformers 5 read GEMM.",
        ("Look for the same model in version gemm.", REQUANTIZE),
    ),
)
FAST = AwqLayout(
    "gemv_fast",
    "AutoAWQ's GEMV fast (or llm-awq's)",
    lambda *_: False,
    "Its codes are 16-bit words interleaved by four rows; vLLM and SGLang read GEMM only.",
    ("Look for the same model in version gemm.", REQUANTIZE),
)


def layout_of(linear: QuantizedLinear) -> AwqLayout | None:
    """The layout that the shapes fit, None for none, or where codes or scales are missing."""
    if not linear.codes or not linear.scales:
        return None
    if linear.codes.dtype == "I16":
        return FAST
    shapes = [t.shape[-2:] if t else None for t in (linear.codes, linear.scales, linear.zeros)]
    q, s, z = shapes
    if q is None or s is None or any(x is not None and len(x) != 2 for x in shapes):
        return None
    return next((layout for layout in LAYOUTS if layout.fits(q, s, z)), None)


def check_awq(contents: CheckpointContents) -> tuple[str, list[Finding]]:
    """The layout of most linears, and what does not fit it. Fills in what GEMM linears measure."""
    layouts = {linear.name: layout_of(linear) for linear in contents.packed.values()}
    counts = Counter(layout.name for layout in layouts.values() if layout)
    most = counts.most_common(1)[0][0] if counts else "gemm"
    if most != "gemm":
        layout = next(one for one in (*LAYOUTS, FAST) if one.name == most)
        return most, [_other_layout(contents, layout, counts[most])]
    for linear in contents.packed.values():
        if layouts[linear.name] is LAYOUTS[0]:
            _measure(linear)
    strange = [p for p in contents.packed.values() if p.codes and p.scales and not p.groups]
    group = usual_group(contents)
    places = [(place_of(p), _words(p, group)) for p in strange]
    found = [_disagree(places)] if places else []
    return most, [*found, *check_types(contents, FLOATS, ("F16",))]


def _measure(linear: QuantizedLinear) -> None:
    assert linear.codes
    assert linear.scales
    width, words = linear.codes.shape[-2:]
    linear.groups, linear.out = linear.scales.shape[-2:]
    linear.width = width
    linear.bits = WORD_BITS // _pack(words, linear.out)


def usual_group(contents: CheckpointContents) -> int | None:
    """The group size of most linears whose shapes were understood, WHOLE_ROW for one a row."""
    measured = [linear for linear in contents.packed.values() if linear.groups]
    if measured and all(p.groups == 1 for p in measured) and len({p.width for p in measured}) > 1:
        return WHOLE_ROW
    counts = Counter(linear.group for linear in measured)
    return counts.most_common(1)[0][0] if counts else None


def place_of(linear: QuantizedLinear) -> str:
    tensor = linear.codes or next(iter(linear.parts.values()))
    return place(tensor)


def _words(linear: QuantizedLinear, group: int | None) -> str:
    """What a linear's shapes are and which scales and zeros its codes would need."""
    assert linear.codes
    have = ", ".join(f"{s} {list(t.shape)}" for s, t in linear.parts.items())
    if len(linear.codes.shape) != 2 or not group or group == WHOLE_ROW:
        return have
    width, words = linear.codes.shape
    needs = f"scales {[width // group, words * 8]}, qzeros {[width // group, words]}"
    return f"{have}; in groups of {group} these codes need {needs}"


def _disagree(places: list[tuple[str, str]]) -> Finding:
    return Finding(
        "shape-disagrees",
        "error",
        f"Shapes that do not fit each other in {many(len(places), 'linear')}",
        matters="Readers crash, or read scales and zeros of other weights.",
        do=("Fetch these files again. If they are as their writer left them, quantize again.",),
        evidence=seen(places),
        count=len(places),
        rank=16,
    )


def _other_layout(contents: CheckpointContents, layout: AwqLayout, count: int) -> Finding:
    linear = next(p for p in contents.packed.values() if layout_of(p) is layout)
    shapes = ", ".join(f"{s} {t.dtype} {list(t.shape)}" for s, t in linear.parts.items())
    return Finding(
        f"layout-{layout.name.replace('_', '-')}",
        "error",
        f"The tensors have {layout.title} layout, not GEMM ({many(count, 'linear')})",
        matters=layout.matters,
        do=layout.do,
        evidence=seen([(place_of(linear), shapes)]),
        count=count,
        rank=10,
    )


def check_types(
    contents: CheckpointContents, scales: tuple[str, ...], usual: tuple[str, ...]
) -> list[Finding]:
    """Types of codes, scales and zeros. `usual` are the scales' types that its writers give."""
    wrong: list[tuple[StoredTensor, str]] = []
    odd: list[StoredTensor] = []
    for linear in contents.packed.values():
        words = {linear.suffixes.codes: ("I32",), linear.suffixes.zeros: ("I32",)}
        words |= {linear.suffixes.scales: scales, linear.suffixes.shape: ("I64", "I32")}
        for suffix, tensor in linear.parts.items():
            fits = words.get(suffix)
            if fits and tensor.dtype not in fits:
                wrong.append((tensor, f"{tensor.dtype}; {' or '.join(fits)} fits"))
            elif suffix == linear.suffixes.scales and tensor.dtype not in usual:
                odd.append(tensor)
    finding = Finding(
        "dtype-wrong",
        "error",
        f"Types that no reader takes in {many(len(wrong), 'tensor')} of quantized linears",
        matters="Readers copy the values into another type: other numbers, or a crash.",
        do=("Fetch these files again, or quantize again.",),
        rank=16,
    )
    cast = Finding(
        "dtype-scales",
        "note",
        f"Scales are not {' or '.join(usual)}, which AutoAWQ writes",
        matters="vLLM casts them to the model's type as it loads.",
    )
    return [
        *told(((place(tensor), words) for tensor, words in wrong), finding),
        *told(((place(tensor), str(tensor.dtype)) for tensor in odd), cast),
    ]
