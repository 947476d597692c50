"""Models streamed over a panel, block by block, and compared with the reference at each position.

Windows run in chunks of CHUNK_BYTES of hidden states: their number depends on the panel and the
model's width alone, so that a model's figures are the same whatever runs next to it. The
reference's last hidden states are stored (StateStore), not its logits: a head is cheap to run
again, and logits are a hundred times as large.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from salient.core.content_digest import text_digest
from salient.core.errors import ResourceError
from salient.core.progress import Progress
from salient.core.report import mebibytes
from salient.core.system import cache_folder
from salient.core.version import __version__
from salient.formats.writer import write_tensors
from salient.models.skeleton import Skeleton

from .position_figures import PositionFigures, compare_positions
from .streaming import BATCH_TOKENS, SLICE, WindowStream
from .token_panel import TokenPanel

CHUNK_BYTES = 2**29  # of a model's hidden states at once, in float32
STORES = 4  # panels and references whose states the cache keeps


def chunks(panel: TokenPanel, width: int) -> Iterator[slice]:
    """The windows that run at once."""
    size = max(1, CHUNK_BYTES // (4 * panel.ids.shape[1] * width))
    for start in range(0, len(panel.ids), size):
        yield slice(start, min(start + size, len(panel.ids)))


def last_states(
    skeleton: Skeleton,
    ids: Tensor,
    progress: Progress,
    label: str,
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """The output of the last block for `ids` [windows, tokens]: float32, on the CPU."""
    stream = WindowStream(skeleton, ids.long(), batch_tokens)
    hidden = stream.start
    for index, name in enumerate(skeleton.blocks):
        progress(index, len(skeleton.blocks), f"{label}: {name}")
        hidden = stream.run(index, skeleton.block(index), hidden)
    return hidden


@dataclass
class StateStore:
    """A model's last hidden states over a panel, one file a chunk.

    folder: None stores nothing   reuse: read what an earlier run has stored
    """

    label: str
    skeleton: Skeleton
    panel: TokenPanel
    folder: Path | None = None
    reuse: bool = True

    @classmethod
    def open(
        cls, label: str, skeleton: Skeleton, fingerprint: str, panel: TokenPanel, *, reuse: bool
    ) -> "StateStore":
        """The store of a model with the key `fingerprint` in the user's cache.

        Raises ResourceError if the disk has no room for it.
        """
        kind = f"{skeleton.dtype} {skeleton.device} {torch.get_num_threads()} {torch.__version__}"
        key = text_digest(f"{fingerprint} {panel.digest} {kind} {__version__}")[:32]
        parent = cache_folder() / "panel-states"
        folder = parent / key
        folder.mkdir(parents=True, exist_ok=True)
        folder.touch()
        for old in sorted(parent.iterdir(), key=lambda path: -path.stat().st_mtime)[STORES:]:
            shutil.rmtree(old, ignore_errors=True)
        needed, free = 4 * panel.positions * skeleton.width, shutil.disk_usage(parent).free
        if needed > free:
            raise ResourceError(
                f"The hidden states of {label} over {panel.positions} positions need "
                f"{mebibytes(needed)} of disk in {parent}, and {mebibytes(free)} are free. Free "
                "some, set SALIENT_CACHE to another disk, or measure fewer --positions."
            )
        return cls(label, skeleton, panel, folder, reuse)

    def states(self, rows: slice, progress: Progress) -> Tensor:
        """The states of the windows `rows`: float32 [windows, tokens, width]."""
        ids = self.panel.ids[rows]
        if self.folder is None:
            return last_states(self.skeleton, ids, progress, self.label)
        path = self.folder / f"{rows.start}-{rows.stop}.safetensors"
        if self.reuse and path.is_file():
            with contextlib.suppress(SafetensorError, OSError), safe_open(path, "pt") as file:
                stored = file.get_tensor("states")
                if stored.shape[:2] == ids.shape:
                    return stored
        states = last_states(self.skeleton, ids, progress, self.label)
        write_tensors(path, {"states": states})
        return states


def measure_model(
    references: Sequence[StateStore],
    model: StateStore,
    progress: Progress,
    sample: Sequence[int] = (),
) -> tuple[list[PositionFigures], Tensor]:
    """Compare a model with each of `references` over their panel.

    Returns its figures against each, and its last hidden states of the windows `sample`.
    """
    panel, parts = model.panel, [list[PositionFigures]() for _ in references]
    sampled: list[Tensor] = []
    rows = list(chunks(panel, model.skeleton.width))
    whole = 2 * len(references) + 2
    for number, each in enumerate(rows):
        step = progress.part(number, 1, len(rows))
        own = model.states(each, step.part(0, 2, whole))
        wanted = [window - each.start for window in sample if each.start <= window < each.stop]
        sampled.append(own[wanted])
        for place, store in enumerate(references):
            states = store.states(each, step.part(2 * place + 2, 1, whole))
            parts[place].append(
                compare_states(
                    panel.windows(each),
                    (store.skeleton, states),
                    (model.skeleton, own),
                    step.part(2 * place + 3, 1, whole),
                )
            )
    return [PositionFigures.joined(each) for each in parts], torch.cat(sampled)


def compare_states(
    panel: TokenPanel,
    reference: tuple[Skeleton, Tensor],
    model: tuple[Skeleton, Tensor],
    progress: Progress,
) -> PositionFigures:
    """Compare two models by their last hidden states over the windows of `panel`."""
    parts: list[PositionFigures] = []
    following = panel.following
    for row, ids in enumerate(panel.ids.long()):
        progress(row, len(panel.ids), "comparing")
        for first in range(0, len(ids), SLICE):
            some = slice(first, first + SLICE)
            then, now = (
                skeleton.logits(ids[None, some], states[row : row + 1, some])[0]
                for skeleton, states in (reference, model)
            )
            parts.append(compare_positions(then, now, following[row, some].to(then.device)))
    return PositionFigures.joined(parts)
