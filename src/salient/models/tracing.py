"""Trace a block run: the inputs of its linears, the outputs of its norms and linears."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .block_call import run_block
from .row_matching import BlockProbe

PARALLEL = 1e-5  # how far from 1 the cosine of two rows may be that are multiples of each other


@dataclass(frozen=True)
class BlockTrace:
    """One run of a block.

    inputs: module with a 2-D weight (linear, router) -> its input [..., in], in running order
    outputs: module with a weight -> its output, in running order
    repeated: linears that ran more than once, and how often
    idle: linears that did not run
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)


def watch(block: nn.Module, probe: BlockProbe) -> BlockTrace:
    """Run `block` once on `probe`'s sequences."""
    trace, runs = BlockTrace(), dict[str, int]()

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            runs[name] = runs.get(name, 0) + 1
            weight = module.get_parameter("weight")
            if weight.ndim == 2 and args and args[0].shape[-1] == weight.shape[1]:
                trace.inputs[name] = args[0].detach()
            if isinstance(out, Tensor):
                trace.outputs[name] = out.detach()

        return hook

    weighted = {
        n: m for n, m in block.named_modules() if isinstance(getattr(m, "weight", None), Tensor)
    }
    with ExitStack() as stack:
        for name, module in weighted.items():
            stack.callback(module.register_forward_hook(note(name)).remove)
        run_block(block, probe.sequences, probe.sequences_call)
    for name, module in weighted.items():
        if isinstance(module, nn.Linear) and name not in runs:
            trace.idle.append(name)
        elif name in trace.inputs and runs[name] > 1:
            trace.repeated[name] = runs[name]
            del trace.inputs[name]
    return trace


def shared_inputs(inputs: dict[str, Tensor]) -> list[tuple[str, ...]]:
    """The readers of `inputs` put together where they read the very same values."""
    groups: list[list[str]] = []
    for name, x in inputs.items():
        home = next((g for g in groups if same(inputs[g[0]], x)), None)
        if home is None:
            groups.append([name])
        else:
            home.append(name)
    return [tuple(g) for g in groups]


def same(a: Tensor, b: Tensor) -> bool:
    """Whether both hold the same rows."""
    return a.shape[-1] == b.shape[-1] and same_values(a, b)


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether both hold the same values in the same order."""
    return a.numel() == b.numel() and torch.equal(a.flatten(), b.flatten())


def some_of(x: Tensor, whole: Tensor) -> bool:
    """Whether every row of `x` is a row of `whole`: some tokens, or all."""
    if x.shape[-1] != whole.shape[-1]:
        return False
    rows, those = x.flatten(0, -2), whole.flatten(0, -2)
    return bool((rows[:, None] == those).all(-1).any(-1).all())


def multiples_of(x: Tensor, whole: Tensor) -> bool:
    """Whether every row of `x` is a multiple of a row of `whole`: tokens that were weighted."""
    if x.shape[-1] != whole.shape[-1]:
        return False
    rows, those = _unit(x), _unit(whole)
    near = (rows @ those.t()).amax(-1) > 1 - PARALLEL
    return bool((near | (rows == 0).all(-1)).all())


def _unit(x: Tensor) -> Tensor:
    rows = x.flatten(0, -2).double()
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-30)


def pattern(name: str) -> str:
    """`name` with its numbers as stars: one for all experts' linears of a kind."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def numbers(name: str) -> list[str]:
    """The numbers in `name`: which expert."""
    return [part for part in name.split(".") if part.isdigit()]


def idle_inputs(watched: BlockTrace) -> list[tuple[str, ...]]:
    """The linears that did not run, put together as those like them are that did."""
    shared: dict[str, int] = {}
    for number, names in enumerate(shared_inputs(watched.inputs)):
        for name in names:
            shared.setdefault(pattern(name), number)
    homes: dict[tuple[int | str, ...], list[str]] = {}
    for name in watched.idle:
        homes.setdefault((shared.get(pattern(name), name), *numbers(name)), []).append(name)
    return [tuple(names) for names in homes.values()]
