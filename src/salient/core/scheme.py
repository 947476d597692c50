"""Schemes: how a weight is cut into groups and how many codes each group has. Imports no torch.

A scheme's name is complete: `w4-g128` is 4 bits, groups of 128 inputs, one zero a group
(asymmetric); `w4-g128-sym` fixes the zero at the middle code.
"""

import re
from dataclasses import dataclass

from .errors import ShapeError

# What vLLM's fast kernels (Marlin) take; largest first, as `auto` tries them.
GROUP_SIZES = (128, 64, 32)
SCALE_BITS = 16


@dataclass(frozen=True)
class Scheme:
    """How a weight is rounded: `bits` per code, one scale and one zero per `group_size` inputs."""

    group_size: int = 128
    symmetric: bool = False
    bits: int = 4

    def __str__(self) -> str:
        return f"w{self.bits}-g{self.group_size}" + ("-sym" if self.symmetric else "")

    @property
    def max_code(self) -> int:
        return 2**self.bits - 1

    @property
    def middle(self) -> int:
        """The code of 0.0 in a symmetric scheme."""
        return 2 ** (self.bits - 1)

    @property
    def bits_per_weight(self) -> float:
        """Codes plus a 16-bit scale and, if asymmetric, a zero for each group: 4 + 20/g."""
        per_group = SCALE_BITS + (0 if self.symmetric else self.bits)
        return self.bits + per_group / self.group_size


KNOWN = tuple(Scheme(g, s) for g in GROUP_SIZES for s in (False, True))


def parse_scheme(name: str) -> Scheme:
    """The scheme called `name`. Raises ShapeError listing the known ones."""
    match = re.fullmatch(r"w4-g(\d+)(-sym)?", name)
    scheme = Scheme(int(match[1]), match[2] is not None) if match else None
    if scheme not in KNOWN:
        known = ", ".join(str(s) for s in KNOWN)
        raise ShapeError(f"Unknown scheme {name!r}. Known schemes: {known}, or 'auto'.")
    return scheme


def check_width(name: str, width: int, scheme: Scheme) -> None:
    """Raise ShapeError unless the group size divides the input width of the layer `name`."""
    if width % scheme.group_size == 0:
        return
    fits = [g for g in GROUP_SIZES if width % g == 0]
    other = f"Use group size {' or '.join(map(str, fits))}, or leave" if fits else "Leave"
    raise ShapeError(
        f"{name!r} has {width} input features, not a multiple of the group size "
        f"{scheme.group_size}. {other} it unquantized with --skip {name!r}."
    )


def largest_scheme(widths: dict[str, int]) -> tuple[Scheme, str]:
    """The largest group size that divides every width (layer name -> input features), and why."""
    for name, width in widths.items():
        check_width(name, width, Scheme(GROUP_SIZES[-1]))
    size = next(g for g in GROUP_SIZES if not any(width % g for width in widths.values()))
    if size == GROUP_SIZES[0]:
        return Scheme(size), f"group size {size} is the largest and divides every layer"
    larger = GROUP_SIZES[GROUP_SIZES.index(size) - 1]
    name, width = next((n, w) for n, w in widths.items() if w % larger)
    reason = f"{larger} does not divide the {width} inputs of {name!r}; {size} divides all"
    return Scheme(size), reason
