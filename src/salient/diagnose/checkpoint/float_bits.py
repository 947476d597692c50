"""Judging 16- and 32-bit floats by their bits, a piece at a time. numpy is imported when used."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class FloatForm:
    """How a float is laid out: the bits of its exponent and its sign, in words of `size` bytes."""

    size: int
    exponent: int
    sign: int


# IEEE 754 half and single; bfloat16 is the upper half of a single.
FORMS = {
    "F16": FloatForm(2, 0x7C00, 0x8000),
    "BF16": FloatForm(2, 0x7F80, 0x8000),
    "F32": FloatForm(4, 0x7F80_0000, 0x8000_0000),
}


@dataclass
class ScaleSummary:
    """What scales are like: how many of each kind, and the element where each was first seen."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    largest: float = 0.0
    usual: float = 0.0  # the median of those that are plain positive numbers
    zeros: list[int] = field(default_factory=list)  # the first elements that are zero

    def add(self, kind: str, where: "NDArray[Any]", start: int) -> None:
        """Count the elements `where` (a mask) of a piece that begins at element `start`."""
        count = int(where.sum())
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.first.setdefault(kind, start + int(where.argmax()))


ZEROS_KEPT = 16


def judge(judged: ScaleSummary, data: bytes, dtype: str, start: int) -> None:
    """Take a piece of scales into `judged`; `start` is the number of its first element."""
    import numpy as np

    form = FORMS[dtype]
    bits = np.frombuffer(data, "<u2" if form.size == 2 else "<u4")
    least = form.exponent & -form.exponent  # the smallest normal number
    low, high = int(bits.min()), int(bits.max())
    plain = bits
    if low < least or high >= form.exponent:
        exponent, size = bits & form.exponent, bits & (form.sign - 1)
        odd = exponent == form.exponent
        zero = size == 0
        small = (exponent == 0) & ~zero
        judged.add("NaN", odd & (size != form.exponent), start)
        judged.add("Inf", size == form.exponent, start)
        judged.add("zero", zero, start)
        judged.add("negative", ((bits & form.sign) != 0) & ~odd & ~zero, start)
        judged.add("subnormal", small, start)
        room = ZEROS_KEPT - len(judged.zeros)
        judged.zeros += [start + int(i) for i in np.flatnonzero(zero)[:room]]
        plain = size[~odd & ~zero & ~small]
    if not plain.size:
        return
    # bits of positive floats sort as the floats do
    low, high = (_value(int(b), form) for b in (plain.min(), plain.max()))
    judged.largest = max(judged.largest, high)
    if not judged.usual and high > 1000 * low:
        judged.usual = _value(int(np.partition(plain, plain.size // 2)[plain.size // 2]), form)


def _value(bits: int, form: FloatForm) -> float:
    """The positive finite float with these bits."""
    import numpy as np

    if form.size == 2 and form.exponent == FORMS["BF16"].exponent:
        bits <<= 16
    kind = "<f2" if form.exponent == FORMS["F16"].exponent else "<f4"
    width = np.uint16 if kind == "<f2" else np.uint32
    return float(np.array([bits], width).view(kind)[0])
