"""Carried files: those of a model folder that a checkpoint made from it takes over.

By exclusion, since every family brings files of its own: all but weights, their indexes, side-cars
of quantizers, config.json and README.md, which are written new, and what is hidden or temporary.
What is downloaded from the Hub and what is copied are the same files. Code is copied, never run.
"""

import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from .errors import ModelError
from .input_files import unsafe_link
from .printable import half_pair, printable

LARGEST = 64 * 2**20  # bytes of a companion
MOST_FILES = 500
DEEPEST = 4  # folders
# In lower case; `*` also matches slashes.
WEIGHTS = (
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib"),
    *("*.gguf", "*.ggml", "*.llamafile", "*.dduf", "*.onnx", "*.onnx_data*", "*.engine", "*.plan"),
    *("*.h5", "*.hdf5", "*.keras", "*.msgpack", "*.ot", "*.npz", "*.npy", "*.tflite"),
    *("*.mlmodel", "*.pdparams", "*.nemo"),
)
# A file next to the weights that describes their quantization -> whose it is.
SIDE_CARS = {
    "hf_quant_config.json": "ModelOpt",
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "quantization_config.json": "another quantizer",
    "quanto_qmap.json": "Quanto",
    "quant_strategy.json": "another quantizer",
    "qmodel.json": "HQQ",
    "bnb_config.json": "bitsandbytes",
}
QUANTIZER_FILES = (*SIDE_CARS, "quant_log.csv")
EXCLUDED = (
    *WEIGHTS,
    *("*.index.json", "consolidated*", "*/consolidated*"),
    *("original/*", "onnx/*", "openvino/*", "coreml/*", "metal/*", "*.mlpackage/*", "*.mlmodelc/*"),
    *QUANTIZER_FILES,
    # written new, or of an adapter: Transformers would load that in place of the model
    *("config.json", "readme.md", "salient.json", "adapter_config.json"),
    # hidden or temporary
    *(".*", "*/.*", "*.incomplete", "*.tmp", "*.lock", "*.partial", "*.partial/*", "*~"),
    *("__pycache__/*", "*/__pycache__/*", "*.pyc"),
)
# Modules of sentence-transformers (1_Pooling, 2_Dense), whose small weights belong to the pipeline.
PIPELINE_PART = "[0-9]_*/*"
PIPELINE_WEIGHTS = PIPELINE_PART + ".safetensors"
# Without these a checkpoint has no tokenizer.
TOKENIZER_FILES = (
    *("tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json"),
    *("*.model", "*.tiktoken", "tekken.json", "chat_template*"),
)


