"""Find a model's folder from its name; load a whole model, its codes dequantized."""

from pathlib import Path
from typing import Any

from salient.core.carried_files import download_patterns
from salient.core.errors import ModelError
from salient.core.input_files import check_folder
from salient.shapes.foreign_tensors import check_no_adapter
from salient.shapes.resolve import DEMO_NAME

from .demo import demo_folder


def model_folder(name: str | Path) -> Path:
    """The folder of a model: a path, the demo model's name, or a Hub id.

    A Hub model is downloaded into the Hub's cache: safetensors and what a checkpoint takes over,
    never pickles. Code is not run.
    """
    path = Path(name).expanduser()
    if str(name) and path.is_dir():
        check_folder(path)
        check_no_adapter(path)
        return path
    if str(name) == DEMO_NAME:
        return demo_folder()
    if path.exists() or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise ModelError(
            f"No model folder {str(name)!r}. Use a folder with config.json and safetensors, a "
            f"Hub id such as 'org/name', or {DEMO_NAME!r}."
        )
    return _download(str(name))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        allow, ignore = download_patterns(_listing(name))
        return Path(snapshot_download(name, allow_patterns=allow, ignore_patterns=ignore))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{name!r} is neither a local folder nor a model of the Hub ({reason}). "
            "Check the name, the network and, for gated models, `hf auth login`."
        ) from error


def _listing(name: str) -> dict[str, int] | None:
    """The files of a Hub model, path -> bytes; None where the Hub does not answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        files = HfApi().model_info(name, files_metadata=True).siblings or []
    except (HTTPError, OSError):
        return None
    return {file.rfilename: file.size or 0 for file in files}


def load_dequantized(checkpoint: str, dtype: str = "auto", device: str = "cpu") -> tuple[Any, Any]:
    """(model, tokenizer) with every weight of `checkpoint`, 16-bit or 4-bit, in `dtype`.

    'auto' is float32, in which the codes are exact. Raises RequestError for an unknown `dtype`.
    """
    import torch

    from salient.core.dtypes import dtype_of
    from salient.formats.checkpoint import open_checkpoint

    from .pretrained import set_generation_config
    from .skeleton import Skeleton
    from .tokens import load_tokenizer

    folder = model_folder(checkpoint)
    float_type = dtype_of(dtype, torch.float32)
    skeleton = Skeleton(open_checkpoint(folder), float_type, torch.device(device))
    model = skeleton.assemble()
    set_generation_config(model, folder)
    return model, load_tokenizer(folder)
