"""Statistics of a block's linears with the gradients of the end loss: its Fisher information.

A rounding error E [out, in] of one linear changes the end loss, to second order, by

    1/2 sum_t (d_t^T E x_t)^2  ~  tr(HO E H E^T)    H = sum_t w_t x_t x_t^T   HO = sum_t d_t d_t^T

with the input x_t, the gradient d_t of the loss by the output at token t (models/label_gradient.py)
and w_t, the mean square of d_t (Martens and Grosse 2015, "K-FAC", section 3; with w in H as in Kim
et al. 2025, "GuidedQuant", section 3).

Gradients have heavy tails. Most of them, at keys and values, belong to the tokens that later ones
attend to without need (the first; Xiao et al. 2024, "attention sinks", section 3). The inputs of
such tokens hardly differ, so H holds their loss at the price of one direction; but their gradients
say nothing of other inputs. So d is clipped in HO, and w in H is not: what clipping would take from
it is only scaled to at most half of H.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from salient.core.errors import ModelError
from salient.models.block_call import BlockCall, InputRecorder, run_block

from .statistics import ActStats, GramSum, InputStats, LinearStats, PlainGatherer, width_of

CLIP = 0.99  # quantile of a batch's weights above which a token's gradient is clipped
OUTPUT_BAND = 2048  # outputs whose errors make up for each other: bounds memory for tall weights


def linear_bytes(linear: nn.Module) -> int:
    """Memory for H and HO of `linear`."""
    out, width = linear.get_parameter("weight").shape
    return 4 * (width**2 + out * min(out, OUTPUT_BAND))


class LinearGradients:
    """H and HO of one linear, as sums over tokens."""

    def __init__(self, outputs: int, inputs: int, device: torch.device | str = "cpu"):
        self._input = GramSum(inputs, device)
        self._bands = [
            GramSum(min(OUTPUT_BAND, outputs - start), device)
            for start in range(0, outputs, OUTPUT_BAND)
        ]

    def add(self, x: Tensor, d: Tensor) -> None:
        """Add the tokens with the inputs `x` [tokens, in] and gradients `d` [tokens, out]."""
        x, d = x.float(), d.float()
        self._input.add(x, token_weights(d))
        for band, part in zip(self._bands, clipped(d).split(OUTPUT_BAND, 1), strict=True):
            band.add(part)

    @property
    def finite(self) -> bool:
        """Whether no token brought a NaN, an infinity, or a value whose square overflows."""
        sums = [gram.diagonal.sum() for gram in (self._input, *self._bands)]
        return bool(torch.isfinite(torch.stack(sums)).all())

    @property
    def stats(self) -> LinearStats:
        """What the rounding uses; not copies."""
        return LinearStats(self._input.matrix, tuple(band.matrix for band in self._bands))


def token_weights(d: Tensor) -> Tensor:
    """w of each token: the mean square of `d` [tokens, out]: [tokens, 1].

    What is above the quantile CLIP is scaled to be no more than the rest.
    """
    squares, bound = _squares(d)
    rest = squares.minimum(bound)
    above = squares - rest
    return rest + above * (rest.sum() / above.sum().clamp(min=1e-30)).clamp(max=1)


def clipped(d: Tensor) -> Tensor:
    """`d` [tokens, out] with each token's mean square at most the quantile CLIP."""
    squares, bound = _squares(d)
    return d * (bound / squares.clamp(min=1e-30)).clamp(max=1).sqrt()


def _squares(d: Tensor) -> tuple[Tensor, Tensor]:
    """The mean square of each token of `d`, and the quantile CLIP of all: [tokens, 1], []."""
    squares = d.square().mean(1, keepdim=True)
    return squares, torch.quantile(squares, CLIP) if len(d) else squares.sum()


def gradient_weights(gradient: Tensor) -> Tensor:
    """Mean squares of `gradient` [samples, tokens, width], clipped: float32 [samples, tokens]."""
    squares, bound = _squares(gradient.float().flatten(0, 1))
    return squares.minimum(bound).view(gradient.shape[:2])


