"""Select and check what the options leave open: dtype, scheme, linears to quantize."""

from dataclasses import dataclass
from typing import Any

import torch

from salient.core.dtypes import SIXTEEN_BITS, stored_sixteen_bits
from salient.core.errors import ShapeError
from salient.core.scheme import GROUP_SIZES, Scheme, check_shapes, largest_scheme, parse_scheme
from salient.core.skip_patterns import EXPERTS, matches
from salient.models.skeleton import Skeleton
from salient.models.stored_types import main_type
from salient.models.weight_map import ParameterFiles

from .mixed_scheme import MixedScheme

STORED_SIXTEEN_BITS = {"F16": torch.float16, "BF16": torch.bfloat16}


def written_dtype(files: ParameterFiles, name: str) -> tuple[torch.dtype, str]:
    """The 16-bit type of the checkpoint, and why; 'auto' is the source's own.

    The source's is its config's, else that of its tensors. A float32 source becomes bfloat16, which
    has float32's range. Raises ShapeError for other names.
    """
    if name != "auto":
        if name not in SIXTEEN_BITS:
            raise ShapeError(f"Unknown dtype {name!r}. Known: auto, {', '.join(SIXTEEN_BITS)}.")
        return SIXTEEN_BITS[name], "as asked"
    named = stored_sixteen_bits(files.source.config)
    if named is not None:
        return named, "as config.json says"
    stored = main_type(files)
    if stored in STORED_SIXTEEN_BITS:
        return STORED_SIXTEEN_BITS[stored], "as the tensors are stored"
    return torch.bfloat16, f"the source is {stored}, and bfloat16 has the range of float32"


@dataclass(frozen=True)
class LayerSelection:
    """The scheme with its reason, the linears to quantize, and unquantized ones with reasons.

    mixed: what gives each linear its scheme during the run, for `--bits-per-weight`
    """

    scheme: Scheme
    reason: str
    quantized: frozenset[str]
    left: dict[str, str]
    mixed: MixedScheme | None = None

    @property
    def label(self) -> str:
        """What the checkpoint's folder is named after."""
        return self.mixed.label if self.mixed else str(self.scheme)


def choose_layers(
    skeleton: Skeleton,
    scheme: str,
    format: str,
    skip: tuple[str, ...],
    mixed: MixedScheme | None = None,
) -> LayerSelection:
    """Select the scheme and the linears to quantize.

    Raises ShapeError naming the layer or pattern that does not fit.
    """
    linears, left = {}, {}
    for index, block in enumerate(skeleton.blocks):
        linears |= {f"{block}.{name}": linear for name, linear in skeleton.linears(index).items()}
        left |= {f"{block}.{name}": why for name, why in skeleton.unfit(index).items()}
    _check_patterns(skip, [*linears, *skeleton.outer_modules()], next(iter(linears)))
    left |= {n: f"--skip {p}" for n in linears for p in skip if matches(n, p)}
    _check_experts(linears, left)
    wanted = {n: m for n, m in linears.items() if n not in left}
    if not wanted:
        raise ShapeError("--skip names every linear of the model: nothing is left to quantize.")
    widths = {name: linear.in_features for name, linear in wanted.items()}
    outputs = {name: linear.out_features for name, linear in wanted.items()}
    if mixed is not None:
        check_shapes(widths, Scheme(mixed.smallest_group))
        reason = f"{mixed.bits_per_weight:g} bits a weight, measured"
        coarsest = max(mixed.schemes, key=lambda one: (one.bits == 4, one.group_size))
        return LayerSelection(coarsest, reason, frozenset(wanted), left, mixed)
    least = Scheme(GROUP_SIZES[-1]) if scheme == "auto" else parse_scheme(scheme)
    check_shapes(widths, least, outputs if format == "awq" else None)
    selected, reason = largest_scheme(widths) if scheme == "auto" else (least, "as asked")
    return LayerSelection(selected, reason, frozenset(wanted), left)


def _check_experts(linears: dict[str, Any], left: dict[str, str]) -> None:
    """Refuse to skip only some experts of a block: engines store them as one stack."""
    stacks: dict[str, list[str]] = {}
    for name in linears:
        home, expert, _ = name.rpartition(".experts.")
        if expert:
            stacks.setdefault(home, []).append(name)
    for home, names in stacks.items():
        some = [name for name in names if name in left]
        if some and len(some) < len(names):
            raise ShapeError(
                f"{left[some[0]]} leaves {some[0]!r} unquantized, but not all of {home}.experts. "
                "Engines store the experts of a block as one stack: leave all unquantized with "
                f"--skip '{EXPERTS}', or none."
            )


def _check_patterns(skip: tuple[str, ...], names: list[str], example: str) -> None:
    for pattern in skip:
        if not any(matches(name, pattern) for name in names):
            raise ShapeError(
                f"--skip {pattern!r} names no linear of the model. Its linears are called like "
                f"{example!r}."
            )
