"""Values of scales: NaN, infinite, zero, negative, tiny, or far apart.

All scales are read, in pieces; of codes only those of groups whose scale
is zero. numpy is imported when used.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from salient.core.model_files import ELEMENT_BYTES
from salient.diagnose.finding import Finding
from salient.diagnose.rule import Count, Place

from .contents import FINDINGS, CheckpointContents, QuantizedLinear, place
from .tensor_reader import TensorReader

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAR = 1e4  # largest scale over the median: no weight matrix has such rows
GROUPS_READ = 64  # groups with a zero scale whose codes are read
MOST_ZEROS = 16  # elements of zero scales that are collected
# Where NIBBLES of AutoAWQ's GEMM puts column i of eight (formats/autoawq.py).
AWQ_NIBBLE = (0, 4, 1, 5, 2, 6, 3, 7)

# kind of scales -> the finding's id
IDS = {
    "NaN": "scale-not-finite",
    "Inf": "scale-infinite",
    "subnormal": "scale-subnormal",
    "negative": "scale-negative",
}
# The smallest normal number of each type (IEEE 754; bfloat16 has float32's exponent).
SMALLEST = {"F16": 2.0**-14, "BF16": 2.0**-126, "F32": 2.0**-126}


@dataclass
class ScaleSummary:
    """The number of scales of each kind, and the first element of each."""

    dtype: str
    counts: dict[str, int] = field(default_factory=dict[str, int])
    first: dict[str, int] = field(default_factory=dict[str, int])
    largest: float = 0.0
    usual: float = 0.0  # the median of the normal ones, by magnitude
    zeros: list[int] = field(default_factory=list[int])  # the first elements that are zero

    def add(self, data: bytes, start: int) -> None:
        """Count a piece of scales; `start` is the number of its first element."""
        import numpy as np

        values = _as_floats(data, self.dtype)
        least = SMALLEST[self.dtype]
        low, high = values.min(), values.max()
        if not (least <= low and high < np.inf):  # true of NaN too
            size = np.abs(values)
            finite, zero, small = np.isfinite(values), values == 0, size < least
            self._count("NaN", np.isnan(values), start)
            self._count("Inf", np.isinf(values), start)
            self._count("zero", zero, start)
            self._count("negative", (values < 0) & finite, start)
            self._count("subnormal", small & ~zero, start)
            room = MOST_ZEROS - len(self.zeros)
            self.zeros += [start + int(i) for i in np.flatnonzero(zero)[:room]]
            values = size[finite & ~small]
            if not values.size:
                return
            low, high = values.min(), values.max()
        self.largest = max(self.largest, float(high))
        if not self.usual and high > 1000 * low:
            middle = values.size // 2
            self.usual = float(np.partition(values, middle)[middle])

    def _count(self, kind: str, mask: "NDArray[Any]", start: int) -> None:
        count = int(mask.sum())
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.first.setdefault(kind, start + int(mask.argmax()))


def _as_floats(data: bytes, dtype: str) -> "NDArray[Any]":
    """Stored floats as float32."""
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    with np.errstate(invalid="ignore"):  # signalling NaN
        return np.frombuffer(data, "<f2" if dtype == "F16" else "<f4").astype("<f4")


def check_scales(
    contents: CheckpointContents, reader: TensorReader, dead: set[str]
) -> list[Finding]:
    """Read every scale. `dead` names tensors that are lost: zeros at a file's end."""
    places: dict[str, list[Place]] = {}
    counts: dict[str, int] = {}
    for linear in contents.in_file_order:
        scales = linear.scales
        if not scales or scales.name in dead or scales.dtype not in SMALLEST or not scales.elements:
            continue
        reader.show_progress("reading scales", linear.name)
        summary = ScaleSummary(scales.dtype)
        for offset, data in reader.pieces(scales):
            summary.add(data, offset // ELEMENT_BYTES[scales.dtype])
        for kind, text, count in _problems(linear, summary, reader):
            if kind == "scale-negative" and contents.asymmetric is False:
                kind = "scale-negative-symmetric"
            places.setdefault(kind, []).append((place(scales), text))
            counts[kind] = counts.get(kind, 0) + count
    findings: list[Finding] = []
    for kind, rows in places.items():
        where = f"{counts[kind]} in {Count(len(rows)):tensor}"
        findings += FINDINGS[kind].at(rows, count=counts[kind], where=where)
    return findings


def _problems(
    linear: QuantizedLinear, summary: ScaleSummary, reader: TensorReader
) -> list[tuple[str, str, int]]:
    """(finding's id, text, count) of each fault of one linear's scales."""
    ids = dict(IDS)
    counts = summary.counts
    if "zero" in counts:
        lost = _codes_vary(linear, summary.zeros, reader)
        ids["zero"] = "scale-zero" if lost else "scale-zero-unused"
    kinds = [kind for kind in ids if kind in counts]
    problems = [(ids[kind], _where(linear, summary, kind), counts[kind]) for kind in kinds]
    if summary.usual and summary.largest > FAR * summary.usual:
        text = f"the largest is {summary.largest:.3g}, the median {summary.usual:.3g}"
        problems.append(("scale-spread", text, 1))
    return problems


def _where(linear: QuantizedLinear, summary: ScaleSummary, kind: str) -> str:
    """The count, and the first one's row and column, group and output."""
    scales = linear.scales
    assert scales
    columns = scales.shape[-1] if scales.shape else 1
    row, column = divmod(summary.first[kind], columns or 1)
    group, out = (row, column) if linear.suffixes.shape == "" else (column, row)
    return (
        f"{summary.counts[kind]} of {scales.elements} are {kind}, first at [{row}, {column}]: "
        f"group {group} of output {out}"
    )


def _codes_vary(linear: QuantizedLinear, zeros: list[int], reader: TensorReader) -> bool:
    """Whether a group with a scale of zero has different codes: then its weights are lost."""
    if not linear.codes or not linear.groups or len(linear.codes.shape) != 2 or linear.bits != 4:
        return False
    read = _awq_group if linear.suffixes.shape == "" else _packed_group
    return any(len(set(read(linear, element, reader))) > 1 for element in zeros[:GROUPS_READ])


def _awq_group(linear: QuantizedLinear, element: int, reader: TensorReader) -> list[int]:
    """Codes of the group of element `element` of scales [groups, out]."""
    group, out = divmod(element, linear.out)
    row_bytes = linear.first.shape[1] * 4
    shift = 4 * AWQ_NIBBLE[out % 8]
    rows = range(group * linear.group, min((group + 1) * linear.group, linear.width))
    packed = (reader.read(linear.first, row * row_bytes + out // 8 * 4, 4) for row in rows)
    return [int.from_bytes(word, "little") >> shift & 15 for word in packed]


def _packed_group(linear: QuantizedLinear, element: int, reader: TensorReader) -> list[int]:
    """The same for scales [out, groups] and codes packed along the inputs."""
    out, group = divmod(element, linear.groups)
    row = out * linear.first.shape[1] * 4
    start, end = group * linear.group, min((group + 1) * linear.group, linear.width)
    data = reader.read(linear.first, row + start // 2, (end + 1) // 2 - start // 2)
    codes = [half for byte in data for half in (byte & 15, byte >> 4)]
    return codes[start % 2 :][: end - start]
