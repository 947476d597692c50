"""Embedding, final norm and head, verified against the model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from salient.models.build import decoder_of
from salient.runtime.model_loader import LoadedModel

from .match import NotFusable
from .trace import TOLERANCES, ModelTrace, max_row_error


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
