"""Tied parameters, held against the files: which copies are equal, and which are not tied at all.

A config may promise a tied head while the files store another one; engines differ in which they
believe. The tensors decide: equal copies are one tensor, different ones are untied.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import ModelError
from salient.shapes.from_config import TEXT_PARTS

from .weight_map import ParameterFiles

EMBEDDINGS = "tie_word_embeddings"
VOCABULARY = "vocab_size"


@dataclass(frozen=True)
class StoredTies:
    """What the files say of the parameters that the config ties.

    copies: parameter -> the equal parameter that it repeats; not written again
    aliases: parameter that the files lack -> the stored parameter that it equals
    untied: parameters that the files store with values of their own
    """

    copies: dict[str, str]
    aliases: dict[str, str]
    untied: tuple[str, ...]


def stored_ties(model: Any, files: ParameterFiles) -> StoredTies:
    """Compare the tied parameters of `model` in `files`.

    Raises ModelError if an untied parameter is no head or embedding, which no config key unties.
    """
    copies, aliases, untied = {}, {}, []
    for target, origin in model.all_tied_weights_keys.items():
        if target not in files:
            continue
        if origin not in files:
            aliases[origin] = target
        elif _equal(files, target, origin):
            copies[target] = origin
        else:
            untied.append(target)
    head = model.get_output_embeddings()
    for name in untied:
        if head is None or model.get_parameter(name) is not head.weight:
            raise ModelError(
                f"config.json of {files.source.folder} ties {name!r}, but the files store another "
                "tensor under that name. Untie it in config.json, or remove the tensor that was "
                "not trained."
            )
    return StoredTies(copies, aliases, tuple(untied))


def _equal(files: ParameterFiles, one: str, other: str) -> bool:
    if files.stored(one) == files.stored(other):
        return True
    with files.source.reading():
        return equal(files.read(one), files.read(other))


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same values, of whatever types."""
    common = torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.to(common), other.to(common))


def untie(config: Any) -> None:
    """Turn off tied embeddings in a Transformers config, wherever it ties them."""
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        part.tie_word_embeddings = False


def resized_config(config: dict[str, Any], rows: int) -> dict[str, Any]:
    """A config.json whose text has a vocabulary of `rows`."""
    text = next((k for k in TEXT_PARTS if isinstance(config.get(k), dict)), None)
    parts = {text: resized_config(config[text], rows)} if text else {}
    own = {VOCABULARY: rows} if text is None or VOCABULARY in config else {}
    return config | parts | own


def untied_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json without tied embeddings."""
    parts = {
        key: untied_config(value)
        for key, value in config.items()
        if isinstance(value, dict) and EMBEDDINGS in value
    }
    return config | parts | {EMBEDDINGS: False}
