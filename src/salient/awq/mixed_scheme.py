"""Mixed precision by options: a budget of bits a weight, and the formats that linears may have."""

from collections.abc import Mapping
from dataclasses import dataclass

from salient.core.errors import RequestError, ShapeError
from salient.core.scheme import GROUP_SIZES, SCALE_BITS, Scheme, parse_scheme

UNQUANTIZED, EIGHT_BITS = "16bit", "w8"
FOUR_BITS = {f"g{size}": size for size in GROUP_SIZES}
ALLOWED = (*FOUR_BITS, EIGHT_BITS, UNQUANTIZED)


@dataclass(frozen=True)
class MixedScheme:
    """A budget and the formats that it is spent on.

    bits_per_weight: of the linears to quantize, scales and zeros included
    allowed: some of ALLOWED   symmetric: of the 4-bit formats
    """

    bits_per_weight: float
    allowed: tuple[str, ...]
    symmetric: bool = False

    def __str__(self) -> str:
        return f"{self.label}-{'+'.join(self.allowed)}" + ("-sym" if self.symmetric else "")

    @property
    def label(self) -> str:
        """A short name, for folders."""
        return f"mixed-{self.bits_per_weight:g}"

    @property
    def smallest_group(self) -> int:
        """The group size that divides what any allowed format of codes divides."""
        sizes = [FOUR_BITS[name] for name in self.allowed if name in FOUR_BITS]
        return min([*sizes, *(GROUP_SIZES[-1:] if EIGHT_BITS in self.allowed else ())])

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """All schemes that `formats` may give."""
        formats = (self.formats({"any": size}) for size in GROUP_SIZES)
        return tuple(dict.fromkeys(s for one in formats for s in one.values() if s is not None))

    def formats(self, widths: Mapping[str, int]) -> dict[str, Scheme | None]:
        """The allowed formats that fit linears of the input `widths`; None: 16-bit.

        8-bit codes are symmetric, as vLLM's fast kernels need them (Marlin takes uint8 without
        zero points only, 0.32 marlin_utils.py), in the largest groups that fit.
        """
        sizes = [size for size in GROUP_SIZES if not any(w % size for w in widths.values())]
        formats: dict[str, Scheme | None] = {
            name: Scheme(FOUR_BITS[name], self.symmetric)
            for name in self.allowed
            if FOUR_BITS.get(name) in sizes
        }
        if EIGHT_BITS in self.allowed and sizes:
            formats[EIGHT_BITS] = Scheme(sizes[0], symmetric=True, bits=8)
        if UNQUANTIZED in self.allowed:
            formats[UNQUANTIZED] = None
        return formats


def bits_of(scheme: Scheme | None) -> float:
    """Bits a weight of a format; of 16-bit weights for None."""
    return SCALE_BITS if scheme is None else scheme.bits_per_weight


def mixed_scheme(bits: float | None, allow: str, scheme: str, format: str) -> MixedScheme | None:
    """The mixed scheme of the options; None without a budget.

    `scheme` says whether 4-bit codes are symmetric. Raises RequestError, ShapeError.
    """
    if bits is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in allow.split(",") if name.strip()))
    for name in names:
        if name not in ALLOWED:
            raise RequestError(f"Unknown format {name!r} in --allow. Known: {', '.join(ALLOWED)}.")
    if not set(names) - {UNQUANTIZED}:
        raise RequestError(
            f"--allow {allow!r} has no format with codes. Known: {', '.join(ALLOWED)}."
        )
    if format != "compressed-tensors":
        raise ShapeError(
            f"The format {format} has one scheme for all linears. --bits-per-weight needs "
            "--format compressed-tensors."
        )
    symmetric = scheme != "auto" and parse_scheme(scheme).symmetric
    mixed = MixedScheme(bits, names, symmetric)
    fewest = min(bits_of(one) for one in mixed.formats({"any": GROUP_SIZES[0]}).values())
    if bits < fewest:
        raise RequestError(
            f"--bits-per-weight {bits:g} is below {fewest:g}, the fewest bits of --allow {allow}."
        )
    return mixed