class GradientStats:
    """Statistics of one shared input: magnitudes, and the gradients of each of its `readers`.

    Every token is added `draws` times, each with another gradient.
    """

    def __init__(self, block: nn.Module, readers: tuple[str, ...], draws: int = 1):
        self._draws = draws
        weights = {name: block.get_parameter(f"{name}.weight") for name in readers}
        device = weights[readers[0]].device
        self._magnitudes = ActStats(width_of(block, readers[0]), device, gram=False)
        self._readers = {
            name: LinearGradients(*weight.shape, device=device) for name, weight in weights.items()
        }

    @property
    def readers(self) -> tuple[str, ...]:
        """The linears that read the input."""
        return tuple(self._readers)

    def add(self, reader: str, x: Tensor, d: Tensor) -> None:
        """Add the input `x` of a reader [tokens, in] and its output's gradient `d`."""
        if reader == next(iter(self._readers)):
            self._magnitudes.add_magnitudes(x.float())
        self._readers[reader].add(x, d)

    @property
    def tokens(self) -> int:
        return self._magnitudes.tokens // self._draws

    @property
    def peak(self) -> Tensor:
        """The largest |x|: float32."""
        return self._magnitudes.peak

    @property
    def mean_abs(self) -> Tensor:
        """Mean magnitude of each channel: float32 [in]."""
        return self._magnitudes.mean_abs

    @property
    def finite(self) -> bool:
        """Whether no token brought a NaN, an infinity, or a value whose square overflows."""
        return all(reader.finite for reader in self._readers.values())

    @property
    def gram(self) -> Tensor:
        """The sum of the readers' H: float32 [in, in]; not a copy of a single reader's."""
        first, *others = (reader.stats.gram for reader in self._readers.values())
        total = first.clone() if others else first
        for gram in others:
            total += gram
        return total

    def alike(self, readers: tuple[str, ...]) -> list[tuple[str, ...]]:
        """`readers` in groups with the same statistics."""
        return [(reader,) for reader in readers]

    def of(self, reader: str) -> LinearStats:
        """What the rounding of `reader` uses."""
        return self._readers[reader].stats


@dataclass(frozen=True)
class GradientGatherer:
    """Gathers H and HO of the linears `quantized` of `block`.

    An input that none of them reads (a router's) has its plain Gram matrix. Every token passes
    `draws` times, each with another gradient.
    """

    block: nn.Module
    quantized: frozenset[str]
    draws: int = 1

    def bytes_of(self, names: tuple[str, ...]) -> int:
        """Memory for the statistics of an input with the readers `names`."""
        readers = self._readers(names)
        if not readers:
            return PlainGatherer(self.block).bytes_of(names)
        return sum(linear_bytes(self.block.get_submodule(name)) for name in readers)

    def create(self, names: tuple[str, ...]) -> InputStats:
        """Empty statistics of an input with the readers `names`."""
        readers = self._readers(names)
        if not readers:
            return PlainGatherer(self.block).create(names)
        return GradientStats(self.block, readers, self.draws)

    def _readers(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.quantized)

    def run(
        self, hidden: Tensor, call: BlockCall, gradient: Tensor | None, stats: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Run tokens with the `gradient` at the output; returns the output and its own gradient."""
        assert gradient is not None
        plain = {name: own for name, own in stats.items() if isinstance(own, ActStats)}
        others = [own for own in stats.values() if isinstance(own, GradientStats)]
        observers = {name: partial(own.add, name) for own in others for name in own.readers}
        with InputRecorder(self.block, list(plain)) as recorder:
            both = run_backward(self.block, hidden, call, gradient, observers)
        for name, x in recorder.inputs.items():
            plain[name].add(x)
        return both


Observer = Callable[[Tensor, Tensor], None]  # of a linear's input and output gradient


def run_backward(
    block: nn.Module,
    hidden: Tensor,
    call: BlockCall,
    gradient: Tensor,
    observers: dict[str, Observer],
) -> tuple[Tensor, Tensor]:
    """The block's output for `hidden` [samples, tokens, width], and the gradient at its input.

    `gradient` is that at the output. Each linear of `observers` is observed: its input [tokens, in]
    and the gradient at its output [tokens, out].
    """
    handles = [
        block.get_submodule(name).register_forward_hook(_observed(observer))
        for name, observer in observers.items()
    ]
    try:
        leaf = hidden.detach().requires_grad_()
        out = run_block(block, leaf, call, gradients=True)
        out.backward(gradient.to(out.device, out.dtype))
    finally:
        for handle in handles:
            handle.remove()
    assert leaf.grad is not None
    return out.detach(), torch.nan_to_num(leaf.grad, 0.0, 0.0, 0.0)


def _observed(observer: Observer) -> Callable[..., None]:
    def forward(_module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        x = args[0].detach().flatten(0, -2)

        def backward(d: Tensor) -> None:
            observer(x, torch.nan_to_num(d.detach().flatten(0, -2), 0.0, 0.0, 0.0))

        if out.requires_grad:
            out.register_hook(backward)

    return forward


def gradient_fault(block: nn.Module, hidden: Tensor, call: BlockCall) -> str:
    """Why `block` cannot be differentiated, '' if it can: tried on a few tokens."""
    try:
        out, gradient = run_backward(block, hidden, call, torch.ones_like(hidden), {})
    except (ModelError, RuntimeError, AssertionError) as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    return "" if bool(torch.isfinite(out).all()) and bool(gradient.any()) else "it has no gradient"
