"""Trace a model on a few tokens: inputs and outputs of its blocks, rotary tables."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from salient.runtime.model_loader import LoadedModel

from .match import NotFusable

PROOF_TOKENS = 12
# Config names of the attention window; the trace narrows it.
WINDOWS = ("sliding_window", "attention_chunk_size")
PROOF_WINDOW = 5
# Bounds of `max_row_error`. In float32 correct proposals give 1e-7 to 6e-5 and wrong ones 6e-3 and
# more (scores 5% too large), 0.05 to 7 without a window or rotary embedding; in bfloat16, which
# rounds at every step, correct ones give 1e-2.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}

# A rotary embedding, its arguments and its result.
Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]


@dataclass
class ModelTrace:
    """The recorded run of a model."""

    ids: Tensor
    logits: Tensor
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    rotaries: list[Any] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    tables: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


def windows_of(model: LoadedModel) -> dict[str, int]:
    """The attention windows in the config."""
    sizes = {name: getattr(model.config, name, None) for name in WINDOWS}
    return {name: size for name, size in sizes.items() if isinstance(size, int) and size > 0}


@contextlib.contextmanager
def narrow(model: LoadedModel) -> Iterator[None]:
    """Make the model's windows narrower than the proof's text, so that it shows which blocks have
    one."""
    windows = windows_of(model)
    try:
        for name in windows:
            setattr(model.config, name, PROOF_WINDOW)
        yield
    finally:
        for name, size in windows.items():
            setattr(model.config, name, size)


def trace_blocks(model: LoadedModel, blocks: nn.ModuleList, start: int) -> ModelTrace:
    """Run the model on random tokens from position `start` on and record the blocks' tensors."""
    seeded = torch.Generator().manual_seed(0)
    most = model.embedding.weight.shape[0]
    trace = ModelTrace(torch.randint(0, most, (PROOF_TOKENS,), generator=seeded), torch.empty(0))

    def block_hook(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        trace.inputs.append(args[0] if args else kwargs["hidden_states"])
        trace.outputs.append(out[0] if isinstance(out, tuple) else out)
        trace.rotaries.append(kwargs.get("position_embeddings"))

    def rotary_hook(*call: Any) -> None:
        trace.calls.append(call)

    modules = [m for m in model.module.modules() if type(m).__name__.endswith("RotaryEmbedding")]
    handles = [m.register_forward_hook(rotary_hook, with_kwargs=True) for m in modules]
    handles += [block.register_forward_hook(block_hook, with_kwargs=True) for block in blocks]
    try:
        positions = torch.arange(start, start + PROOF_TOKENS, device=model.device)[None]
        ids = trace.ids[None].to(model.device)
        out = model.module(input_ids=ids, position_ids=positions, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    trace.logits = out.logits[0].float()
    return trace


def tables_of(trace: ModelTrace, index: int, capacity: int) -> tuple[Tensor, Tensor] | None:
    """(cos, sin) float32 [capacity, rotary_dim / 2] of block `index`, None if it gets none.

    Raises NotFusable if the angles depend on more than the position.
    """
    angles = trace.rotaries[index]
    if angles is None:
        return None
    call = next((c for c in trace.calls if c[3] is angles or c[3][0] is angles[0]), None)
    if call is None or not isinstance(angles, tuple):
        raise NotFusable("its rotary angles come from elsewhere than a rotary embedding")
    if id(call) not in trace.tables:  # blocks share them
        trace.tables[id(call)] = _table(call, angles[0].device, capacity)
    return trace.tables[id(call)]


def _table(call: Call, device: torch.device, capacity: int) -> tuple[Tensor, Tensor]:
    """(cos, sin) of all positions, from the `call` of a rotary embedding. Raises NotFusable."""
    module, args, kwargs, _ = call
    positions = torch.arange(capacity, device=device)[None]
    args = tuple(_positions(a, positions) for a in args)
    kwargs = {name: _positions(value, positions) for name, value in kwargs.items()}
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    cos, sin = (table[0].float() for table in module(*args, **kwargs))
    if any(not torch.equal(b, before[name]) for name, b in module.named_buffers()):
        raise NotFusable("its rotary angles depend on the length of the text")
    half = cos.shape[-1] // 2
    if not torch.equal(cos[:, :half], cos[:, half:]):
        raise NotFusable("its rotary embedding turns other pairs of channels")
    return cos[:, :half].contiguous(), sin[:, :half].contiguous()


def _positions(value: Any, positions: Tensor) -> Any:
    """`positions` in place of an argument of positions: the integers among them."""
    integers = isinstance(value, Tensor) and not value.is_floating_point() and value.ndim == 2
    return positions.to(value.dtype) if integers else value


def max_row_error(output: Tensor, expected: Tensor, base: Tensor | None = None) -> float:
    """The largest error of a row [rows, width], relative to what `expected` adds to `base`.

    A few channels of the hidden states of real models are a thousand times larger than what a block
    adds to all others: relative to them every error is small. The rounding of the dtype of
    `expected` is not counted.
    """
    added = expected.float() if base is None else expected.float() - base.float()
    rounding = torch.finfo(expected.dtype).eps * expected.float().abs()
    error = (output.float() - expected.float()).abs().sub_(rounding).clamp_(min=0)
    return float((error.norm(dim=-1) / added.norm(dim=-1)).max())
