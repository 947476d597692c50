"""From the name of a model to its shape: a folder, a config, a shipped name, a Hub id.

No tensor is read, and only a config.json is ever fetched. Imports no torch.
"""

import difflib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from salient.core.errors import ModelError
from salient.core.input_files import MIB, check_folder, open_input, parse_json, read_input
from salient.core.model_files import (
    INDEX,
    SINGLE,
    ShardIndex,
    read_index,
    read_json,
    stored_tensors,
)

from .config_bounds import check_bounds
from .families import ARCHITECTURES
from .foreign_tensors import check_declared, check_no_adapter
from .from_config import family_of, read_shape
from .from_gguf import gguf_files, gguf_shape
from .from_safetensors import frame_of, stored_shape
from .model_shape import ModelShape
from .named_size import model_name, named_size
from .quantization_parts import (
    SIDE_CARS,
    quantization_of_name,
    quantization_settings,
    with_side_car,
)
from .size_evidence import check_index, check_name

CONFIGS = Path(__file__).parent / "configs"
DEMO_NAME = "smollm2-135m"
DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M"
# Suffixes of models that have the shape of the one without.
TUNED = ("-instruct", "-it", "-chat", "-base")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FETCH_SECONDS = 5.0
CONFIG_BYTES = 16 * MIB
LONGEST_ID = 96  # letters of a Hub id (huggingface_hub, `validate_repo_id`)
FITS = (
    "Give a folder with config.json and safetensors, a config.json, a GGUF file, or a Hub id like "
    "'org/name'."
)


def resolve_shape(name: str) -> tuple[ModelShape, str]:
    """The shape of the model called `name`, and where it is from.

    A folder, a path to a config.json, the demo model's name, a model whose config comes with
    Salient (by its Hub id or the last part of it, whatever the case), else a Hub id. Raises
    ModelError saying what fits.
    """
    path = _path(name)
    if path is not None and path.is_dir():
        return shape_of_folder(path), f"the folder {path}"
    if path is not None and (path.is_file() or path.suffix.lower() in (".gguf", *PICKLES)):
        return _file(path), f"the file {path}"
    shipped = _shipped(name)
    if shipped is not None:
        origin = f"the config of {_id_of(shipped)}, shipped with Salient"
        return _read_shipped(shipped, name), origin
    if name.startswith((".", "/", "~")) or name.endswith(".json"):
        raise ModelError(f"No file or folder {name!r}. {FITS}")
    if name.count("/") != 1 or len(name) > LONGEST_ID:
        raise ModelError(
            f"{name[:LONGEST_ID]!r} is no model that Salient knows. {_nearest(name)} {FITS}"
        )
    return _from_hub(name), f"config.json of {name} on the Hugging Face Hub"


def full_name(name: str) -> str:
    """The name for other commands and engines: the whole Hub id for the last part of a shipped one,
    anything else unchanged."""
    path = _path(name)
    if path is not None and path.is_dir() and (model := _gguf_of(path)):
        return str(model)
    shipped = _shipped(name)
    if "/" in name or name.lower() == DEMO_NAME or shipped is None or (path and path.exists()):
        return name
    own = _id_of(shipped)
    same = name.lower() == own.rpartition("/")[2].lower()
    return own if same else f"{own.partition('/')[0]}/{name}"


def config_digest(name: str) -> str:
    """SHA-256 of the config.json that `resolve_shape` reads for `name`."""
    path = _path(name)
    if path is not None and path.exists():
        path = (_gguf_of(path) or path / "config.json") if path.is_dir() else path
        if path.suffix.lower() == ".gguf":
            with open_input(path) as file:  # its header, which is what is read
                return hashlib.sha256(file.read(CONFIG_BYTES)).hexdigest()
    else:
        path = _shipped(name)
    content = read_input(path, CONFIG_BYTES) if path else _hub_config(name)
    return hashlib.sha256(content).hexdigest()


def shape_of_folder(folder: Path) -> ModelShape:
    """The shape of a model folder, exact where it has safetensors.

    Where config.json and the headers differ, the headers count, with a note. Without all files the
    index checks the config's count. Raises ModelError for a config or a file that cannot be read.
    """
    check_folder(folder)
    check_no_adapter(folder)
    if model := _gguf_of(folder):
        return gguf_shape(model)
    config = with_side_car(folder, read_json(folder / "config.json"))
    kind = family_of(config)
    index = read_index(folder)
    present = sum((folder / file).is_file() for file in index.shards) if index else 0
    if not (folder / SINGLE).exists() and (index is None or present < len(index.shards)):
        return _without_files(folder, _read(config, "config.json", str(folder)), index, present)
    headers = stored_tensors(folder)
    if not quantization_settings(config):
        check_declared(folder, config, headers)
    tensors = list(headers.values())
    known = kind in ARCHITECTURES
    check_bounds(config)
    try:
        shape = read_shape(config)
    except ModelError:
        shape, known = frame_of(tensors, kind, quantization_settings(config)), False
    return stored_shape(shape, tensors, known=known)


def _read(config: Any, source: str, typed: str) -> ModelShape:
    """The shape of a config alone. Raises ModelError, with what the model's name says."""
    try:
        return read_shape(config, source)
    except ModelError as error:
        size = named_size(model_name(typed))
        if size is None or not size.totals:
            raise
        low, high = (2 * total / 1e9 for total in size.totals[0])
        label = f"Its name says {size.label}: {low:.3g} to {high:.3g} GB of 16-bit weights."
        raise ModelError(f"{error} {label}") from error


