"""Fuse blocks and verify them: a proposal must reproduce the output of Transformers' own block.

The whole model runs once on a few tokens to record its blocks' inputs and outputs. Each proposal
then computes the same inputs. If one differs, the model runs unfused, by Transformers' forward. The
audit lists what was fused in how many blocks, what was not, and why.
"""

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from salient.models.build import block_list, decoder_of
from salient.runtime.kv_cache import Batch, KeyValueCache
from salient.runtime.model_loader import LoadedModel

from .match import FusedBlock, NotFusable, match_block
from .native_blocks import NativeBlocks
from .torch_blocks import run_block
from .trace import (
    PROOF_TOKENS,
    PROOF_WINDOW,
    TOLERANCES,
    ModelTrace,
    max_row_error,
    narrow,
    tables_of,
    trace_blocks,
    windows_of,
)

# After all blocks. Usual: 1e-5 to 3e-4; activations are rounded to 15 bits a group.
NATIVE_TOLERANCE = 1e-2


@dataclass
class ModelHead:
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
        logits = self.linear(self.norm(hidden).to(self.dtype)).float()
        logits = logits if self.factor == 1.0 else logits * self.factor
        return torch.tanh(logits / self.softcap) * self.softcap if self.softcap else logits


@dataclass
class FusionAudit:
    """The result of the fusion. findings: (what, how or why not) -> number of blocks"""

    fused: bool = False
    error: float = 0.0
    findings: dict[tuple[str, str], int] = field(default_factory=dict)

    def note(self, what: str, how: str, blocks: int = 1) -> None:
        """Count `blocks` with this finding."""
        self.findings[what, how] = self.findings.get((what, how), 0) + blocks


@dataclass
class FusedModel:
    """The model as fused blocks. native: why they do not run as C++ calls; None: they do"""

    head: ModelHead
    parts: list[FusedBlock]
    native: str | None


def fuse(model: LoadedModel, capacity: int) -> tuple[FusedModel | None, FusionAudit]:
    """The fused blocks of `model` for up to `capacity` positions, or None; and the audit."""
    audit = FusionAudit()
    try:
        with torch.no_grad():
            return _fuse(model, max(capacity, PROOF_TOKENS), audit), audit
    except NotFusable as unfit:
        audit.note("the model runs as Transformers has it", str(unfit))
        return None, audit


def _fuse(model: LoadedModel, capacity: int, audit: FusionAudit) -> FusedModel:
    name, blocks = block_list(model.module)
    if model.module.config.get_text_config() is not model.module.config:
        raise NotFusable("it takes more than text, and positions are then not a simple count")
    with narrow(model):
        trace = trace_blocks(model, blocks, 0)
    proven = []
    for index, block in enumerate(blocks):
        rotary, home = tables_of(trace, index, capacity), f"{name}.{index}"
        try:
            proposal = match_block(model, home, block, rotary)
        except NotFusable as unfit:
            raise NotFusable(f"{home}: {unfit}") from None
        proven.append(_proven(model, proposal, trace, index, audit))
        _note(audit, proven[-1])
    head, error = find_head(model, trace)
    audit.error = max(audit.error, error)
    native = _why_not_native(model, proven, trace, audit)
    _check_far(model, blocks, proven, capacity)
    windows = windows_of(model)  # in place of the proof's own
    parts = [
        replace(block, attention=replace(a, window=windows["sliding_window"] if a.window else 0))
        for block in proven
        for a in (block.attention,)
    ]
    audit.fused = True
    how = "run as C++ calls" if native is None else "run in PyTorch"
    audit.note(how, native or "", len(parts))
    return FusedModel(head, parts, native)


def _proven(
    model: LoadedModel, proposal: FusedBlock, trace: ModelTrace, index: int, audit: FusionAudit
) -> FusedBlock:
    """`proposal` with or without rotary embedding and window, as reproduces the block's output.

    Windows are PROOF_WINDOW wide.
    """
    a, errors = proposal.attention, []
    rotaries = {(a.cos is not None): (a.cos, a.sin), False: (None, None)}
    windows = (0, PROOF_WINDOW) if "sliding_window" in windows_of(model) else (0,)
    for (cos, sin), window in itertools.product(rotaries.values(), windows):
        parts = replace(proposal, attention=replace(a, cos=cos, sin=sin, window=window))
        errors.append(_error(model, parts, trace.inputs[index][0], trace.outputs[index][0]))
        if errors[-1] <= TOLERANCES[model.dtype]:
            audit.error = max(audit.error, errors[-1])
            return parts
    raise NotFusable(
        f"{proposal.name} computes more than its known parts: run fused, its output differs by "
        f"{min(errors):.0e}"
    )


