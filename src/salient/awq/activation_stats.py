"""Sufficient statistics of a block's inputs: what the search needs to know of the tokens.

For an input x [in] shared by some linears, the output error of a rounding error E [out, in] is

    sum_t |E x_t|^2 = tr(E G E^T)        G = sum_t x_t x_t^T

so the Gram matrix G and the mean magnitude of each channel replace the tokens. Both are sums:
statistics of parts of the calibration add up to those of the whole.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

PANELS = 6  # G is symmetric: adding only from each panel's diagonal on saves 5 parts in 12


class ActStats:
    """Statistics of one shared input of `width` channels, as sums over tokens.

    abs_sum: float32 [in], sum of |x|
    tokens: how many
    """

    def __init__(self, width: int, device: torch.device | str = "cpu"):
        self.abs_sum = torch.zeros(width, device=device)
        self.tokens = 0
        self._upper = torch.zeros(width, width, device=device)

    def add(self, x: Tensor) -> None:
        """Take in the tokens `x` [tokens, in]."""
        x = x.float()
        self.abs_sum += x.abs().sum(0)
        for start, stop in self._panels():
            self._upper[start:stop, start:].addmm_(x[:, start:stop].t(), x[:, start:])
        self.tokens += len(x)

    def merge(self, other: "ActStats") -> None:
        """Take in the statistics of other tokens."""
        self.abs_sum += other.abs_sum
        self._upper += other._upper
        self.tokens += other.tokens

    @property
    def mean_abs(self) -> Tensor:
        """Mean magnitude of each channel: float32 [in]."""
        return self.abs_sum / max(self.tokens, 1)

    @property
    def finite(self) -> bool:
        """Whether no token brought a NaN, an infinity, or a value whose square overflows."""
        return bool(torch.isfinite(self._upper.diagonal().sum()))

    @property
    def gram(self) -> Tensor:
        """The sum of x x^T: float32 [in, in]; not a copy."""
        for start, stop in self._panels():
            self._upper[stop:, start:stop] = self._upper[start:stop, stop:].t()
        return self._upper

    def _panels(self) -> list[tuple[int, int]]:
        width = len(self.abs_sum)
        step = -(-width // PANELS)
        return [(start, min(start + step, width)) for start in range(0, width, step)]


class InputRecorder:
    """Catches the inputs of some modules of a block while it runs: [tokens, in], by name."""

    def __init__(self, block: nn.Module, names: list[str]):
        self.inputs: dict[str, Tensor] = {}
        self._block, self._names = block, names

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x, before = args[0].detach().flatten(0, -2), self.inputs.get(name)
            self.inputs[name] = x if before is None else torch.cat([before, x])

        return hook

    def __enter__(self) -> "InputRecorder":
        modules = [(n, self._block.get_submodule(n)) for n in self._names]
        self._handles = [m.register_forward_pre_hook(self._hook(n)) for n, m in modules]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
