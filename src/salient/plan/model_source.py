"""A model as the printed lines take it: the folder with its weights, else its Hub id."""

import re
from dataclasses import dataclass
from pathlib import Path

from salient.core.errors import SalientError
from salient.core.model_files import read_json
from salient.shapes.resolve import DEMO_MODEL, DEMO_NAME

PLACEHOLDER = "MODEL"  # where neither folder nor id is known
_PICKLES = {".bin", ".pt", ".pth"}
_WEIGHTS = {".safetensors", ".gguf", *_PICKLES}
_FOLDER_OF_ID = re.compile(r"(?:models--)?([\w][\w.-]*?)--([\w.-]+)", re.ASCII)
_HUB_ID = re.compile(r"[\w.-]+/([\w.-]+)", re.ASCII)


@dataclass(frozen=True)
class ModelSource:
    """A model as an argument of commands.

    argument: a folder, a GGUF file or a Hub id; served: the same for engines that are not Salient
    name: for the names of outputs
    local: whether it is a folder or file; pickled: whether all its weights are pickles
    note: what to do before the lines run, "" where they run as they are
    """

    argument: str
    name: str
    local: bool = False
    pickled: bool = False
    note: str = ""

    @property
    def served(self) -> str:
        return DEMO_MODEL if self.argument == DEMO_NAME else self.argument


def model_source(model: str) -> ModelSource:
    """The source of what `plan` was called with: a folder, a config.json or an id."""
    path = Path(model)
    try:
        exists, is_folder = bool(model) and path.exists(), path.is_dir()
    except (OSError, ValueError):
        exists = is_folder = False
    if not exists:
        return ModelSource(model, model.rstrip("/").rpartition("/")[2] or "model")
    if path.suffix.lower() == ".gguf":
        return ModelSource(model, path.stem, local=True)
    folder = path if is_folder else path.parent
    suffixes = _suffixes(folder)
    own = is_folder or path.name == "config.json"
    if own and ".gguf" in suffixes and ".safetensors" not in suffixes:
        return ModelSource(_first_gguf(folder), _name(folder), local=True)
    if own and suffixes & _WEIGHTS:
        pickled = not suffixes & {".safetensors", ".gguf"}
        return ModelSource(str(folder), _name(folder), local=True, pickled=pickled)
    if hub_id := _hub_id(path, folder):
        return ModelSource(hub_id, hub_id.rpartition("/")[2])
    if own:
        note = f"{folder} has no weights yet: the lines need them there"
        return ModelSource(str(folder), _name(folder), local=True, note=note)
    note = f"{PLACEHOLDER} in the lines stands for the model's folder or Hub id"
    return ModelSource(PLACEHOLDER, path.stem, note=note)


def _name(folder: Path) -> str:
    name = folder.resolve().name
    match = _FOLDER_OF_ID.fullmatch(name)
    return match[2] if match else name or "model"


def _first_gguf(folder: Path) -> str:
    """The file to name to llama.cpp, which reads the parts of a split model after the first."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".gguf")
    return str(next((file for file in files if "mmproj" not in file.name.lower()), files[0]))


def _suffixes(folder: Path) -> set[str]:
    try:
        return {file.suffix.lower() for file in folder.iterdir()}
    except OSError:
        return set()


def _hub_id(path: Path, folder: Path) -> str:
    """The id in the name of a folder or file ("org--name", the Hub's cache), or in the config where
    its last part is the folder's name; "" where there is none."""
    snapshot = folder.resolve().parent
    cached = snapshot.parent.name if snapshot.name == "snapshots" else ""
    for name in (folder.resolve().name, path.stem, cached):
        if match := _FOLDER_OF_ID.fullmatch(name):
            return f"{match[1]}/{match[2]}"
    try:
        config = read_json(folder / "config.json" if path == folder else path)
    except (SalientError, OSError):
        return ""
    named = config.get("_name_or_path")
    match = _HUB_ID.fullmatch(named) if isinstance(named, str) else None
    return match[0] if match and match[1].lower() == folder.resolve().name.lower() else ""
