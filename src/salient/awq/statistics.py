"""Sufficient statistics of a block's inputs, all that the search needs of the tokens.

For an input x [in] shared by some linears, the output error of a rounding error E [out, in] is

    sum_t |E x_t|^2 = tr(E G E^T)        G = sum_t x_t x_t^T

so the Gram matrix G and the mean magnitude of each channel replace the tokens. Both are sums:
statistics of parts of the calibration add up to those of the whole.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from salient.core.errors import ModelError
from salient.models.block_call import BlockCall, InputRecorder, OutputPeak, run_block
from salient.models.proof import ScaleGroup
from salient.models.tracing import numbers

PANELS = 6  # G is symmetric: adding only from each panel's diagonal on saves 5 parts in 12


class ActStats:
    """Statistics of one shared input of `width` channels, as sums over tokens.

    abs_sum: float32 [in], sum of |x|
    peak: float32, the largest |x|
    tokens: how many
    """

    def __init__(self, width: int, device: torch.device | str = "cpu"):
        self.abs_sum = torch.zeros(width, device=device)
        self.peak = torch.zeros((), device=device)
        self.tokens = 0
        self._upper = torch.zeros(width, width, device=device)

    def add(self, x: Tensor) -> None:
        """Add the tokens `x` [tokens, in]."""
        x = x.float()
        magnitude = x.abs()
        self.abs_sum += magnitude.sum(0)
        if len(x):
            self.peak = torch.maximum(self.peak, magnitude.amax())
        for start, stop in self._panels():
            self._upper[start:stop, start:].addmm_(x[:, start:stop].t(), x[:, start:])
        self.tokens += len(x)

    def merge(self, other: "ActStats") -> None:
        """Add the statistics of other tokens."""
        self.abs_sum += other.abs_sum
        self.peak = torch.maximum(self.peak, other.peak)
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


@dataclass(frozen=True)
class LinearStats:
    """What the rounding of one linear uses of the calibration tokens.

    gram: float32 [in, in], H = sum_t w_t x_t x_t^T with w_t the mean squared gradient of the
        output, clipped at its 99th percentile; w_t = 1 without gradients
    output_grams: float32 [rows, rows] for each band of OUTPUT_BAND outputs, HO = sum_t d_t d_t^T
        of their gradients; () without gradients
    """

    gram: Tensor
    output_grams: tuple[Tensor, ...] = ()


OUTPUT_BAND = 2048
GRAM_BYTES = 2**30
FEWEST_TOKENS = 64

# Runs every batch of calibration tokens through a function of (hidden states, call); `again` says
# that they may have to pass the block once more.
Passes = Callable[[Callable[[Tensor, BlockCall], Tensor], bool], None]


@dataclass
class BlockStatistics:
    """Statistics by the first reader of each input of `groups`, computed on demand.

    name: the block's, for messages
    passes: runs the calibration tokens through the block
    borrowed: expert that borrowed the block's tokens -> the number of its own
    peak: the largest magnitude of any linear's input and output, and of the block's output
    """

    name: str
    block: nn.Module
    groups: list[ScaleGroup]
    passes: Passes
    borrowed: dict[str, int] = field(default_factory=dict)
    peak: float = 0.0
    _stats: dict[str, ActStats] = field(default_factory=dict)
    _samples: dict[str, Tensor] = field(default_factory=dict)

    @property
    def firsts(self) -> list[str]:
        """The first reader of every input."""
        return [names[0] for group in self.groups for names in group.inputs]

    @property
    def bases(self) -> dict[str, str]:
        """Expert -> the first reader of the input from which it borrows tokens."""
        bases = {}
        for group in self.groups:
            whole = [names[0] for names in group.inputs if not numbers(names[0])]
            some = [names[0] for names in group.inputs if numbers(names[0])]
            if whole:
                bases |= dict.fromkeys(map(expert_of, some), whole[0])
        return bases

    def of(self, first: str) -> ActStats:
        """The statistics of the input whose first reader is `first`.

        Raises ModelError if it overflows.
        """
        if first not in self._stats:
            self._gather(first)
        return self._stats[first]

    def _gather(self, first: str) -> None:
        """One pass for all inputs that every token reaches, and for those of some experts."""
        experts = [name for name in self.firsts if numbers(name)]
        every = sum(map(self._bytes, self.firsts))
        portion, others = portions(experts, first, every, self._bytes)
        whole = [n for n in self.firsts if n not in experts and n not in self._stats]
        for name in experts:
            self._stats.pop(name, None)
        device = next(self.block.parameters()).device
        fresh = {name: ActStats(self._width(name), device) for name in [*whole, *portion]}
        self.passes(lambda hidden, call: self._observe(hidden, call, fresh), others)
        for name, stats in fresh.items():
            self._check(name, stats)
            self.peak = max(self.peak, float(stats.peak))
        self._stats |= fresh
        for expert in dict.fromkeys(map(expert_of, portion)):
            self._borrow(expert, [name for name in portion if expert_of(name) == expert])

    def _observe(self, hidden: Tensor, call: BlockCall, stats: dict[str, ActStats]) -> Tensor:
        bases = set(self.bases.values()) - self._samples.keys()
        inputs = InputRecorder(self.block, list(stats.keys() | bases))
        with inputs as recorder, OutputPeak(self.block) as outputs:
            out = run_block(self.block, hidden, call)
        self.peak = max(self.peak, outputs.value, float(out.abs().amax()))
        for name, x in recorder.inputs.items():
            if name in stats:
                stats[name].add(x)
            if name in bases:
                self._samples[name] = x.clone()
        return out

    def _borrow(self, expert: str, firsts: list[str]) -> None:
        """Let `expert` use the block's tokens if too few reach it.

        `firsts` are the first readers of its inputs.
        """
        tokens, base = min(self._stats[name].tokens for name in firsts), self.bases.get(expert)
        if tokens >= FEWEST_TOKENS or base is None:
            return
        with InputRecorder(self.block, firsts) as recorder, torch.no_grad():
            self.block.get_submodule(expert)(self._samples[base])
        for name, x in recorder.inputs.items():
            stats = ActStats(self._width(name), x.device)
            stats.add(x)
            self._check(name, stats)
            self._stats[name] = stats
        self.borrowed[expert] = tokens

    def _width(self, name: str) -> int:
        return self.block.get_parameter(f"{name}.weight").shape[1]

    def _bytes(self, name: str) -> int:
        return self._width(name) ** 2 * 4

    def _check(self, name: str, stats: ActStats) -> None:
        if not stats.finite:
            dtype = next(self.block.parameters()).dtype
            raise ModelError(
                f"The input of '{self.name}.{name}' overflows or is NaN on the calibration tokens, "
                f"computed in {dtype}. The model itself is broken there: check that it generates "
                "text before it is quantized, or fetch it again."
            )


def portions(
    experts: list[str], first: str, every: int, size: Callable[[str], int]
) -> tuple[list[str], bool]:
    """The experts' inputs to gather with `first`, and whether that leaves others out.

    `every` is the size of all inputs of the block in bytes; `size` gives that of one.
    """
    if every <= GRAM_BYTES:
        return experts, False
    budget = GRAM_BYTES - every + sum(map(size, experts))
    portion: list[str] = []
    for name in experts[experts.index(first) if first in experts else 0 :]:
        budget -= size(name)
        if portion and budget < 0:
            break
        portion.append(name)
    return portion, len(portion) < len(experts)


def expert_of(name: str) -> str:
    """The module that holds a linear of one expert: 'mlp.experts.3' of 'mlp.experts.3.up_proj'."""
    parts = name.split(".")
    number = next(at for at, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: number + 1])