def _check_far(
    model: LoadedModel, blocks: nn.ModuleList, proven: list[FusedBlock], capacity: int
) -> None:
    """Raise NotFusable if blocks differ from their proposals at the last positions."""
    start = capacity - PROOF_TOKENS
    if start <= PROOF_TOKENS:
        return
    with narrow(model):
        trace = trace_blocks(model, blocks, start)
    for index, parts in enumerate(proven):
        a = parts.attention
        cos, sin = (None if table is None else table[start:] for table in (a.cos, a.sin))
        far = replace(parts, attention=replace(a, cos=cos, sin=sin))
        error = _error(model, far, trace.inputs[index][0], trace.outputs[index][0])
        if not error <= TOLERANCES[model.dtype]:
            raise NotFusable(
                f"{parts.name} computes otherwise from position {start} on: run fused, its "
                f"output differs by {error:.0e}"
            )


def _error(model: LoadedModel, parts: FusedBlock, inputs: Tensor, wanted: Tensor) -> float:
    """The difference between the fused block's output and `wanted`."""
    a = parts.attention
    cache = KeyValueCache([(a.kv_heads, a.head_dim)], 1, PROOF_TOKENS, model.dtype, model.device)
    batch = Batch.prefill(0, 0, PROOF_TOKENS, model.device)
    output = run_block(parts, inputs, batch, cache, 0)
    return max_row_error(output, wanted, inputs)


def _why_not_native(
    model: LoadedModel, parts: list[FusedBlock], trace: ModelTrace, audit: FusionAudit
) -> str | None:
    """Why the blocks cannot run as C++ calls, None if they can and reproduce the output."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return f"the C++ blocks take float32 on the CPU, not {model.dtype} on {model.device}"
    shapes = [(p.attention.kv_heads, p.attention.head_dim) for p in parts]
    try:
        cache = KeyValueCache(shapes, 1, PROOF_TOKENS, torch.float32, model.device)
        blocks = NativeBlocks(parts, cache)
    except NotFusable as unfit:
        return str(unfit)
    output = blocks(trace.inputs[0][0].clone(), Batch.prefill(0, 0, PROOF_TOKENS, model.device))
    wanted = trace.outputs[-1][0]
    error = max_row_error(output, wanted, trace.inputs[0][0])
    if not error <= NATIVE_TOLERANCE:
        return f"their output differs by {error:.0e} after {len(parts)} blocks"
    audit.error = max(audit.error, error)
    return None


def _note(audit: FusionAudit, parts: FusedBlock) -> None:
    a, m = parts.attention, parts.mlp
    audit.note("q, k, v as one product" if len(a.qkv) == 1 else "q, k, v apart", "")
    audit.note("rotary embedding" if a.cos is not None else "no rotary embedding", "")
    audit.note("norms and residuals", "")
    if m.module is not None:
        audit.note("MLP not fused", f"{type(m.module).__name__} runs as Transformers has it")
    else:
        audit.note("gate, up as one product" if len(m.gate_up) == 1 else "gate, up apart", "")


def find_head(model: LoadedModel, trace: ModelTrace) -> tuple[ModelHead, float]:
    """Embedding and head with the model's factors, verified.

    Returns them and the largest error. Raises NotFusable.
    """
    _, decoder = decoder_of(model.module)
    norm = getattr(decoder, "norm", None)
    if norm is None:
        raise NotFusable(f"its {type(decoder).__name__} has no norm after the blocks")
    embedding, linear = model.module.get_input_embeddings(), model.module.get_output_embeddings()
    softcap = float(getattr(model.config, "final_logit_softcapping", None) or 0.0)
    head = ModelHead(embedding, norm, linear, model.dtype, 1.0, 1.0, softcap)
    head.scale = _ratio(trace.inputs[0][0], head.embed(trace.ids.to(model.device)))
    if not softcap:
        head.factor = _ratio(trace.logits, head.logits(trace.outputs[-1][0]))
    worst = 0.0
    for what, output, expected in (
        ("embedding", head.embed(trace.ids.to(model.device)), trace.inputs[0][0]),
        ("head", head.logits(trace.outputs[-1][0]), trace.logits),
    ):
        error = max_row_error(output, expected)
        if not error <= TOLERANCES[model.dtype]:
            raise NotFusable(
                f"its {what} computes more than its known parts: it differs by {error:.0e}"
            )
        worst = max(worst, error)
    return head, worst


def _ratio(wanted: Tensor, output: Tensor) -> float:
    """The factor between two tensors that differ by one; exactly 1 if they do not."""
    wide, other = wanted.double().flatten(), output.double().flatten()
    factor = float(wide @ other / (other @ other))
    return 1.0 if abs(factor - 1) < 1e-3 else factor
