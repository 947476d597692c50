"""Sufficient statistics of a block's inputs: what the search needs to know of the calibration
tokens, and no more.

For an input x [in] shared by some linears, the output error of a rounding error E [out, in] over
the tokens is

    sum_t w_t |E x_t|^2 = tr(E G E^T)        G = sum_t w_t x_t x_t^T

so the Gram matrix G and the mean magnitude of each channel replace the tokens. Both are sums:
statistics of parts of the
calibration add up to those of the whole.

A token's weight w_t is the inverse mean square of the block's output there: the next norm divides
by just that. Without
it the few tokens with massive activations (Sun et al. 2024, "Massive Activations in Large Language
Models") would
decide the scales, though errors on them are divided away.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from salient.models.skeleton import Call, run_block


@dataclass
class ActStats:
    """Statistics of one shared input, as sums.

    abs_sum: float32 [in], sum of w |x|
    gram: float32 [in, in], sum of w x x^T
    weight: sum of w;  tokens: how many
    """

    abs_sum: Tensor
    gram: Tensor
    weight: float = 0.0
    tokens: int = 0

    @staticmethod
    def empty(width: int, device: torch.device) -> "ActStats":
        return ActStats(torch.zeros(width, device=device), torch.zeros(width, width, device=device))

    def add(self, x: Tensor, weight: Tensor) -> None:
        """Take in the tokens `x` [tokens, in] with their weights [tokens]."""
        x = x.float()
        self.abs_sum += weight @ x.abs()
        x = x * weight.sqrt()[:, None]
        self.gram.addmm_(x.t(), x)
        self.weight += float(weight.sum())
        self.tokens += len(x)

    def merge(self, other: "ActStats") -> None:
        """Take in the statistics of other tokens."""
        self.abs_sum += other.abs_sum
        self.gram += other.gram
        self.weight += other.weight
        self.tokens += other.tokens

    @property
    def mean_abs(self) -> Tensor:
        """Weighted mean magnitude of each channel: float32 [in]."""
        return self.abs_sum / max(self.weight, 1e-30)


def token_weights(out: Tensor) -> Tensor:
    """1 / mean square of each token of a block's output [samples, tokens, width]: float32 [samples
    * tokens]."""
    return 1 / out.float().square().mean(-1).flatten().clamp(min=1e-12)


class Recorder:
    """Catches the inputs of some linears of a block while it runs."""

    def __init__(self, block: nn.Module, names: list[str]):
        self.inputs: dict[str, Tensor] = {}
        self._handles = [
            block.get_submodule(n).register_forward_pre_hook(self._hook(n)) for n in names
        ]

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.inputs[name] = args[0].detach().flatten(0, -2)

        return hook

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def observe(
    block: nn.Module, hidden: Tensor, call: Call, stats: dict[str, ActStats]
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Run `block` on one batch and add its inputs to `stats` (first reader of each shared input ->
    its statistics).

    Returns the block's output, the inputs [tokens, in] and the token weights [tokens].
    """
    with Recorder(block, list(stats)) as recorder:
        out = run_block(block, hidden, call)
    weight = token_weights(out)
    for name, x in recorder.inputs.items():
        stats[name].add(x, weight)
    return out, recorder.inputs, weight