def _gguf_of(folder: Path) -> Path | None:
    """The GGUF model of a folder that has no other. Raises ModelError for several."""
    models = gguf_files(folder)
    if not models or (folder / SINGLE).exists() or (folder / INDEX).exists():
        return None
    if len(models) > 1:
        names = ", ".join(path.name for path in models[:8])
        raise ModelError(f"{folder} holds {len(models)} GGUF models: {names}. Name one of them.")
    return models[0]


def _without_files(
    folder: Path, shape: ModelShape, index: ShardIndex | None, present: int
) -> ModelShape:
    """The shape by the config and, where there is one, the index."""
    shape = _checked(shape, str(folder))
    if index is None:
        note = "the folder holds no safetensors: counted from its config.json alone"
        if any(path.suffix in PICKLES for path in folder.iterdir()):
            note += "; convert its pickles to safetensors before it is quantized"
        return replace(shape, notes=(*shape.notes, note))
    missing = len(index.shards) - present
    note = f"counted from config.json and {INDEX}: {missing} of {len(index.shards)} shards "
    note += "are not in the folder"
    return check_index(replace(shape, notes=(*shape.notes, note)), index)


def _checked(shape: ModelShape, typed: str) -> ModelShape:
    """`shape` of a config alone, with what the model's name says of it."""
    name = model_name(typed)
    return check_name(_quantized_by_name(shape, name), name)


def _path(name: str) -> Path | None:
    """`name` as a path, None where it cannot be one."""
    try:
        path = Path(name).expanduser()
        path.is_dir()
    except (OSError, ValueError, RuntimeError):
        return None
    return path if name else None


def _file(path: Path) -> ModelShape:
    """The shape in a config.json. Raises ModelError for any other kind of file."""
    ending = path.suffix.lower()
    if ending == ".json" and path.is_file():
        inside = path.name == "config.json"
        typed = str(path) if inside else path.stem
        shape = _read(with_side_car(path.parent, read_json(path)), path.name, typed)
        index = read_index(path.parent) if inside else None
        shape = _checked(shape, typed)
        return check_index(shape, index) if index else shape
    if ending == ".gguf":
        if not path.exists():
            raise ModelError(f"No file or folder {str(path)!r}. {FITS}")
        return gguf_shape(path)
    reason = "is no config.json."
    if ending in PICKLES:
        reason = "is a pickle, which Salient does not open: convert the model to safetensors."
    if ending == ".safetensors":
        reason = "holds weights without a config; give the folder that it is in."
    raise ModelError(f"{path} {reason} {FITS}")


def _quantized_by_name(shape: ModelShape, name: str) -> ModelShape:
    """`shape` with the quantization that only the name tells of, and a note."""
    part, settings = quantization_of_name(name.rpartition("/")[2])
    if shape.quantization or not part:
        return shape
    note = (
        f"config.json declares no quantization, but the name says {part}: planned so, with usual "
        f"settings; {' or '.join(SIDE_CARS)} next to it would tell the layers"
    )
    return replace(shape, quantization=settings, notes=(*shape.notes, note))


def _id_of(config: Path) -> str:
    return config.stem.replace("--", "/")


def _plain(name: str) -> str:
    """A name in lower case without the suffix of a tuned version."""
    plain = name.lower()
    for ending in TUNED:
        plain = plain.removesuffix(ending)
    return plain


def _shipped(name: str) -> Path | None:
    """The shipped config that `name` means, by the whole id or its last part."""
    wanted = _plain(DEMO_MODEL if name.lower() == DEMO_NAME else name)
    for config in sorted(CONFIGS.glob("*.json")):
        whole = _plain(_id_of(config))
        if wanted in (whole, whole.rpartition("/")[2]):
            return config
    return None


def _read_shipped(config: Path, name: str) -> ModelShape:
    """Its shape, with a note for a tuned version, which may have another context length."""
    shape, own = read_shape(read_json(config), config.name), _id_of(config)
    if name.lower() in (DEMO_NAME, own.lower(), own.lower().rpartition("/")[2]):
        return shape
    note = f"{name} has the matrices of {own}; its context may be another"
    return replace(shape, notes=(*shape.notes, note))


def _nearest(name: str) -> str:
    """The shipped models with the names most like `name`."""
    known = {_id_of(config) for config in CONFIGS.glob("*.json")}
    ends = {_plain(model).rpartition("/")[2]: model for model in known}
    near = difflib.get_close_matches(_plain(name).rpartition("/")[2], ends, n=3, cutoff=0.4)
    listed = [ends[end] for end in near] or sorted(known)
    return f"Configs that come with Salient{', nearest first' if near else ''}: " + (
        ", ".join(listed) + "."
    )


def _from_hub(name: str) -> ModelShape:
    """The shape of a Hub model. Raises ModelError where the Hub cannot be reached or refuses."""
    try:
        config = parse_json(_hub_config(name))
    except Exception as error:  # of the Hub, its cache, and an HTTP library that may change
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name!r} is no folder here, and the Hub gives no config.json of it ({reason}). "
            f"{_nearest(name)} {FITS}"
        ) from error
    return _checked(_read(config, f"config.json of {name}", name), name)


def _hub_config(name: str) -> bytes:
    """A Hub model's config.json: from the cache, else fetched in one attempt."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.utils import (
        build_hf_headers,  # pyright: ignore[reportUnknownVariableType]
        get_session,
        hf_raise_for_status,
    )

    cached = try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return read_input(Path(cached), CONFIG_BYTES)
    url = hf_hub_url(name, "config.json")
    headers = build_hf_headers()  # pyright: ignore[reportUnknownVariableType]
    response = get_session().get(url, headers=headers, timeout=FETCH_SECONDS, follow_redirects=True)
    hf_raise_for_status(response)
    return response.content
