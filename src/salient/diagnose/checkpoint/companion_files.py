"""The files next to the weights that turn text into tokens and stop an answer, as they are stored.

Read by Python's own JSON; `tokenizer_files`, `generation_settings` and `template_check` judge them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from salient.core.errors import ModelError
from salient.core.input_files import most_bytes, read_input
from salient.core.model_files import as_list, as_object, read_json
from salient.core.records import is_list, is_object
from salient.diagnose.finding import Finding
from salient.models.tokenizer_check import TokenizerTrial, try_tokenizer
from salient.shapes.tensor_names import EMBEDDINGS, is_tower

from .contents import FINDINGS, CheckpointContents, as_integer

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"
GENERATION = "generation_config.json"
TEMPLATE = "chat_template.json"
VOCABULARY = "vocab.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
JSON_FILES = (TOKENIZER, SETTINGS, SPECIAL, ADDED, GENERATION, TEMPLATE, VOCABULARY, *PROCESSORS)
OWN_TEMPLATE = "chat_template.jinja"
NAMED_TEMPLATES = "additional_chat_templates"
MOST_BYTES = 2**20  # of a template's own file
# Findings that vLLM's --tokenizer, --chat-template or --generation-config can make void.
REPLACEABLE = (
    *("tokenizer-missing", "companion-damaged", "tokenizer-refused", "tokenizer-beyond-embedding"),
    *("special-token-unknown", "token-id-outside", "template-broken", "template-loses-text"),
)
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SPECIAL_LISTS = ("additional_special_tokens", "extra_special_tokens")
_POSITIONS = re.compile(r"wpe|position")


@dataclass
class CompanionFiles:
    """The JSON objects of a folder's companions by file name, without those that cannot be read.

    rows: of the embedding; None where unknown
    trial: of tokenizer.json
    templates: chat templates by their places
    """

    folder: Path
    config: dict[str, Any]
    rows: int | None
    files: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    templates: dict[str, str] = field(default_factory=dict[str, str])
    trial: TokenizerTrial = field(default_factory=TokenizerTrial)

    @cached_property
    def base_tokens(self) -> dict[str, int]:
        """Token -> id of the vocabulary, without added tokens; {} where it has no such list."""
        if TOKENIZER not in self.files:
            return _ids(self.files.get(VOCABULARY))
        vocabulary = as_object(self.files[TOKENIZER].get("model")).get("vocab")
        if is_list(vocabulary):  # Unigram: pieces with scores, by id
            pieces = enumerate(as_list(row)[:1] for row in vocabulary)
            return {row[0]: id for id, row in pieces if row and isinstance(row[0], str)}
        return _ids(vocabulary)

    @cached_property
    def added_tokens(self) -> dict[str, int]:
        """Token -> id of the tokens that are added to the vocabulary."""
        if TOKENIZER not in self.files:
            return _ids(self.files.get(ADDED)) if self.base_tokens else {}
        rows = map(as_object, as_list(self.files[TOKENIZER].get("added_tokens")))
        pairs = ((row.get("content"), row.get("id")) for row in rows)
        return {token: id for token, id in pairs if isinstance(token, str) and type(id) is int}

    @cached_property
    def tokens(self) -> dict[str, int]:
        """All tokens with their ids."""
        return {**self.base_tokens, **self.added_tokens}

    def special_tokens(self, file: str) -> dict[str, str]:
        """Role ("eos_token") -> token, by tokenizer_config.json or special_tokens_map.json."""
        named = ((role, token_text(self.files.get(file, {}).get(role))) for role in ROLES)
        return {role: token for role, token in named if token}

    @property
    def all_special(self) -> dict[str, str]:
        """The special tokens that Transformers 5 takes (tokenization_utils_base.py)."""
        settings, legacy = self.special_tokens(SETTINGS), self.special_tokens(SPECIAL)
        decoded = "added_tokens_decoder" in self.files.get(SETTINGS, {})
        return settings if decoded else {**settings, **legacy}

    @property
    def more_special(self) -> list[tuple[str, str]]:
        """(key, token) of the special tokens without a role."""
        return [
            (key, token)
            for key in SPECIAL_LISTS
            for value in _values(self.files.get(SETTINGS, {}).get(key))
            if (token := token_text(value))
        ]


def read_companions(contents: CheckpointContents) -> tuple[CompanionFiles, list[Finding]]:
    """The companions of a folder, and findings for those that cannot be read."""
    read = CompanionFiles(contents.folder, contents.config, embedding_rows(contents))
    damaged: dict[str, str] = {}
    for name in JSON_FILES:
        path = contents.folder / name
        if path.is_file() and path.stat().st_size:  # an empty file is a finding of its own
            try:
                if name == TOKENIZER and path.stat().st_size <= (most_bytes(name) or 0):
                    read.trial = try_tokenizer(path)
                if name != TOKENIZER or not read.trial.fault:  # a fault may be its many tokens
                    read.files[name] = read_json(path)
            except ModelError as error:
                damaged[name] = str(error)
    damaged |= _read_templates(read)
    return read, FINDINGS["companion-damaged"].at(damaged.items())


def _read_templates(read: CompanionFiles) -> dict[str, str]:
    """Fill in the templates. Returns the files that are no text -> why."""
    damaged: dict[str, str] = {}
    named = sorted((read.folder / NAMED_TEMPLATES).glob("*.jinja"))
    for path in (read.folder / OWN_TEMPLATE, *named):
        if path.is_file():
            name = path.relative_to(read.folder).as_posix()
            try:
                read.templates[name] = read_input(path, MOST_BYTES).decode()
            except (OSError, ValueError) as error:
                damaged[name] = str(error)
    for file in (SETTINGS, TEMPLATE):
        value = read.files.get(file, {}).get("chat_template")
        if isinstance(value, str):
            read.templates[file] = value
        for row in map(as_object, as_list(value)):
            if isinstance(text := row.get("template"), str):
                read.templates[f"{file}: {row.get('name')}"] = text
    return damaged


def embedding_rows(contents: CheckpointContents) -> int | None:
    """The rows of the token embedding, by the files, else by config.json's vocab_size."""
    declared = as_integer(contents.config_value("vocab_size"))
    rows = [shape[0] for _, shape in embeddings(contents)]
    return declared if declared in rows or not rows else max(rows)


def embeddings(contents: CheckpointContents) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The language model's token embeddings: name of the module, and its shape."""
    for name, tensor in contents.plain.items():
        leaf = name.rpartition(".")[2]
        if leaf in EMBEDDINGS and not is_tower(f"{name}.weight") and not _POSITIONS.search(leaf):
            yield name, tensor.shape


def token_text(value: object) -> str:
    """The text of a token that is a string or an object with `content`; '' for anything else."""
    text = value["content"] if is_object(value) and "content" in value else value
    return text if isinstance(text, str) else ""


def _ids(value: object) -> dict[str, int]:
    return {token: id for token, id in as_object(value).items() if type(id) is int}


def _values(value: object) -> list[Any]:
    return list(value.values()) if is_object(value) else as_list(value)
