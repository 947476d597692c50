"""Block reconstruction: learn a block's roundings and scales from its output on tokens.

Statistics judge each linear alone, on inputs of the unquantized model. Here the block runs as a
whole on the hidden states x^ of the quantized model, and the roundings and scales of all its
linears are learned together to give the unquantized model's output y:

    loss = sum_t w_t |block(x^_t) - y_t|^2 / sum_t w_t       w_t: weight of token t in the end loss

A weight is scale (1 + f) (round(code + v) - zero): v [out, in] changes a code where it exceeds one
half, f [out, groups] the scale within a narrow range; zeros stay. Rounding passes gradients through
(straight-through), and both are learned by sign steps whose size falls linearly to 0 (SignRound,
Cheng et al. 2023, arXiv 2309.05516, section 3). Only signs count: the gradient of v has that of the
weight's, the gradient of f that of the sum of gradient times weight over the group.

v starts at the residual of the first rounding, so what was rounded by nearly half a code changes
first. It starts at 0 without residuals, and for codes that are not the nearest of their weight:
feedback or descent chose them to make up for the errors of others. The iterate with the least
held-out loss wins, at worst the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from salient.core.errors import ModelError, library_errors
from salient.core.quant import Grid, QuantizedWeight, in_16_bits, in_groups, quantize, round_trip
from salient.models.block_call import BlockCall, InputRecorder, run_block

RESIDUAL_STEPS = 256  # of a residual in a code: half a code fits int8
FEWEST_TOKENS = 64  # held-out tokens that must reach a linear; others stay, as nothing judges them


@dataclass(frozen=True)
class ReconstructionBatch:
    """Samples that pass the block together.

    inputs: [samples, tokens, width], the quantized model's hidden states before the block
    targets: [samples, tokens, width], the unquantized model's hidden states after the block
    weights: float32 [samples, tokens], weight of each token's squared error, at least 0
    call: the block's arguments for these samples
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    call: BlockCall


@dataclass(frozen=True)
class ReconstructionSettings:
    """How a block is learned.

    steps: each on one batch, all batches in turn in an order by `seed`
    code_travel, scale_travel: how far v (in codes) and f can move in all steps together
    judge_every: steps between judgements on the held-out tokens
    """

    steps: int = 60
    code_travel: float = 0.5
    scale_travel: float = 0.06
    judge_every: int = 20
    seed: int = 0


DEFAULT = ReconstructionSettings()


@dataclass(frozen=True)
class Reconstruction:
    """The codes of a block's linears after reconstruction.

    before, after: held-out loss with the first codes, and with these
    step: after which they were taken; 0: nothing was better than the first
    changed: how many codes differ from the first
    refusal: why the block cannot be learned, '' if it can
    """

    codes: dict[str, QuantizedWeight]
    before: float
    after: float
    step: int = 0
    changed: int = 0
    refusal: str = ""


def reconstruct_block(
    block: nn.Module,
    codes: Mapping[str, QuantizedWeight],
    batches: Sequence[ReconstructionBatch],
    heldout: Sequence[ReconstructionBatch],
    dtype: torch.dtype,
    settings: ReconstructionSettings = DEFAULT,
    *,
    residuals: Mapping[str, Tensor] | None = None,
) -> Reconstruction:
    """Learn the codes and scales of the linears of `block`, starting from `codes`.

    `block` is in float32 and has the written norms, biases and unquantized linears; the weights of
    the linears that `codes` names are overwritten. `dtype` is the 16-bit type that scales are exact
    in, `residuals` those of the linears' roundings (`rounding_residual`), as far as known.
    """
    learned = {
        name: LearnedWeight(
            block.get_submodule(name), quantized, dtype, (residuals or {}).get(name)
        )
        for name, quantized in codes.items()
    }
    with _fast_products():
        before, reached = _judge(block, list(codes), heldout)
        trained = {n: weight for n, weight in learned.items() if reached[n] >= FEWEST_TOKENS}
        best = Reconstruction(dict(codes), before, before)
        try:
            for step in _steps(block, batches, list(trained.values()), settings):
                if step % settings.judge_every and step != settings.steps:
                    continue
                loss, _ = _judge(block, [], heldout)
                if loss < best.after:
                    now = best.codes | {n: weight.quantized(n) for n, weight in trained.items()}
                    best = Reconstruction(now, before, loss, step, _changed(codes, now))
        except ModelError as error:
            best = Reconstruction(dict(codes), before, before, refusal=str(error))
    return best


def rounding_residual(weight: Tensor, quantized: QuantizedWeight) -> Tensor:
    """What `quantized` lacks to `weight` [out, in]: int8 [out, in], in 256ths of a code.

    0 where it is more than half a code.
    """
    steps = in_groups(weight, quantized.scheme) / quantized.scale[..., None]
    left = (steps + quantized.zero[..., None]).flatten(1) - quantized.codes
    left = left.masked_fill_(left.abs() > 0.5, 0.0) * RESIDUAL_STEPS
    largest = RESIDUAL_STEPS // 2 - 1
    return left.round_().clamp_(-largest, largest).to(torch.int8)


