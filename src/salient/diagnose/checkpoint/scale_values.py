"""The values of scales: NaN, infinite, zero, negative, tiny, or far apart.

All scales are read, in pieces; of codes only those of groups whose scale is zero.
"""

from salient.diagnose.finding import Finding, Level

from .contents import CheckpointContents, QuantizedLinear, many, place, seen
from .float_bits import FORMS, ScaleSummary, judge
from .tensor_reader import TensorReader

FAR = 1e4  # largest scale over the median: no weight matrix has such rows
GROUPS_READ = 64  # groups with a zero scale whose codes are looked at
# Where NIBBLES of AutoAWQ's GEMM puts column i of eight (formats/autoawq.py).
AWQ_NIBBLE = (0, 4, 1, 5, 2, 6, 3, 7)


def check_scales(
    contents: CheckpointContents, reader: TensorReader, dead: set[str]
) -> list[Finding]:
    """Read every scale. `dead` names tensors that are known to be lost: zeros at a file's end."""
    places: dict[str, list[tuple[str, str]]] = {}
    counts: dict[str, int] = {}
    for linear in in_order(contents):
        scales = linear.scales
        if not scales or scales.name in dead or scales.dtype not in FORMS or not scales.elements:
            continue
        reader.show_progress("reading scales", linear.name)
        judged = ScaleSummary()
        size = FORMS[scales.dtype].size
        for offset, data in reader.pieces(scales):
            judge(judged, data, scales.dtype, offset // size)
        for kind, words, count in _problems(linear, judged, reader):
            if kind == "negative" and contents.asymmetric is False:
                kind = "negative-symmetric"
            places.setdefault(kind, []).append((place(scales), words))
            counts[kind] = counts.get(kind, 0) + count
    return [_finding(kind, found, counts[kind]) for kind, found in places.items()]


def in_order(contents: CheckpointContents) -> list[QuantizedLinear]:
    """Linears as they lie in their files, so that disks read forward."""

    def spot(linear: QuantizedLinear) -> tuple[str, int]:
        tensor = linear.codes or next(iter(linear.parts.values()))
        return tensor.path.name, tensor.start

    return sorted(contents.packed.values(), key=spot)


def _problems(
    linear: QuantizedLinear, judged: ScaleSummary, reader: TensorReader
) -> list[tuple[str, str, int]]:
    """(kind, words, count) for each thing wrong with one linear's scales."""
    found = []
    for kind in ("NaN", "Inf", "subnormal", "negative"):
        if kind in judged.counts:
            found.append((kind, _where(linear, judged, kind), judged.counts[kind]))
    if "zero" in judged.counts:
        kind = "zero-lost" if _codes_vary(linear, judged.zeros, reader) else "zero"
        found.append((kind, _where(linear, judged, "zero"), judged.counts["zero"]))
    if judged.usual and judged.largest > FAR * judged.usual:
        words = f"the largest is {judged.largest:.3g}, the median {judged.usual:.3g}"
        found.append(("far", words, 1))
    return found


def _where(linear: QuantizedLinear, judged: ScaleSummary, kind: str) -> str:
    """How many, and the first one's row and column, group and output."""
    scales = linear.scales
    assert scales
    columns = scales.shape[-1] if scales.shape else 1
    row, column = divmod(judged.first[kind], columns or 1)
    group, out = (row, column) if linear.suffixes.shape == "" else (column, row)
    return (
        f"{judged.counts[kind]} of {scales.elements} are {kind}, first at [{row}, {column}]: "
        f"group {group} of output {out}"
    )


def _codes_vary(linear: QuantizedLinear, zeros: list[int], reader: TensorReader) -> bool:
    """Whether a group with a scale of zero has different codes: then its weights are lost."""
    if not linear.codes or not linear.groups or len(linear.codes.shape) != 2 or linear.bits != 4:
        return False
    take = _awq_group if linear.suffixes.shape == "" else _packed_group
    return any(len(set(take(linear, element, reader))) > 1 for element in zeros[:GROUPS_READ])


def _awq_group(linear: QuantizedLinear, element: int, reader: TensorReader) -> list[int]:
    """Codes of the group that element `element` of scales [groups, out] scales."""
    assert linear.codes
    group, out = divmod(element, linear.out)
    row_bytes = linear.codes.shape[1] * 4
    shift = 4 * AWQ_NIBBLE[out % 8]
    rows = range(group * linear.group, min((group + 1) * linear.group, linear.width))
    words = (reader.read(linear.codes, row * row_bytes + out // 8 * 4, 4) for row in rows)
    return [int.from_bytes(word, "little") >> shift & 15 for word in words]


def _packed_group(linear: QuantizedLinear, element: int, reader: TensorReader) -> list[int]:
    """The same for scales [out, groups] and codes packed along the inputs."""
    assert linear.codes
    out, group = divmod(element, linear.groups)
    row = out * linear.codes.shape[1] * 4
    start, end = group * linear.group, min((group + 1) * linear.group, linear.width)
    data = reader.read(linear.codes, row + start // 2, (end + 1) // 2 - start // 2)
    codes = [half for byte in data for half in (byte & 15, byte >> 4)]
    return codes[start % 2 :][: end - start]


# kind -> level, title, why, what to do, rank
RULES: dict[str, tuple[str, Level, str, str, int]] = {
    "NaN": (
        "scale-not-finite",
        "error",
        "Scales are NaN",
        "Every output of such a row is NaN, and from there every logit: engines return empty text "
        'or only "!".',
        30,
    ),
    "Inf": (
        "scale-infinite",
        "error",
        "Scales are infinite",
        "Their weights are infinite or NaN. Often a bfloat16 scale beyond 65504 was cast to "
        "float16.",
        31,
    ),
    "zero-lost": (
        "scale-zero",
        "error",
        "Scales are zero over codes that differ",
        "These weights are zero when read, and were not when they were quantized: the scale was "
        "lost, or too small for float16.",
        32,
    ),
    "zero": (
        "scale-zero-unused",
        "warning",
        "Scales are zero over codes that are all the same",
        "Groups of zero weights can be stored so; other writers keep a tiny scale instead.",
        45,
    ),
    "negative": (
        "scale-negative",
        "error",
        "Scales are negative",
        "No AWQ writer makes them in groups with zero points: the bytes are damaged, or of another "
        "layout.",
        33,
    ),
    "negative-symmetric": (
        "scale-negative-symmetric",
        "warning",
        "Scales are negative",
        "Kernels compute with them. AutoRound writes them for symmetric schemes; others do not.",
        45,
    ),
    "subnormal": (
        "scale-subnormal",
        "note",
        "Scales are below the smallest normal float16 or bfloat16",
        "Groups of nearly zero weights have them. Kernels that flush them to zero lose nothing "
        "worth a token.",
        60,
    ),
    "far": (
        "scale-spread",
        "warning",
        f"Scales of one matrix lie more than {FAR:,.0f} times apart",
        "The rows with large ones are outliers that 4 bits hold badly, or damaged.",
        46,
    ),
}
AGAIN = "Fetch the file again and compare its SHA-256; if it is as written, quantize again."


def _finding(kind: str, places: list[tuple[str, str]], count: int) -> Finding:
    name, level, title, matters, rank = RULES[kind]
    return Finding(
        name,
        level,
        f"{title} ({count} in {many(len(places), 'tensor')})" if kind != "far" else title,
        matters=matters,
        do=() if level == "note" else (AGAIN,),
        evidence=seen(places),
        count=max(count, len(places)),
        rank=rank,
    )
