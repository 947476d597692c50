"""The preparation that quantize, inspect, evaluate and validate share: open, build, compare."""

from dataclasses import dataclass
from pathlib import Path

import torch

from salient.core.options import StrPath
from salient.formats.checkpoint import Checkpoint, open_checkpoint
from salient.shapes.foreign_tensors import check_declared

from .file_check import Leftovers, check_files
from .lora import AdaptedCheckpoint, open_adapter
from .model_folder import model_folder
from .skeleton import Skeleton


@dataclass(frozen=True)
class SourceModel:
    """A model folder whose files hold exactly the model that its config.json describes.

    leftovers: the stored tensors that have no place in the model
    adapter: SHA-256 of the adapter that is merged, None without one
    """

    source: Checkpoint
    skeleton: Skeleton
    leftovers: Leftovers
    adapter: str | None = None


def open_source_model(
    name: StrPath,
    *,
    adapter: StrPath | None = None,
    drop: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SourceModel:
    """Open the model called `name`, computing in `dtype` on `device`, and check its files.

    Reads headers only. Raises ModelError where files and config.json disagree, see `check_files`.
    """
    return source_model(open_checkpoint(model_folder(str(name))), adapter, drop, dtype, device)


def source_model(
    source: Checkpoint,
    adapter: StrPath | None = None,
    drop: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SourceModel:
    """`open_source_model` for a folder that is open already."""
    check_declared(source.folder, source.config, source.headers, drop)
    digest = None
    if adapter is not None:
        read = open_adapter(Path(adapter))
        source, digest = AdaptedCheckpoint.over(source, read), read.digest
    skeleton = Skeleton(source, dtype, torch.device(device))
    return SourceModel(source, skeleton, check_files(skeleton, drop), digest)
