"""A template: a GGUF file of the same model, whose metadata, names and row orders are used.

It may be of any type, and in several shards. Its tensors are mapped into memory, and dequantized
one at a time. What contradicts the checkpoint's config.json or tokenizer is another model.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import CheckpointError, MissingExtra, ModelError, brief, library_errors
from salient.core.input_files import most_bytes, parse_json, read_input
from salient.core.model_files import as_list, as_object
from salient.shapes.from_gguf import gguf_shards
from salient.shapes.gguf_header import NAMES, read_gguf_header

# Keys that describe the template's own file.
OWN_KEYS = (
    "GGUF.",
    "general.architecture",
    "split.",
    "quantize.imatrix.",
    "general.file_type",
    "general.quantized_by",
)
TOLERANCE = 1e-4  # of two numbers that are float32 in one file
MOST_OTHER_TOKENS = 0.01  # share of the vocabulary
REMEDY = "Use a GGUF file that was converted from this very model."


@dataclass(frozen=True)
class TemplateTensor:
    """A tensor. kind: its type, "Q4_K"; shape: [outputs, inputs], experts first; data: its bytes"""

    name: str
    kind: str
    shape: tuple[int, ...]
    data: Any

    def values(self, columns: slice = slice(None), expert: int | None = None) -> Tensor:
        """Dequantized: float32 of `shape`, of `columns` of the last axis, of one expert."""
        import gguf

        data = self.data if expert is None else self.data[expert]
        parts = data.reshape(-1, data.shape[-1])
        kind = gguf.GGMLQuantizationType[self.kind]
        chunk = max(1, 2**22 // self.shape[-1])
        rows = [
            torch.from_numpy(
                gguf.quants.dequantize(parts[i : i + chunk], kind)[..., columns].copy()
            )
            for i in range(0, len(parts), chunk)
        ]
        return torch.cat(rows).float().reshape(*self.shape[expert is not None : -1], -1)

    def raw(self) -> Tensor:
        """The bytes as they are stored: uint8 [..., bytes of a row]."""
        return torch.from_numpy(self.data.copy()).view(torch.uint8)


@dataclass(frozen=True)
class GgufTemplate:
    """path: of its first file   fields: metadata by key, as gguf.GGUFReader has them"""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, TemplateTensor]

    @property
    def architecture(self) -> str:
        return str(self.value("general.architecture"))

    def value(self, key: str) -> Any:
        """The value of a key, of the architecture's own too; None if absent."""
        field = self.fields.get(key) or self.fields.get(f"{self._prefix}.{key}")
        return None if field is None else field.contents()

    @cached_property
    def _prefix(self) -> str:
        field = self.fields.get("general.architecture")
        return str(field.contents()) if field else ""

    def metadata(self) -> dict[str, Any]:
        """The fields that are true of every file of this model."""
        return {key: field for key, field in self.fields.items() if not key.startswith(OWN_KEYS)}


@contextmanager
def opened_template(path: Path) -> Generator[GgufTemplate]:
    """Open the template, its further shards too. Raises ModelError for a damaged file."""
    if find_spec("gguf") is None:
        raise MissingExtra("GGUF files need the package gguf: pip install 'salient-awq[gguf]'")
    import gguf

    fields: dict[str, Any] = {}
    tensors: dict[str, TemplateTensor] = {}
    shards = gguf_shards(path)
    for shard in shards:
        read_gguf_header(shard)  # refuses what is no GGUF, or has lengths that none has
        with library_errors(f"{shard} cannot be read as GGUF", "Fetch the file again."):
            reader = gguf.GGUFReader(shard)
            fields = dict(reader.fields) | fields
            for entry in reader.tensors:
                shape = tuple(int(size) for size in reversed(entry.shape.tolist()))
                kind = entry.tensor_type.name
                tensors[entry.name] = TemplateTensor(entry.name, kind, shape, entry.data)
    template = GgufTemplate(shards[0], fields, tensors)
    if not template.architecture or "tokenizer.ggml.tokens" not in fields:
        raise ModelError(
            f"{path} has no architecture or no tokenizer: it is no model of llama.cpp. {REMEDY}"
        )
    yield template


def check_config(template: GgufTemplate, config: Mapping[str, object]) -> None:
    """Raise ModelError where the metadata contradict config.json."""
    text = as_object(config.get("text_config")) or config
    rope = as_object(text.get("rope_parameters"))
    expected = {own: text.get(key) for key, own in NAMES["keys"].items()}
    expected["rope.freq_base"] = text.get("rope_theta", rope.get("rope_theta"))
    expected["attention.layer_norm_rms_epsilon"] = text.get("rms_norm_eps")
    expected.pop("context_length", None)  # of what a file claims, not of the weights
    experts = text.get("num_local_experts", text.get("num_experts"))
    expected["expert_count"] = text.get("n_routed_experts", experts)
    for own, value in expected.items():
        present = template.value(own)
        if not isinstance(value, (int, float)) or not isinstance(present, (int, float)):
            continue
        if own in ("block_count", "rope.dimension_count"):  # MTP's blocks are counted by some
            continue
        if abs(present - value) > TOLERANCE * abs(value):
            raise ModelError(
                f"The template {template.path.name} is of another model: its "
                f"{template.architecture}.{own} is {present}, config.json has {value}. {REMEDY}"
            )


def check_tokenizer(template: GgufTemplate, folder: Path) -> list[str]:
    """Tokens that differ from the checkpoint's tokenizer.json, a few of them named.

    Raises ModelError where more than a hundredth differs: then it is another tokenizer.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return []
    stored = as_object(
        parse_json(read_input(path, most_bytes(path.name) or 2**27), half_pairs=True)
    )
    vocabulary = as_object(as_object(stored.get("model")).get("vocab"))
    ids = {number: token for token, number in vocabulary.items() if isinstance(number, int)}
    for added in map(as_object, as_list(stored.get("added_tokens"))):
        if isinstance(added.get("id"), int):
            ids[added["id"]] = str(added.get("content"))
    tokens = template.value("tokenizer.ggml.tokens")
    other = [
        f"{number} {brief(ids[number])} is {brief(token)} there"
        for number, token in enumerate(tokens)
        if number in ids and ids[number] != token
    ]
    if len(other) > MOST_OTHER_TOKENS * len(tokens):
        raise ModelError(
            f"The template {template.path.name} has another tokenizer: {len(other)} of "
            f"{len(tokens)} tokens differ from tokenizer.json, the first {other[0]}. {REMEDY}"
        )
    return other


def check_vocabulary(template: GgufTemplate, rows: int) -> None:
    """Raise CheckpointError unless the template has as many tokens as the embedding `rows`."""
    count = len(template.value("tokenizer.ggml.tokens"))
    if count != rows:
        raise CheckpointError(
            f"The template {template.path.name} has {count} tokens, the checkpoint's embedding "
            f"{rows} rows. {REMEDY}"
        )
