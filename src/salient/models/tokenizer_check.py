"""Try a folder's tokenizer in a process of its own before this process loads it.

The process has limits on memory and time (tokenizer_child.py). A tokenizer that passed is
remembered by the content of its file. Imports no torch.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from salient.core.content_digest import file_digest
from salient.core.errors import ModelError
from salient.core.input_files import MIB, most_bytes, read_input
from salient.core.model_files import as_list, as_object, read_json
from salient.core.records import is_object

from .child_process import child_command, child_options, no_process

CHILD = Path(__file__).with_name("tokenizer_child.py")
SETTINGS = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
BY_TRANSFORMERS = (SPECIAL, "added_tokens.json")
TOKEN_KEYS = frozenset(
    ("content", "lstrip", "rstrip", "single_word", "normalized", "special", "id", "__type")
)
TOKEN_GROUPS = (
    *("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"),
    "model_specific_special_tokens",
)
MOST_UNKNOWN_KEYS = 64
PATIENCE_SECONDS = 60.0  # on a busy machine; seconds of a core are limited by the process
_trials: dict[str, "TokenizerTrial"] = {}  # of this process, by the file's digest


@dataclass(frozen=True)
class TokenizerTrial:
    """What is wrong with a tokenizer.json, as the end of a sentence; '' for nothing.

    fault: why it is not to be loaded   refusal: the tokenizers library's own error
    """

    fault: str = ""
    refusal: str = ""


def check_tokenizer(folder: Path) -> None:
    """Raise ModelError for a tokenizer.json in `folder` that takes far more than its size.

    Also for a damaged file next to it, which Transformers' error would not name.
    """
    for path in sorted(folder.glob("*.json")):
        if path.name in BY_TRANSFORMERS:
            read_json(path)
    for path in sorted(folder.glob("chat_template*.jinja")):
        _check_text(path)
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    _check_tokens(folder)
    for name in as_list(settings.get("fast_tokenizer_files")):
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(
                f"{SETTINGS} in {folder} names {str(name)[:80]!r} as a tokenizer, which is no file "
                "in its own folder. Do not trust this model folder."
            )
    for path in sorted(folder.glob("tokenizer*.json")):
        if path.name == SETTINGS:
            continue
        if fault := try_tokenizer(path).fault:
            raise ModelError(
                f"{path.name} in {folder} {fault}. Fetch it from the model's own repository, or "
                "leave this model."
            )


def _check_tokens(folder: Path) -> None:
    """The tokenizers library prints a line for each key of a token that it does not know."""
    for name in (SETTINGS, SPECIAL):
        values = read_json(folder / name) if (folder / name).exists() else {}
        tokens = [v for key, v in values.items() if name == SPECIAL or key.endswith("_token")]
        for key in TOKEN_GROUPS:
            tokens += as_list(values.get(key)) or as_object(values.get(key)).values()
        unknown = sum(len(token.keys() - TOKEN_KEYS) for token in tokens if is_object(token))
        if unknown > MOST_UNKNOWN_KEYS:
            raise ModelError(
                f"{name} in {folder} has {unknown} keys in its tokens that no token has "
                f"({', '.join(sorted(TOKEN_KEYS))} fit). Fetch it from the model's own repository."
            )


def _check_text(path: Path) -> None:
    try:
        read_input(path, most_bytes(path.name) or MIB).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is no readable text ({error}). Fetch the file again.") from error


def try_tokenizer(path: Path) -> TokenizerTrial:
    """Load the tokenizer.json at `path` and encode texts in the process.

    The trial of a file without a fault is remembered by its content.
    """
    digest = file_digest(path)
    trial = _trials.get(digest) or _trial(path)
    if not trial.fault:
        _trials[digest] = trial
    return trial


def _trial(path: Path) -> TokenizerTrial:
    try:
        child = subprocess.run(
            child_command(CHILD, str(path.absolute())),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            **child_options(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1"),
        )
    except subprocess.TimeoutExpired:
        return TokenizerTrial(f"does not load within {PATIENCE_SECONDS:.0f} seconds")
    except OSError as error:
        raise no_process(f"try {path.name}", error) from error
    try:
        reply = json.loads(child.stdout)
        return TokenizerTrial(str(reply["fault"]), str(reply["refusal"]))
    except (ValueError, KeyError, TypeError):  # ended by a limit of the system
        return TokenizerTrial("takes more time or memory than its size explains")