@dataclass(frozen=True)
class CarriedFiles:
    """Paths of the files to take over, and omitted path -> reason, both relative to the folder."""

    files: tuple[str, ...] = ()
    omitted: dict[str, str] = field(default_factory=dict[str, str])


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether the path `name` matches one of `patterns`, whatever its case."""
    return any(fnmatchcase(name.lower(), pattern) for pattern in patterns)


def select_carried(sizes: Mapping[str, int]) -> CarriedFiles:
    """The companions among the files of a folder, path -> bytes."""
    models = _inner_models(sizes)
    files: list[str] = []
    omitted: dict[str, str] = {}
    for name in sorted(sizes, key=lambda name: (name.count("/"), name)):
        if matches(name, [PIPELINE_PART]) and matches(name, WEIGHTS):
            if not name.endswith(".safetensors"):
                omitted[name] = "a pickle: convert it to safetensors"
                continue
        elif matches(name, EXCLUDED) or name.startswith(models):
            continue
        if name.count("/") > DEEPEST:
            omitted[name] = f"deeper than {DEEPEST} folders"
        elif sizes[name] > LARGEST and not matches(name, ["tokenizer*"]):
            omitted[name] = f"{sizes[name] / 2**20:.0f} MiB, more than {LARGEST // 2**20}"
        else:
            files.append(name)
    if rest := files[MOST_FILES:]:
        omitted[rest[0]] = f"it and {len(rest) - 1} others come after the first {MOST_FILES} files"
    return CarriedFiles(tuple(files[:MOST_FILES]), omitted)


def _inner_models(names: Iterable[str]) -> tuple[str, ...]:
    """The folders inside that hold a model of their own: outputs, checkpoints of a training."""
    holders: dict[str, set[str]] = {}
    for name in names:
        path = PurePosixPath(name.lower())
        if path.name == "config.json" or matches(path.name, WEIGHTS):
            kind = "config" if path.name == "config.json" else "weights"
            holders.setdefault(f"{PurePosixPath(name).parent}/", set()).add(kind)
    inner = (folder for folder, kinds in holders.items() if len(kinds) == 2 and folder != "./")
    return tuple(folder for folder in inner if not matches(folder, [PIPELINE_PART]))


def find_carried(folder: Path) -> CarriedFiles:
    """The companions in `folder`. Links are followed inside it and into the Hub's cache only.

    Raises ModelError for a file of the tokenizer that is a link to elsewhere.
    """
    sizes: dict[str, int] = {}
    omitted: dict[str, str] = {}
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if matches(name, EXCLUDED) and not matches(name, [PIPELINE_PART]):
            if matches(name, WEIGHTS):
                sizes[name] = 0  # tells that its folder is a model
        elif reason := _unsafe(path, folder.resolve()):
            omitted[printable(name)] = reason
        else:
            sizes[name] = path.stat().st_size
    for name, reason in omitted.items():
        if "link" in reason and matches(name, TOKENIZER_FILES) and "/" not in name:
            raise ModelError(
                f"{folder / name} is {reason}, which Salient does not follow, and the tokenizer "
                "may need it. Put the file itself into the folder."
            )
    selected = select_carried(sizes)
    return CarriedFiles(selected.files, {**selected.omitted, **omitted})


def _walk(folder: Path) -> Iterable[Path]:
    """The files of `folder`, and links to folders; of a huge tree the first ones."""
    count = 0
    for place, folders, files in os.walk(folder):
        here = Path(place)
        linked = [name for name in folders if (here / name).is_symlink()]
        yield from (here / name for name in sorted([*files, *linked]))
        count += len(files)
        deep = len(here.relative_to(folder).parts) > DEEPEST
        inner = [] if deep or count > 100 * MOST_FILES else folders
        folders[:] = sorted(name for name in inner if not name.startswith("."))


def _unsafe(path: Path, root: Path) -> str:
    """Why `path` in the folder `root` is not copied; '' if it is."""
    if half_pair(str(path)):
        return "its name is not UTF-8"
    if reason := unsafe_link(path, root):
        return reason
    if not path.is_file():
        return "a link to no file" if path.is_symlink() else "no regular file"
    return "" if os.access(path, os.R_OK) else "not readable"


def download_patterns(
    sizes: Mapping[str, int] | None,
) -> tuple[list[str] | None, list[str] | None]:
    """huggingface_hub's patterns to allow and to ignore for a repository with the files `sizes`.

    Downloaded are safetensors, configs, README.md (for the card) and companions, never pickles.
    By exclusion where there is no listing.
    """
    if sizes is None:
        needed = (*QUANTIZER_FILES, "config.json", "readme.md", "*.safetensors", "*.index.json")
        return None, [pattern for pattern in EXCLUDED if pattern not in needed]
    names = [name for name in sizes if _is_needed(name)] + [*select_carried(sizes).files]
    return [glob.escape(name) for name in dict.fromkeys(names)], None


def _is_needed(name: str) -> bool:
    """Whether the path `name` is a config, a card, an index, or weights that Salient reads."""
    if "/" in name or name.startswith((".", "consolidated")):
        return False
    return name == "README.md" or name.endswith((".json", ".safetensors"))
