"""From what a user types for a model to a folder on disk."""

from pathlib import Path

from salient.core.errors import ModelError

from .demo import DEMO_NAME, demo_folder

WANTED = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.model",
    "*.txt",
    "*.tiktoken",
]


def model_folder(name: str | Path) -> Path:
    """The folder of a model: a path, the demo model's name, or a Hub id.

    The Hub's own cache keeps what is fetched.

    Only safetensors, configs and tokenizer files are fetched, never pickles or code.
    """
    path = Path(name).expanduser()
    if str(name) and path.is_dir():
        return path
    if str(name) == DEMO_NAME:
        return demo_folder()
    if path.exists() or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise ModelError(
            f"No model folder {str(name)!r}. Give a folder with config.json and safetensors, a "
            f"Hub id such as 'org/name', or {DEMO_NAME!r}."
        )
    return _fetched(str(name))


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{name!r} is neither a folder here nor a model that the Hub gives ({reason}). "
            "Check the name, the network and, for gated models, `hf auth login`."
        ) from error
