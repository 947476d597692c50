"""Group quantization: the only place in the package where a weight becomes integers.

A weight [out, in] is cut along `in` into groups of `group_size`. Each group has a grid: one scale
and one zero. Every value becomes a code,

    code = clamp(round(weight / scale) + zero, 0, 15)          weight ~ (code - zero) * scale

The search proposes grids and packers carry codes; none of them rounds a weight in another way.
Scales are rounded to the checkpoint's 16-bit type *before* the codes are chosen, so what an engine
reads back is exactly what was judged.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ModelError
from .scheme import Scheme, check_width

SMALLEST_SCALE = 2.0**-24  # the smallest positive float16


@dataclass(frozen=True)
class Grid:
    """The values that a group's codes represent.

    scale: float32 [out, groups], weight units per code step, exact in 16 bits
    zero:  float32 [out, groups], the code of 0.0 (an integer)
    """

    scale: Tensor
    zero: Tensor


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as integers, in plain unpacked form.

    codes: uint8 [out, in], 0 to scheme.max_code
    scale: float32 [out, groups], weight units per code step, exact in 16 bits
    zero:  uint8 [out, groups], the code of 0.0
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    scheme: Scheme

    def dequantize(self) -> Tensor:
        """The weight that these codes represent: float32 [out, in]."""
        grouped = in_groups(self.codes, self.scheme).float()
        return grouped.sub_(self.zero[..., None]).mul_(self.scale[..., None]).flatten(1)

    def can_be_divided(self, rows: Tensor) -> bool:
        """Whether dividing by `rows` [out] leaves the scales within the normal range of float16."""
        limits = torch.finfo(torch.float16)
        scale = self.scale / rows[:, None]
        fits = (scale >= limits.tiny) | (scale >= self.scale)
        return bool((fits & (scale <= limits.max)).all())

    def divided(self, rows: Tensor, *, name: str, dtype: torch.dtype) -> "QuantizedWeight":
        """The same codes for the weight divided by `rows` float32 [out]; its scales in 16 bits.

        Raises ModelError naming the layer where a scale leaves the 16-bit range.
        """
        scale = in_16_bits(self.scale / rows[:, None], dtype)
        check_scales(name, scale)
        return QuantizedWeight(self.codes, scale, self.zero, self.scheme)


def in_groups(weight: Tensor, scheme: Scheme) -> Tensor:
    """`weight` [out, in] as [out, groups, group_size]."""
    return weight.reshape(len(weight), -1, scheme.group_size)


def in_16_bits(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`scale` rounded to `dtype` and to float16 (AutoAWQ's): float32, exact in both."""
    return scale.to(dtype).to(torch.float16).float().clamp_(min=SMALLEST_SCALE)


def grid_of(low: Tensor, high: Tensor, scheme: Scheme, dtype: torch.dtype) -> Grid:
    """The grid that spans [low, high] of each group; both of the same shape.

    The range always spans 0.0, so that a group whose values share one sign has its zero inside
    the codes. A symmetric grid covers [-8, 7] steps with the larger side at 7.5, as
    compressed-tensors has it.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    if scheme.symmetric:
        scale = in_16_bits(torch.maximum(-low, high) / (scheme.max_code / 2), dtype)
        return Grid(scale, torch.full_like(scale, scheme.middle))
    scale = in_16_bits((high - low) / scheme.max_code, dtype)
    return Grid(scale, (-low / scale).round_().clamp_(0, scheme.max_code))


def minmax_grid(weight: Tensor, scheme: Scheme, dtype: torch.dtype) -> Grid:
    """Plain rounding's grid for `weight` float32 [out, in]: each group's own range."""
    grouped = in_groups(weight, scheme)
    return grid_of(grouped.amin(-1), grouped.amax(-1), scheme, dtype)


def codes_of(grouped: Tensor, grid: Grid, scheme: Scheme) -> Tensor:
    """Nearest codes of `grouped` [..., groups, group_size] on `grid` [..., groups]: float32."""
    codes = (grouped / grid.scale.unsqueeze(-1)).round_()
    return codes.add_(grid.zero.unsqueeze(-1)).clamp_(0, scheme.max_code)


def round_trip(grouped: Tensor, grid: Grid, scheme: Scheme) -> Tensor:
    """The values of the codes of `grouped` [..., groups, group_size]: float32, same shape."""
    return values_of(codes_of(grouped, grid, scheme), grid)


def values_of(codes: Tensor, grid: Grid) -> Tensor:
    """`codes` float32 [..., groups, group_size], overwritten by their values on `grid`."""
    return codes.sub_(grid.zero.unsqueeze(-1)).mul_(grid.scale.unsqueeze(-1))


def quantize(
    weight: Tensor,
    scheme: Scheme,
    *,
    name: str,
    dtype: torch.dtype = torch.float16,
    grid: Grid | None = None,
) -> QuantizedWeight:
    """Round `weight` [out, in] to codes on `grid` (plain rounding's by default).

    `name` is the layer's, for messages; `dtype` the 16-bit type that scales are exact in. Raises
    ShapeError when the group size does not divide `in`, ModelError when the weight is not finite.
    """
    check_width(name, weight.shape[1], scheme)
    weight = weight.float()
    check_finite(name, weight)
    grid = grid or minmax_grid(weight, scheme, dtype)
    check_scales(name, grid.scale)
    codes = codes_of(in_groups(weight, scheme), grid, scheme)
    return QuantizedWeight(codes.flatten(1).byte(), grid.scale, grid.zero.byte(), scheme)


def check_scales(name: str, scale: Tensor) -> None:
    """Raise ModelError naming the layer if its scales do not fit 16 bits."""
    if not bool(torch.isfinite(scale).all()):
        raise ModelError(
            f"{name!r} has values so large that its scales exceed float16 (65504). "
            f"Leave it unquantized with --skip {name!r}."
        )


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ModelError naming the tensor if it has NaN or infinity."""
    if tensor.is_floating_point() and bool(torch.isfinite(tensor.sum(dtype=torch.float32))):
        return  # any NaN or infinity makes the sum one, too
    bad = tensor.numel() - int(torch.isfinite(tensor).sum())
    if bad:
        raise ModelError(
            f"{name!r} has {bad} NaN or infinite values of {tensor.numel()}. "
            "The model's files are damaged or were saved after a diverged training step: fetch "
            "them again, or take another checkpoint."
        )
