"""Which blocks run fused, proven: a proposal must give what Transformers' own block gives.

The whole model runs once on a few tokens while its blocks' inputs and outputs are noted. Each
proposal then computes the same inputs; what differs is not fused, and the model runs as
Transformers has it. The audit says what was fused of how many blocks, what was not, and why.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from salient.models.build import block_list, decoder_of

from .cache import Batch, KeyValueCache
from .fused import run_block
from .load import Model
from .native import NativeBlocks
from .parts import Parts, Unfit, find_parts

PROOF_TOKENS = 12
# What a model's config calls the positions that a block may see; the proof makes them few.
WINDOWS = ("sliding_window", "attention_chunk_size")
PROOF_WINDOW = 5
# Of `differs`. Seen in float32: 1e-7 to 6e-5 where a proposal is right, 6e-3 and more where it is
# wrong (scores 5% too large), 0.05 to 7 without a window or rotary embedding; in bfloat16, which
# rounds at every step, 1e-2 where it is right.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}

# After all blocks. Seen: 1e-5 to 3e-4; activations are rounded to 15 bits a group.
NATIVE_TOLERANCE = 1e-2


@dataclass
class Head:
    """From tokens to the first block, and from the last to logits.

    dtype: of what the linear takes   scale: of the embedding   factor: of the logits
    softcap: of the logits, 0 for none
    """

    embedding: nn.Module
    norm: nn.Module
    linear: Any
    dtype: torch.dtype
    scale: float
    factor: float
    softcap: float

    def embed(self, ids: Tensor) -> Tensor:
        """Hidden states float32 [rows, width] of `ids` [rows]."""
        return self.embedding(ids).float() * self.scale

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits float32 [rows, vocab] of the last block's output [rows, width]."""
        made = self.linear(self.norm(hidden).to(self.dtype)).float() * self.factor
        return torch.tanh(made / self.softcap) * self.softcap if self.softcap else made


@dataclass
class Audit:
    """What was fused: (what, how many blocks, how or why not); a line for each kind of finding."""

    fused: bool = False
    error: float = 0.0
    findings: dict[tuple[str, str], int] = field(default_factory=dict)

    def note(self, what: str, how: str, blocks: int = 1) -> None:
        """More blocks of which this is true."""
        self.findings[what, how] = self.findings.get((what, how), 0) + blocks


@dataclass
class Fused:
    """The model as fused blocks. native: they run as C++ calls, or in words why not."""

    head: Head
    parts: list[Parts]
    native: str | None


@dataclass
class _Seen:
    """What a run of the whole model showed."""

    ids: Tensor
    logits: Tensor
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    rotaries: list[Any] = field(default_factory=list)
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]] = field(
        default_factory=list
    )


def fuse(model: Model, capacity: int) -> tuple[Fused | None, Audit]:
    """The fused blocks of `model` for up to `capacity` positions, or None; and the audit."""
    audit = Audit()
    try:
        with torch.no_grad():
            return _fuse(model, capacity, audit), audit
    except Unfit as unfit:
        audit.note("the model runs as Transformers has it", str(unfit))
        return None, audit


def _fuse(model: Model, capacity: int, audit: Audit) -> Fused:
    name, blocks = block_list(model.module)
    if model.module.config.get_text_config() is not model.module.config:
        raise Unfit("it takes more than text, and positions are then not a simple count")
    with _narrow(model):
        seen = _watch(model, blocks, 0)
    proven = []
    for index, block in enumerate(blocks):
        proposal = _proposal(model, f"{name}.{index}", block, _tables(seen, index, capacity))
        proven.append(_proven(model, proposal, seen, index, audit))
        _note(audit, proven[-1])
    head = _head(model, seen, audit)
    native = _why_not_native(model, proven, seen, audit)
    _check_far(model, blocks, proven, capacity)
    parts = [_with_window(block, _windows(model)) for block in proven]
    audit.fused = True
    how = "run as C++ calls" if native is None else "run in PyTorch"
    audit.note(how, native or "", len(parts))
    return Fused(head, parts, native)


def _windows(model: Model) -> dict[str, int]:
    """The windows that the config names."""
    found = {name: getattr(model.config, name, None) for name in WINDOWS}
    return {name: size for name, size in found.items() if isinstance(size, int) and size > 0}


@contextlib.contextmanager
def _narrow(model: Model) -> Iterator[None]:
    """Make the model's windows narrower than the proof's text, so that it shows which blocks have
    one."""
    windows = _windows(model)
    try:
        for name in windows:
            setattr(model.config, name, PROOF_WINDOW)
        yield
    finally:
        for name, size in windows.items():
            setattr(model.config, name, size)


