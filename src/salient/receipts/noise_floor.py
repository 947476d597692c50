"""The noise floor: the reference against itself, and the checkpoint against both.

The second computation has one window in each batch, one thread, plain attention: what
engines and machines change without changing the model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from salient.core.progress import Progress
from salient.models.skeleton import Skeleton
from salient.validate.likelihood.panel_stream import compare_states, last_states
from salient.validate.likelihood.token_panel import TokenPanel

from .receipt_record import NoiseFloor

COMPUTED = "one window a batch, one thread, plain attention"
WINDOWS = 2  # of each stratum
ROUNDING = 1e-13  # nats: what float64 itself leaves of a KL


def noise_windows(panel: TokenPanel) -> list[int]:
    """The first windows of each stratum."""
    strata = [panel.head.strata[int(document)] for document in panel.documents[:, 0]]
    return sorted(
        number
        for stratum in panel.strata
        for number in [i for i, name in enumerate(strata) if name == stratum][:WINDOWS]
    )


def noise_floor(
    panel: TokenPanel,
    windows: Sequence[int],
    reference: tuple[Skeleton, Tensor],
    checkpoint: tuple[Skeleton, Tensor],
    progress: Progress,
) -> NoiseFloor:
    """The floor over `windows` of `panel`, whose last hidden states are those of both models."""
    some = TokenPanel(panel.head, panel.ids[list(windows)], panel.documents[list(windows)])
    again = _other_states(reference[0], some.ids, progress.part(0, 3, 4))
    other = (reference[0], again)
    itself = compare_states(some, reference, other, progress.part(9, 1, 12))
    first = compare_states(some, reference, checkpoint, progress.part(10, 1, 12))
    second = compare_states(some, other, checkpoint, progress.part(11, 1, 12))
    return NoiseFloor(
        COMPUTED,
        some.positions,
        max(abs(float(itself.kl.mean())), ROUNDING),
        float(itself.kl.max()),
        1 - float(itself.same.mean()),
        abs(float(itself.log_ratio.sum() / max(itself.predicted.sum(), 1))),
        max(abs(float(second.kl.mean() - first.kl.mean())), ROUNDING),
    )


def _other_states(skeleton: Skeleton, ids: Tensor, progress: Progress) -> Tensor:
    """`last_states`, computed in another way."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with sdpa_kernel(SDPBackend.MATH):
            return last_states(skeleton, ids, progress, "noise floor", batch_tokens=1)
    finally:
        torch.set_num_threads(threads)
