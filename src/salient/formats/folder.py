"""A checkpoint folder without its weights: config, tokenizer, chat template and the like.

Files are copied as the source folder has them, because newer Transformers write configs that older
readers misread. Where a source has only the new keys, the old ones are added.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from salient.core.carried_files import find_carried
from salient.core.model_files import as_object, read_json
from salient.core.records import is_list, is_object

from .writer import disk_full_errors, write_json

# Transformers 5 assigns this class to a tokenizer that is only a tokenizer.json; Transformers 4 has
# it by the other name.
TOKENIZER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
TOKENIZER_LEFTOVERS = ("backend", "is_local", "local_files_only")


def copy_metadata(source: Path, target: Path) -> dict[str, str]:
    """Copy the files next to the weights of `source`. Returns what is omitted -> why."""
    carried = find_carried(source)
    with disk_full_errors(target):
        for name in carried.files:
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, path)
            path.chmod(0o644)
    settings = target / "tokenizer_config.json"
    if settings.exists():
        config = read_json(settings)
        if config.get("tokenizer_class") in TOKENIZER_CLASSES:
            config["tokenizer_class"] = TOKENIZER_CLASSES[config["tokenizer_class"]]
            items = config.items()
            write_json(settings, {k: v for k, v in items if k not in TOKENIZER_LEFTOVERS})
    omitted = dict(carried.omitted)
    for path in sorted(target.glob("*.json")):
        if b'"auto_map"' in path.read_bytes():
            config = read_json(path)
            if (new := with_present_code(config, target)) != config:
                write_json(path, new)
                omitted[f"auto_map of {path.name}"] = "its code is not in the folder"
    return omitted


def with_present_code(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`config` without the entries of `auto_map` whose .py is not in `folder`.

    With them, loading with trust_remote_code fails even where Transformers has the class itself.
    """
    code = config.get("auto_map")
    if not is_object(code):
        present = code if _has_code(code, folder) else None
    else:
        present = {key: value for key, value in code.items() if _has_code(value, folder)}
    if present == code:
        return config
    rest = {key: value for key, value in config.items() if key != "auto_map"}
    return rest | ({"auto_map": present} if present else {})


def _has_code(value: object, folder: Path) -> bool:
    """Whether the classes 'module.Class' of `value` are in `folder` or in a repository by name."""
    names = [name for name in (value if is_list(value) else [value]) if isinstance(name, str)]
    return all("--" in name or (folder / f"{name.split('.')[0]}.py").is_file() for name in names)


def quantized_config(
    config: dict[str, Any], quantization: dict[str, Any], dtype: str
) -> dict[str, Any]:
    """The source's `config` with `quantization_config`, in keys that old and new readers know.

    The older keys are omitted where the installed Transformers misreads them.
    """
    new = {
        key: value
        for key, value in config.items()
        if key not in ("dtype", "torch_dtype", "quantization_config")
    }
    older = _older_rope(new)
    if older and _means_the_same(new, new | older):
        new |= older
    parts = {key: _in_dtype(value, dtype) for key, value in new.items() if is_object(value)}
    return new | parts | {"torch_dtype": dtype, "dtype": dtype, "quantization_config": quantization}


def _in_dtype(part: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A nested config (of text, of vision) with the dtype that its weights are written in."""
    return part | {key: dtype for key in ("dtype", "torch_dtype") if part.get(key)}


def _older_rope(config: dict[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` (Transformers 4) from `rope_parameters` (5)."""
    rope = as_object(config.get("rope_parameters"))
    if not rope or "rope_theta" in config:
        return {}
    if "full_attention" in rope:  # one entry a kind of layer (Gemma 3)
        older = _older_rope({"rope_parameters": rope["full_attention"]})
        local = as_object(rope.get("sliding_attention")).get("rope_theta")
        return older | ({"rope_local_base_freq": local} if local else {})
    older: dict[str, Any] = {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    if "partial_rotary_factor" in rope and "partial_rotary_factor" not in config:
        older["partial_rotary_factor"] = rope["partial_rotary_factor"]
    scaling = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
    older["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    return older


def _means_the_same(config: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether Transformers understands the same rotary embedding of both, read from a file."""
    from transformers import AutoConfig

    if "model_type" not in config:
        return True

    def understood(config: dict[str, Any]) -> object:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            read = cast("Any", AutoConfig).from_pretrained
            return read(folder, trust_remote_code=False).rope_parameters

    try:
        return understood(other) == understood(config)
    except Exception:  # noqa: BLE001, of Transformers' config classes
        return False
