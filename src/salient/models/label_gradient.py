"""The gradient of the end loss at the last block's output, with labels sampled from the model.

The loss is -log p(y_t) with y_t drawn from the model's own answer p at t. Its expected squared
gradient is the Fisher information: the curvature of KL(p || q) at q = p (Martens 2020, "New
insights and perspectives on the natural gradient method", sections 8 and 9). The gradient at the
logits is p - onehot(y). An embedding has no p: its answer is taken as the mean of a normal
distribution of unit variance, and the gradient there is a standard normal sample.
"""

import torch
from torch import Tensor

from .skeleton import Skeleton

LOGIT_BYTES = 2**26  # of the logits that are in memory at once


def label_gradient(skeleton: Skeleton, ids: Tensor, hidden: Tensor, seed: int) -> Tensor:
    """The gradient of the sum of all tokens' losses by `hidden` [samples, tokens, width].

    `hidden` is the output of the last block for `ids` [samples, tokens]. Returns float32 of the
    same shape, on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    if skeleton.head.kind == "tokens":
        step = max(1, LOGIT_BYTES // (4 * skeleton.vocabulary))
    else:
        step = ids.shape[1]  # an embedding is the mean of all tokens before
    gradient = torch.empty(hidden.shape)
    for row in range(len(ids)):
        for start in range(0, ids.shape[1], step):
            part = slice(start, start + step)
            gradient[row, part] = _gradient(
                skeleton, ids[row : row + 1, part], hidden[row : row + 1, part], generator
            )
    return gradient


def _gradient(
    skeleton: Skeleton, ids: Tensor, hidden: Tensor, generator: torch.Generator
) -> Tensor:
    with torch.enable_grad():
        leaf = hidden.to(skeleton.device, skeleton.dtype).detach().requires_grad_()
        answers = skeleton.answers(ids, leaf)
    outer = _answer_gradient(answers.detach().float(), skeleton.head.kind, generator)
    (gradient,) = torch.autograd.grad(answers, leaf, outer.to(answers.dtype))
    return gradient[0].float().cpu()


def _answer_gradient(answers: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """The loss's gradient by the `answers` [samples, tokens, classes]."""
    if kind not in ("tokens", "labels"):
        return torch.randn(answers.shape, generator=generator).to(answers.device)
    probabilities = answers.softmax(-1)
    labels = sample_labels(probabilities, generator)
    return probabilities.scatter_add_(
        -1, labels, torch.full_like(labels, -1, dtype=probabilities.dtype)
    )


def sample_labels(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """A class for each row of `probabilities` [..., classes], by inversion: int64 [..., 1]."""
    sums = probabilities.cumsum(-1)
    uniform = torch.rand((*sums.shape[:-1], 1), generator=generator).to(sums.device)
    labels = torch.searchsorted(sums, uniform * sums[..., -1:], right=True)
    return labels.clamp_(max=sums.shape[-1] - 1)