def _with_window(parts: Parts, windows: dict[str, int]) -> Parts:
    """`parts` with the model's own window in place of the proof's."""
    window = windows["sliding_window"] if parts.attention.window else 0
    return replace(parts, attention=replace(parts.attention, window=window))


def _watch(model: Model, blocks: nn.ModuleList, start: int) -> _Seen:
    """Run the model on random tokens from position `start` on and note what goes in and out."""
    seeded = torch.Generator().manual_seed(0)
    most = model.module.get_input_embeddings().weight.shape[0]
    seen = _Seen(torch.randint(0, most, (PROOF_TOKENS,), generator=seeded), torch.empty(0))
    handles: list[Any] = []

    def block_hook(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        seen.inputs.append(args[0] if args else kwargs["hidden_states"])
        seen.outputs.append(out[0] if isinstance(out, tuple) else out)
        seen.rotaries.append(kwargs.get("position_embeddings"))

    def rotary_hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        seen.calls.append((module, args, kwargs, out))

    for module in model.module.modules():
        if type(module).__name__.endswith("RotaryEmbedding"):
            handles.append(module.register_forward_hook(rotary_hook, with_kwargs=True))
    handles += [block.register_forward_hook(block_hook, with_kwargs=True) for block in blocks]
    try:
        positions = torch.arange(start, start + PROOF_TOKENS, device=model.device)[None]
        ids = seen.ids[None].to(model.device)
        out = model.module(input_ids=ids, position_ids=positions, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    seen.logits = out.logits[0].float()
    return seen


def _tables(seen: _Seen, index: int, capacity: int) -> tuple[Tensor, Tensor] | None:
    """(cos, sin) float32 [capacity, rotary_dim / 2] of block `index`, None if it is handed none.

    Raises Unfit where the angles depend on more than the position.
    """
    given = seen.rotaries[index]
    if given is None:
        return None
    call = next((c for c in seen.calls if c[3] is given or c[3][0] is given[0]), None)
    if call is None or not isinstance(given, tuple):
        raise Unfit("its rotary angles come from elsewhere than a rotary embedding")
    module, args, kwargs, _ = call
    positions = torch.arange(capacity, device=given[0].device)[None]
    args = tuple(_positions(a, positions) for a in args)
    kwargs = {name: _positions(value, positions) for name, value in kwargs.items()}
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    cos, sin = (table[0].float() for table in module(*args, **kwargs))
    if any(not torch.equal(b, before[name]) for name, b in module.named_buffers()):
        raise Unfit("its rotary angles depend on the length of the text")
    half = cos.shape[-1] // 2
    if not torch.equal(cos[:, :half], cos[:, half:]):
        raise Unfit("its rotary embedding turns other pairs of channels")
    return cos[:, :half].contiguous(), sin[:, :half].contiguous()


def _positions(value: Any, positions: Tensor) -> Any:
    """`positions` in place of an argument of positions: the integers among them."""
    integers = isinstance(value, Tensor) and not value.is_floating_point() and value.ndim == 2
    return positions.to(value.dtype) if integers else value


def _proposal(model: Model, name: str, block: nn.Module, rotary: Any) -> Parts:
    try:
        return find_parts(model, name, block, rotary)
    except Unfit as unfit:
        raise Unfit(f"{name}: {unfit}") from None


def _proven(model: Model, proposal: Parts, seen: _Seen, index: int, audit: Audit) -> Parts:
    """`proposal` with or without rotary embedding and window, whichever gives the block's output.

    A window is the proof's, PROOF_WINDOW.
    """
    a, errors = proposal.attention, []
    rotaries = {(a.cos is not None): (a.cos, a.sin), False: (None, None)}
    windows = (0, PROOF_WINDOW) if "sliding_window" in _windows(model) else (0,)
    for (cos, sin), window in itertools.product(rotaries.values(), windows):
        parts = replace(proposal, attention=replace(a, cos=cos, sin=sin, window=window))
        errors.append(_error(model, parts, seen.inputs[index][0], seen.outputs[index][0]))
        if errors[-1] <= TOLERANCES[model.dtype]:
            audit.error = max(audit.error, errors[-1])
            return parts
    raise Unfit(
        f"{proposal.name} does more than its parts say: run fused, its output differs by "
        f"{min(errors):.0e}"
    )


def _check_far(model: Model, blocks: nn.ModuleList, proven: list[Parts], capacity: int) -> None:
    """Raise Unfit if blocks do otherwise at the last positions than at the first."""
    start = capacity - PROOF_TOKENS
    if start <= PROOF_TOKENS:
        return
    with _narrow(model):
        seen = _watch(model, blocks, start)
    for index, parts in enumerate(proven):
        a = parts.attention
        cos, sin = (None if table is None else table[start:] for table in (a.cos, a.sin))
        far = replace(parts, attention=replace(a, cos=cos, sin=sin))
        error = _error(model, far, seen.inputs[index][0], seen.outputs[index][0])
        if not error <= TOLERANCES[model.dtype]:
            raise Unfit(
                f"{parts.name} does otherwise from position {start} on: run fused, its output "
                f"differs by {error:.0e}"
            )


def _error(model: Model, parts: Parts, given: Tensor, wanted: Tensor) -> float:
    """The difference between the fused block's output and `wanted`."""
    a = parts.attention
    cache = KeyValueCache([(a.kv_heads, a.head_dim)], 1, PROOF_TOKENS, model.dtype, model.device)
    batch = Batch.prefill(0, 0, PROOF_TOKENS, model.device)
    made = run_block(parts, given, batch, cache, 0)
    return differs(made, wanted, given)


def differs(made: Tensor, wanted: Tensor, given: Tensor | None = None) -> float:
    """The largest difference of a row [rows, width], relative to what `wanted` adds to `given`.

    A few channels of the hidden states of real models are a thousand times larger than what a block
    adds to all others: relative to them every error is small. What the type of `wanted` rounds off
    them is not held against `made`.
    """
    added = wanted.float() if given is None else wanted.float() - given.float()
    rounding = torch.finfo(wanted.dtype).eps * wanted.float().abs()
    error = (made.float() - wanted.float()).abs().sub_(rounding).clamp_(min=0)
    return float((error.norm(dim=-1) / added.norm(dim=-1)).max())


def _head(model: Model, seen: _Seen, audit: Audit) -> Head:
    """Embedding and head, with the factors that the model multiplies by; proven. Raises Unfit."""
    _, decoder = decoder_of(model.module)
    norm = getattr(decoder, "norm", None)
    if norm is None:
        raise Unfit(f"its {type(decoder).__name__} has no norm after the blocks")
    embedding, linear = model.module.get_input_embeddings(), model.module.get_output_embeddings()
    softcap = float(getattr(model.config, "final_logit_softcapping", None) or 0.0)
    head = Head(embedding, norm, linear, model.dtype, 1.0, 1.0, softcap)
    head.scale = _ratio(seen.inputs[0][0], head.embed(seen.ids.to(model.device)))
    if not softcap:
        head.factor = _ratio(seen.logits, head.logits(seen.outputs[-1][0]))
    for what, made, wanted in (
        ("embedding", head.embed(seen.ids.to(model.device)), seen.inputs[0][0]),
        ("head", head.logits(seen.outputs[-1][0]), seen.logits),
    ):
        error = differs(made, wanted)
        if not error <= TOLERANCES[model.dtype]:
            raise Unfit(f"its {what} does more than its parts say: it differs by {error:.0e}")
        audit.error = max(audit.error, error)
    return head


def _ratio(wanted: Tensor, made: Tensor) -> float:
    """The factor between two tensors that differ by one; exactly 1 if they do not."""
    wide, other = wanted.double().flatten(), made.double().flatten()
    found = float(wide @ other / (other @ other))
    return 1.0 if abs(found - 1) < 1e-3 else found


def _why_not_native(model: Model, parts: list[Parts], seen: _Seen, audit: Audit) -> str | None:
    """Why the blocks cannot run as C++ calls, None if they can: then they gave the same output."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return f"the C++ blocks take float32 on the CPU, not {model.dtype} on {model.device}"
    shapes = [(p.attention.kv_heads, p.attention.head_dim) for p in parts]
    try:
        cache = KeyValueCache(shapes, 1, PROOF_TOKENS, torch.float32, model.device)
        blocks = NativeBlocks(parts, cache)
    except Unfit as unfit:
        return str(unfit)
    made = blocks(seen.inputs[0][0].clone(), Batch.prefill(0, 0, PROOF_TOKENS, model.device))
    wanted = seen.outputs[-1][0]
    error = differs(made, wanted, seen.inputs[0][0])
    if not error <= NATIVE_TOLERANCE:
        return f"their output differs by {error:.0e} after {len(parts)} blocks"
    audit.error = max(audit.error, error)
    return None


def _note(audit: Audit, parts: Parts) -> None:
    a, m = parts.attention, parts.mlp
    joined: Callable[[Any], bool] = lambda linears: len(linears) == 1  # noqa: E731
    audit.note("q, k, v as one product" if joined(a.qkv) else "q, k, v apart", "")
    audit.note("rotary embedding" if a.cos is not None else "no rotary embedding", "")
    audit.note("norms and residuals", "")
    if m.module is not None:
        why = f"{type(m.module).__name__} runs as Transformers has it"
        audit.note("MLP not fused", why)
    else:
        audit.note("gate, up as one product" if joined(m.gate_up) else "gate, up apart", "")
