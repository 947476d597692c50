"""The files next to a model's weights, where an adapter brings its own.

A fine-tuning run saves the tokenizer, the chat template and the generation settings that it used
with its adapter. They belong to the merged model, not those of its base.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from salient.core.carried_files import find_carried
from salient.core.model_files import read_json
from salient.formats.folder import copy_metadata

from .lora import Adapter
from .tokens import load_tokenizer

TEMPLATES = ("chat_template*", "additional_chat_templates")
# Files that together are one tokenizer: of two of them, no file of the other stays.
VOCABULARIES = (
    "tokenizer.*", "tekken.json", "vocab.*", "merges.txt", "*.tiktoken", "tiktoken.model",
    "spiece.model", "sentencepiece*",
)  # fmt: skip
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZERS = (*VOCABULARIES, *SETTINGS)
OTHERS = ("generation_config.json", "*processor_config.json")
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Companions:
    """A folder with a model's tokenizer, template and settings.

    taken: the adapter's files among them that the model's folder lacks or has otherwise
    """

    folder: Path
    taken: tuple[str, ...] = ()
    _home: Any = field(default=None, repr=False, compare=False)  # deletes the folder at its end


def find_companions(folder: Path, adapter: Adapter | None) -> Companions:
    """The files next to the weights in `folder`, with those of `adapter` in their place."""
    own = [] if adapter is None else _own_files(adapter.folder)
    if adapter is None or not own:
        return Companions(folder)
    home = tempfile.TemporaryDirectory(prefix="salient-")
    target = Path(home.name)
    copy_metadata(folder, target)
    shutil.copyfile(folder / "config.json", target / "config.json")
    taken = [name for name in own if not _same(adapter.folder / name, folder / name)]
    for form in _replaced(adapter.folder, own):
        for path in target.glob(form):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in own:
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(adapter.folder / name, target / name)
    if _any(taken, TOKENIZERS):
        taken += _stop_at_its_end(target)
    return Companions(target, tuple(dict.fromkeys(taken)), home)


def _own_files(folder: Path) -> list[str]:
    forms = (*TOKENIZERS, *TEMPLATES, *OTHERS)
    return [name for name in find_carried(folder).files if _any([name.split("/")[0]], forms)]


def _replaced(folder: Path, own: list[str]) -> list[str]:
    """The globs of the model's files that the adapter's own make obsolete."""
    settings, names = folder / SETTINGS[0], [name.split("/")[0] for name in own]
    template = settings.is_file() and "chat_template" in read_json(settings)
    return [
        *(VOCABULARIES if _any(names, VOCABULARIES) else ()),
        *(SETTINGS if settings.is_file() and _any(names, VOCABULARIES) else ()),
        *(TEMPLATES if template or _any(names, TEMPLATES) else ()),
    ]


def _any(names: list[str], forms: tuple[str, ...]) -> bool:
    return any(fnmatch(name, form) for name in names for form in forms)


def _same(one: Path, other: Path) -> bool:
    both = one.is_file() and other.is_file()
    return both and one.read_bytes() == other.read_bytes()


def _stop_at_its_end(folder: Path) -> list[str]:
    """Let generation in `folder` stop at its tokenizer's end of text; the changed files."""
    end = load_tokenizer(folder).eos_token_id
    path = folder / GENERATION
    config = read_json(path if path.is_file() else folder / "config.json")
    ends = config.get("eos_token_id")
    known = ends if isinstance(ends, list) else [ends] if ends is not None else []
    if end is None or end in known:
        return []
    keys = ("bos_token_id", "pad_token_id")
    settings = config if path.is_file() else {k: config[k] for k in keys if k in config}
    path.write_text(
        json.dumps(settings | {"eos_token_id": [end, *known]}, indent=2) + "\n", "utf-8"
    )
    return [GENERATION]