def output_loss(block: nn.Module, batch: ReconstructionBatch, *, gradients: bool = False) -> Tensor:
    """The weighted mean squared error of the block's output on `batch`."""
    out = run_block(block, batch.inputs, batch.call, gradients=gradients)
    error = (out.float() - batch.targets.to(out.device).float()).square().mean(-1)
    weights = batch.weights.to(out.device)
    return (error * weights).sum() / weights.sum().clamp(min=1e-30)


class LearnedWeight:
    """The codes and scales of `linear` while they are learned; its parameter holds their values.

    shift: float32 [out, in], v in codes
    factor: float32 [out, groups], f
    """

    def __init__(
        self,
        linear: nn.Module,
        quantized: QuantizedWeight,
        dtype: torch.dtype,
        residual: Tensor | None = None,
    ):
        self.parameter = linear.get_parameter("weight")
        self.first, self.dtype = quantized, dtype
        self.shift = torch.zeros_like(self.parameter)
        if residual is not None:
            self.shift += residual.to(self.shift.device).float() / RESIDUAL_STEPS
        self.factor = torch.zeros_like(quantized.scale)
        self._load()

    @torch.no_grad()
    def step(self, codes: float, factors: float) -> None:
        """Move v by `codes` and f by `factors` against the parameter's gradient, and clear it.

        A linear that no token reached has none and stays.
        """
        gradient, self.parameter.grad = self.parameter.grad, None
        if gradient is None:
            return
        by_group = in_groups(gradient * self.parameter, self.first.scheme).sum(-1)
        self.shift.sub_(gradient.sign_(), alpha=codes)
        self.factor.sub_(by_group.sign_(), alpha=factors)
        self._load()

    def quantized(self, name: str) -> QuantizedWeight:
        """The codes and scales as they are now, of the linear `name`."""
        target, grid = self._before_rounding()
        return quantize(
            target.flatten(1), self.first.scheme, name=name, dtype=self.dtype, grid=grid
        )

    def _before_rounding(self) -> tuple[Tensor, Grid]:
        """The weight as it stands when it is rounded, [out, groups, group_size], and its grid."""
        scheme, zero = self.first.scheme, self.first.zero.float()
        grid = Grid(in_16_bits(self.first.scale * (1 + self.factor), self.dtype), zero)
        codes = in_groups(self.first.codes + self.shift, scheme) - zero[..., None]
        return codes.mul_(grid.scale[..., None]), grid

    @torch.no_grad()
    def _load(self) -> None:
        target, grid = self._before_rounding()
        self.parameter.copy_(round_trip(target, grid, self.first.scheme).flatten(1))


def _steps(
    block: nn.Module,
    batches: Sequence[ReconstructionBatch],
    trained: list[LearnedWeight],
    settings: ReconstructionSettings,
) -> Iterator[int]:
    """Learn step by step, each with the next batch; yields the number of steps so far.

    Raises ModelError if the block cannot be differentiated.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []
    for step in range(settings.steps):
        order = order or torch.randperm(len(batches), generator=generator).tolist()
        batch = batches[order.pop()]
        with (
            _requires_grad(trained),
            library_errors(f"{batch.call.block} cannot be differentiated", "It stays as it is."),
        ):
            output_loss(block, batch, gradients=True).backward()
        share = 2 * (settings.steps - step) / (settings.steps * (settings.steps + 1))
        for weight in trained:
            weight.step(settings.code_travel * share, settings.scale_travel * share)
        yield step + 1


@contextmanager
def _requires_grad(trained: list[LearnedWeight]) -> Iterator[None]:
    for weight in trained:
        weight.parameter.requires_grad = True
    try:
        yield
    finally:
        for weight in trained:
            weight.parameter.requires_grad = False


@contextmanager
def _fast_products() -> Iterator[None]:
    """Products of float32 matrices in bfloat16 where the processor is faster by it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _judge(
    block: nn.Module, names: list[str], heldout: Sequence[ReconstructionBatch]
) -> tuple[float, dict[str, int]]:
    """The mean loss of the held-out batches, and the tokens that reach each linear of `names`."""
    losses, reached = [], dict.fromkeys(names, 0)
    for batch in heldout:
        with InputRecorder(block, names) as recorder:
            losses.append(float(output_loss(block, batch)))
        for name, x in recorder.inputs.items():
            reached[name] += len(x)
    return sum(losses) / len(losses), reached


def _changed(codes: Mapping[str, QuantizedWeight], now: Mapping[str, QuantizedWeight]) -> int:
    return sum(int((now[n].codes != first.codes).sum()) for n, first in codes.items())
