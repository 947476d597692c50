"""The preparation that quantize, inspect, evaluate and validate share: open, build, compare."""

from dataclasses import dataclass

import torch

from salient.core.errors import ModelError
from salient.core.model_files import ADAPTER_CONFIG
from salient.core.options import StrPath
from salient.formats.checkpoint import Checkpoint, open_checkpoint
from salient.shapes.foreign_tensors import check_declared

from .companions import Companions, find_companions
from .file_check import Leftovers, check_files
from .lora import Adapter, open_adapter
from .model_folder import model_folder
from .skeleton import Skeleton


@dataclass(frozen=True)
class SourceModel:
    """A model folder whose files hold exactly the model that its config.json describes.

    leftovers: the stored tensors that have no place in the model
    adapter: the adapter that is merged
    companions: tokenizer, chat template and the like: the adapter's own before the model's
    """

    source: Checkpoint
    skeleton: Skeleton
    leftovers: Leftovers
    companions: Companions
    adapter: Adapter | None = None


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
    unmerged = source.format is None and (source.folder / ADAPTER_CONFIG).exists()
    if adapter is None and unmerged:
        raise ModelError(
            f"{source.folder} has a model and an adapter ({ADAPTER_CONFIG}), and readers differ in "
            f"whether they merge it. To merge it, add --adapter {source.folder}; else move its "
            "adapter files out of the folder."
        )
    merged = None if adapter is None else open_adapter(adapter)
    skeleton = Skeleton(source, dtype, torch.device(device), merged)
    leftovers = check_files(skeleton, drop)
    return SourceModel(source, skeleton, leftovers, find_companions(source.folder, merged), merged)
