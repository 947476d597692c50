"""Transformers' configs, tokenizers and generation configs from a folder, and its own code.

The only place that calls `from_pretrained`: `trust_remote_code` is always given, so that neither
code of the folder nor a prompt of the library comes up.
"""

from pathlib import Path
from typing import Any

from salient.core.errors import ModelError, library_errors
from salient.core.model_files import as_object, read_json
from salient.core.remote_code import is_remote_code_allowed

GENERATION_CONFIG = "generation_config.json"


def from_folder(loader: Any, folder: Path) -> Any:
    """What `loader`, a class of Transformers such as AutoConfig, reads in `folder`.

    Raises ModelError if it needs code of its own that the user did not allow.
    """
    try:
        return loader.from_pretrained(folder, trust_remote_code=is_remote_code_allowed())
    except Exception as error:
        if "trust_remote_code" not in str(error):
            raise
        raise own_code_error(folder) from error


def own_code_error(folder: Path) -> ModelError:
    """The error for a folder that needs its own code."""
    files = {str(file).partition(".")[0] for file in _auto_map(folder)}
    named = f" ({', '.join(sorted(files))}.py)" if files else ""
    return ModelError(
        f"{folder} needs its own code{named}, which Salient does not run. Update Transformers, "
        "which may have the model by now, or use a version of the model without own code. "
        "--trust-remote-code runs it, with all that you may do on this machine: read it before."
    )


def _auto_map(folder: Path) -> list[object]:
    """The classes that the folder's configs name, as 'file.Class'."""
    names: list[object] = []
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            classes = as_object(read_json(folder / name).get("auto_map")).values()
            for value in classes:
                names += value if isinstance(value, list) else [value]
    return [value for value in names if value]


def set_generation_config(model: Any, folder: Path) -> None:
    """Give `model` the folder's generation config, if there is one. Raises ModelError."""
    from transformers import GenerationConfig

    if not (folder / GENERATION_CONFIG).exists():
        return
    with library_errors(
        f"{GENERATION_CONFIG} in {folder} cannot be used",
        "Fetch the file again, or remove it: the defaults then count.",
    ):
        model.generation_config = GenerationConfig.from_pretrained(folder)
