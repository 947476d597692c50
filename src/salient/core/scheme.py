"""Schemes: how a weight is cut into groups and how many codes each group has. Imports no torch.

A scheme's name is complete: `w4-g128` is 4 bits, groups of 128 inputs, one zero a group
(asymmetric); `w4-g128-sym` fixes the zero at the middle code.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .errors import ShapeError
from .module_targets import is_expression, matches_target
from .skip_patterns import covering, skip_options

# What vLLM's fast kernels (Marlin) take; largest first, as `auto` tries them.
GROUP_SIZES = (128, 64, 32)
SCALE_BITS = 16
ACROSS = 8  # AutoAWQ packs eight outputs a word


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
STORED = (*KNOWN, *(Scheme(g, s, 8) for g in GROUP_SIZES for s in (False, True)))


@dataclass(frozen=True)
class LayerSchemes:
    """The scheme of each linear of a checkpoint.

    main: of the linears that no target of `own` matches
    own: target (a linear's name, or `re:` and an expression) -> scheme; exact names count first
    """

    main: Scheme
    own: Mapping[str, Scheme] = field(default_factory=dict[str, Scheme])

    def __str__(self) -> str:
        return ", ".join(map(str, dict.fromkeys((self.main, *self.own.values()))))

    @property
    def all(self) -> tuple[Scheme, ...]:
        return (self.main, *self.own.values())

    def of(self, name: str) -> Scheme:
        """The scheme of the linear called `name`."""
        if name in self.own:
            return self.own[name]
        expressions = (target for target in self.own if is_expression(target))
        return next((self.own[t] for t in expressions if matches_target(name, t)), self.main)


def stacked_targets(own: Mapping[str, Scheme]) -> dict[str, Scheme]:
    """`own` with one expression for all experts of a stack, which have one scheme.

    The expression has the last two parts of the block's path: engines name what is before in
    their own ways.
    """
    targets: dict[str, Scheme] = {}
    for name, scheme in own.items():
        home, stack, _ = name.partition(".experts.")
        path = re.escape(".".join(home.split(".")[-3:]))
        targets[rf"re:.*{path}\.experts(\.|$)" if stack else name] = scheme
    return targets


def parse_scheme(name: str) -> Scheme:
    """The scheme called `name` that `--scheme` has. Raises ShapeError listing the known ones."""
    scheme = stored_scheme(name)
    if scheme not in KNOWN:
        known = ", ".join(str(s) for s in KNOWN)
        raise ShapeError(f"Unknown scheme {name!r}. Known schemes: {known}, or 'auto'.")
    return scheme


def stored_scheme(name: str) -> Scheme | None:
    """The scheme called `name` that a checkpoint may have, of 4 or 8 bits; None for another."""
    match = re.fullmatch(r"w([48])-g(\d{1,9})(-sym)?", name)
    scheme = Scheme(int(match[2]), match[3] is not None, int(match[1])) if match else None
    return scheme if scheme in STORED else None


def check_width(name: str, width: int, scheme: Scheme) -> None:
    """Raise ShapeError unless the group size divides the input width of the layer `name`."""
    check_shapes({name: width}, scheme)


def check_shapes(
    widths: Mapping[str, int], scheme: Scheme, outputs: Mapping[str, int] | None = None
) -> None:
    """Raise ShapeError unless the group size divides every width (layer name -> input features).

    outputs: each layer's, where the format packs them `ACROSS` a word

    The message has the sizes that fit all layers, and the --skip patterns of all that do not fit.
    """
    narrow = [name for name, width in widths.items() if width % scheme.group_size]
    odd = [name for name, count in (outputs or {}).items() if count % ACROSS]
    if not narrow and not odd:
        return
    faults: list[str] = []
    changes: list[str] = []
    if narrow:
        faults.append(
            f"{narrow[0]!r} has {widths[narrow[0]]} input features, not a multiple of the group "
            f"size {scheme.group_size}{_and_others(narrow)}"
        )
        fits = [str(g) for g in GROUP_SIZES if not any(width % g for width in widths.values())]
        changes += [f"group size {' or '.join(fits)}"] if fits else []
    if outputs and odd:
        faults.append(
            f"{odd[0]!r} has {outputs[odd[0]]} outputs, and the awq format packs {ACROSS} a word"
            f"{_and_others(odd)}"
        )
        changes.append("--format compressed-tensors")
    misfits = dict.fromkeys([*narrow, *odd])
    rest = widths.keys() - misfits.keys()
    change = f"Use {' and '.join(changes)}" if len(changes) == len(faults) else ""
    leave = "Leave" if not change else f"{change}, or leave"
    them = "it" if len(misfits) == 1 else "them"
    skip = f"{leave} {them} unquantized with {skip_options(covering(misfits, rest))}."
    if not rest and len(misfits) > 1:  # nothing would be left to quantize
        skip = f"{change}." if change else "No linear of this model fits."
    raise ShapeError(f"{'; '.join(faults)}. {skip}")


def _and_others(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} others)" if names[1:] else ""


def largest_scheme(widths: dict[str, int]) -> tuple[Scheme, str]:
    """The largest group size that divides every width (layer name -> input features), and why."""
    check_shapes(widths, Scheme(GROUP_SIZES[-1]))
    size = next(g for g in GROUP_SIZES if not any(width % g for width in widths.values()))
    if size == GROUP_SIZES[0]:
        return Scheme(size), f"group size {size} is the largest and divides every layer"
    larger = GROUP_SIZES[GROUP_SIZES.index(size) - 1]
    name, width = next((n, w) for n, w in widths.items() if w % larger)
    reason = f"{larger} does not divide the {width} inputs of {name!r}; {size} divides all"
    return Scheme(size), reason
