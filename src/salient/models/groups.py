"""Scale groups: linears of a block that may share a scale, and the module that takes the inverse.

AWQ multiplies the input columns of some linears (the readers) by a scale and divides whatever feeds
them (the absorber) by the same. That is free only if the absorber feeds nobody else. Nothing here
knows an architecture:

1. *Watch* a block run: linears whose inputs hold the same values are readers of one shared input.
2. *Propose* an absorber. A module with a one-dimensional weight whose output is that input is a
   norm. Otherwise each linear that ran before is asked which of its rows feeds which input channel
   (feeding.py).
3. *Prove* each proposal: fold a random positive scale into absorber and readers; the block's output
   must not change.

A group that is not proven is not scaled, and says why.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .call import run_block
from .feeding import Probe, feeding_rows

# In float32 true folds differ by about 1e-7 of a token's hidden state; a forgotten reader, a wrong
# norm or a forgotten `1 + w` by 1e-3 and more.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class ScaleGroup:
    """Linears that share an input, and the module that can absorb a scale on it.

    readers: names within the block, in the order in which they ran
    absorber: name within the block, None if nothing can absorb
    rows: int64 [in], the absorber's output row (or norm channel) that feeds each input channel
    offset: 1.0 for norms that multiply by `1 + weight`, else 0.0
    proof_error: the largest change of a token's hidden state under a random fold, relative; None if
    never tried
    refusal: why the group is not scaled, '' if it is
    """

    readers: tuple[str, ...]
    absorber: str | None = None
    rows: Tensor | None = None
    offset: float = 0.0
    proof_error: float | None = None
    refusal: str = ""

    @property
    def proven(self) -> bool:
        return self.absorber is not None and not self.refusal


def find_groups(
    block: nn.Module, probe: Probe, seen: list[ScaleGroup] | None = None
) -> list[ScaleGroup]:
    """The scale groups of `block` (float32 weights), each proven or refused.

    `seen` are the groups of an earlier block of the same shape: they are taken as proposals, which
    saves the search for absorbers, and proven again here.
    """
    inputs, outputs = watch(block, probe)
    shared = _shared_inputs(inputs)
    known = {group.readers: group for group in seen or []}
    groups = []
    for readers in shared:
        group = known.get(readers)
        if group is not None and group.absorber is not None:
            group = prove(block, group, probe)
        if group is None or not group.proven:
            group = _find_absorber(block, readers, inputs, outputs, probe)
        groups.append(group)
    return groups


def watch(block: nn.Module, probe: Probe) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Run `block` once: inputs of its linears, outputs of its modules with a weight, in order.

    A linear that runs more than once in a block is left out: its inputs are several.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    runs: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            runs[name] = runs.get(name, 0) + 1
            if isinstance(module, nn.Linear):
                inputs[name] = args[0].detach()
            if isinstance(out, Tensor):
                outputs[name] = out.detach()

        return hook

    weighted = [
        (n, m) for n, m in block.named_modules() if isinstance(getattr(m, "weight", None), Tensor)
    ]
    handles = [module.register_forward_hook(note(name)) for name, module in weighted]
    try:
        run_block(block, probe.sequences, probe.sequences_call)
    finally:
        for handle in handles:
            handle.remove()
    return {n: x for n, x in inputs.items() if runs[n] == 1}, outputs


def _shared_inputs(inputs: dict[str, Tensor]) -> list[tuple[str, ...]]:
    groups: list[list[str]] = []
    for name, x in inputs.items():
        home = next((g for g in groups if _same(inputs[g[0]], x)), None)
        if home is None:
            groups.append([name])
        else:
            home.append(name)
    return [tuple(g) for g in groups]


def _same(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape[-1] == b.shape[-1]
        and a.numel() == b.numel()
        and torch.equal(a.flatten(), b.flatten())
    )


def _find_absorber(
    block: nn.Module,
    readers: tuple[str, ...],
    inputs: dict[str, Tensor],
    outputs: dict[str, Tensor],
    probe: Probe,
) -> ScaleGroup:
    """The group of `readers` with the first absorber that is proven, or the last refusal."""
    x = inputs[readers[0]]
    refused = ScaleGroup(
        readers,
        refusal="no norm's output is this input, and no linear before feeds it channel by channel",
    )
    ran = list(outputs)
    before = ran[: ran.index(readers[0])]
    norms = [n for n in before if _weight(block, n).ndim == 1 and _same(outputs[n], x)]
    for name in norms:
        rows = torch.arange(x.shape[-1], device=x.device)
        for offset in (0.0, 1.0):
            group = prove(block, ScaleGroup(readers, name, rows, offset), probe)
            if group.proven:
                return group
            refused = group
    if norms:
        return refused
    for name in reversed(before):
        if not isinstance(block.get_submodule(name), nn.Linear):
            continue
        rows = feeding_rows(block, name, readers[0], probe)
        if rows is None:
            continue
        group = prove(block, ScaleGroup(readers, name, rows), probe)
        if group.proven:
            return group
        refused = group
    return refused


def prove(block: nn.Module, group: ScaleGroup, probe: Probe) -> ScaleGroup:
    """Fold a random scale in [0.5, 2] into `group` and compare the block's output.

    The block is left as it was.
    """
    assert group.absorber is not None
    assert group.rows is not None
    weight = _weight(block, group.absorber)
    exponent = torch.rand(weight.shape[0], generator=torch.Generator().manual_seed(0)) * 2 - 1
    scale = torch.ones(len(exponent), device=weight.device)
    scale[group.rows] = (2.0**exponent).to(scale.device)[group.rows]
    expected = run_block(block, probe.sequences, probe.sequences_call)
    with _restored(block, (group.absorber, *group.readers)):
        fold(block, group, scale)
        found = run_block(block, probe.sequences, probe.sequences_call)
    size = expected.norm(dim=-1).clamp(min=1e-30)
    error = float(((found - expected).norm(dim=-1) / size).nan_to_num(nan=float("inf")).max())
    refusal = ""
    if error > TOLERANCE:
        refusal = (
            f"folding a scale into {group.absorber!r} changes the block's output by {error:.0e}: "
            "something else reads it, or an activation between bends it"
        )
    return replace(group, proof_error=error, refusal=refusal)


@contextmanager
def _restored(block: nn.Module, names: tuple[str, ...]) -> Iterator[None]:
    parameters = [p for name in names for p in block.get_submodule(name).parameters(recurse=False)]
    saved = [p.detach().clone() for p in parameters]
    try:
        yield
    finally:
        for parameter, value in zip(parameters, saved, strict=True):
            parameter.data.copy_(value)


def fold(block: nn.Module, group: ScaleGroup, scale: Tensor) -> None:
    """Divide the absorber's rows by `scale` and multiply the readers' columns by the same.

    `scale` is float32 [rows of the absorber]. Changes the block.
    """
    assert group.absorber is not None
    assert group.rows is not None
    absorber = block.get_submodule(group.absorber)
    weight = _weight(block, group.absorber).data
    if weight.ndim == 1:
        weight.copy_((weight.float() + group.offset) / scale - group.offset)
    else:
        weight.div_(scale[:, None])
    bias = getattr(absorber, "bias", None)
    if isinstance(bias, Tensor):
        bias.data.div_(scale)
    for name in group.readers:
        _weight(block, name).data.mul_(scale[group.rows])


def _weight(block: nn.Module, name: str) -> Tensor:
    return block.get_parameter(f"{name}.weight")
