"""Reading a checkpoint folder: config, safetensors shards, and weights, 16-bit or quantized.

Only safetensors are read, never pickles. Files are opened for as long as `reading()` lasts and
closed after it, so that the pages of a model larger than memory do not pile up.
"""

import hashlib
import json
import math
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from salient.core.content_digest import file_digests
from salient.core.errors import CheckpointError, ModelError
from salient.core.model_files import (
    StoredTensor,
    as_object,
    read_header,
    read_json,
    sixteen_bit_remedy,
    weight_files,
)
from salient.core.packing import WORD_BITS
from salient.core.quant import QuantizedWeight
from salient.core.scheme import STORED, LayerSchemes, Scheme

from . import FORMATS, METHOD_ALIASES, Format, load_format
from .stored_parts import Parts, StoredLinear, layout_errors, stored_parts

DEQUANTIZE = (
    "validate, evaluate, compare and inspect read it; for the embedded engine, make 4-bit codes of "
    "it: salient quantize FOLDER --dequantize-source."
)


@dataclass
class Checkpoint:
    """A model folder opened for reading.

    files: tensor name -> file with it
    format: how linears are stored, None for a 16-bit model
    schemes: of linears stored as codes; None for a 16-bit model and for formats of values
    settings: the quantization_config
    """

    folder: Path
    config: dict[str, object]
    files: dict[str, Path]
    format: Format | None = None
    schemes: LayerSchemes | None = None
    settings: dict[str, object] = field(default_factory=dict[str, object])
    _open: dict[Path, Any] = field(default_factory=dict[Path, Any])

    @property
    def scheme(self) -> Scheme | None:
        """The scheme of most linears."""
        return self.schemes.main if self.schemes else None

    @cached_property
    def bits_per_weight(self) -> float | None:
        """The mean bits of a weight that is stored as codes; None if there is none."""
        if self.format is None:
            return None
        if self.schemes is None or not set(self.schemes.all) <= set(STORED):
            return self._stored_bits()
        if not self.schemes.own:
            return self.schemes.main.bits_per_weight
        weights, bits = 0, 0.0
        for name in self.files:
            module, _, suffix = name.rpartition(".")
            if suffix == self.format.suffix:
                scheme = self.schemes.of(module)
                count = math.prod(self.headers[name].shape) * WORD_BITS // scheme.bits
                weights, bits = weights + count, bits + count * scheme.bits_per_weight
        return bits / weights if weights else None

    def _stored_bits(self) -> float | None:
        """The mean bits of a quantized weight, by the bytes of all its tensors."""
        assert self.format
        code, bits, weights = load_format(self.format.name), 0, 0
        for name, parts in self.parts.items():
            headers = {part: self.headers[stored] for part, stored in parts.items()}
            bits += 8 * sum(header.bytes for header in headers.values())
            weights += code.count_weights(headers, self._linear(name))
        return bits / weights if weights else None

    @contextmanager
    def reading(self) -> Generator[None]:
        """Keep the files open that are touched inside; close them at the end."""
        if self._open:
            yield
            return
        with ExitStack() as stack:
            self._open[Path()] = stack
            try:
                yield
            finally:
                self._open.clear()

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`, as it is stored. Raises ModelError if it is missing."""
        if name not in self.files:
            near = [n for n in self.files if n.rsplit(".", 2)[-2:] == name.rsplit(".", 2)[-2:]][:3]
            raise ModelError(
                f"{self.folder} has no tensor {name!r}"
                + (f" (it has {', '.join(map(repr, near))})" if near else "")
                + ". Its config.json describes another model than its safetensors hold: correct "
                "it, or use the one that belongs to them."
            )
        with self.reading():
            return self._file(self.files[name]).get_tensor(name)

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            stack = self._open[Path()]
            self._open[path] = stack.enter_context(_opened(path))
        return self._open[path]

    def entry(self, name: str, index: int) -> Tensor:
        """Entry `index` along the first axis of the stacked parameter `name`, dequantized.

        Only that entry is read, also of a quantized stack.
        """
        if name in self.parts:
            return self._quantized_entry(name, index)
        if name not in self.files:
            return self.tensor(name)  # raises
        with self.reading():
            return self._file(self.files[name]).get_slice(name)[index]

    def _quantized_entry(self, name: str, index: int) -> Tensor:
        assert self.format
        linear = self._linear(name)
        with self.reading():
            tensors = {
                part: self._file(self.files[stored]).get_slice(stored)[index : index + 1]
                if len(self.headers[stored].shape) > 1
                else self.tensor(stored)
                for part, stored in self.parts[name].items()
            }
        with layout_errors(linear, tensors):
            return load_format(self.format.name).dequantize(tensors, linear)[0]

    @cached_property
    def parts(self) -> dict[str, Parts]:
        """Each quantized parameter's tensors, part -> stored tensor."""
        return {} if self.format is None else stored_parts(self.format, self.files)

    def _linear(self, name: str) -> StoredLinear:
        scheme = self.schemes.of(name.removesuffix(".weight")) if self.schemes else None
        return StoredLinear(name, self.settings, scheme)

    def is_quantized(self, module: str) -> bool:
        """Whether the linear called `module` is stored quantized."""
        return f"{module}.weight" in self.parts or module in self.parts

    def has_codes(self, module: str) -> bool:
        """Whether `quantized` takes the linear called `module`."""
        return self.format is not None and self.format.codes and self.is_quantized(module)

    def quantized(self, module: str) -> QuantizedWeight:
        """The codes of the linear called `module`.

        Raises CheckpointError if its shapes disagree with the config, or it has only values.
        """
        assert self.format
        if not self.format.codes:
            raise CheckpointError(
                f"{self.folder} is of the format {self.format.name}, which has no integer codes in "
                f"groups that Salient's kernels read. {DEQUANTIZE}"
            )
        assert self.schemes
        scheme = self.schemes.of(module)
        code = load_format(self.format.name)
        optional = (*getattr(code, "OPTIONAL", ()), *["weight_zero_point"] * scheme.symmetric)
        parts = self._read_parts(
            f"{module}.weight", [s for s in code.SUFFIXES if s not in optional]
        )
        with layout_errors(self._linear(f"{module}.weight"), parts):
            if hasattr(code, "dequantize"):  # checks its own shapes
                return code.unpack(parts, scheme, self._linear(f"{module}.weight"))
            weight = code.unpack(parts, scheme)
        out, width = weight.codes.shape
        groups = (out, width // scheme.group_size)
        if weight.scale.shape != groups or weight.zero.shape != groups:
            raise CheckpointError(
                f"{module!r} has scales {list(weight.scale.shape)} and zeros "
                f"{list(weight.zero.shape)}, but its {out} x {width} codes at {scheme} need "
                f"{list(groups)}: quantization_config does not describe these tensors. Correct "
                "group_size in config.json, or write the checkpoint again."
            )
        return weight

    def _read_parts(self, name: str, needed: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of the quantized parameter `name`, by part.

        Raises CheckpointError if one that is `needed` is missing.
        """
        parts = self.parts.get(name, {})
        for part in needed:
            if part not in parts:
                sibling = part.isidentifier() and not part.startswith("_")
                full = f"{name.removesuffix('.weight')}.{part}" if sibling else name + part
                raise CheckpointError(
                    f"{self.folder} has no tensor {full!r}: the checkpoint is incomplete, write "
                    "it again."
                )
        with self.reading():
            return {part: self.tensor(stored) for part, stored in parts.items()}

    def parameter(self, name: str) -> Tensor:
        """The parameter `name`, dequantized (float32) if it is stored quantized."""
        if name not in self.parts:
            return self.tensor(name)
        assert self.format
        code = load_format(self.format.name)
        if not hasattr(code, "dequantize"):
            return self.quantized(name.removesuffix(".weight")).dequantize()
        linear = self._linear(name)
        optional = getattr(code, "OPTIONAL", ())
        needed = [s for s in code.SUFFIXES if s not in optional] if self.format.codes else ()
        tensors = self._read_parts(name, needed)
        with layout_errors(linear, tensors):
            return code.dequantize(tensors, linear)

    def parameter_names(self) -> list[str]:
        """The names that `parameter` takes: the tensors', and one for a quantized parameter."""
        owners = {stored: name for name, own in self.parts.items() for stored in own.values()}
        return list(dict.fromkeys(owners.get(name, name) for name in self.files))

    @cached_property
    def headers(self) -> dict[str, StoredTensor]:
        """Each tensor's dtype, shape and place, from the files' headers."""
        headers = {path: read_header(path) for path in set(self.files.values())}
        return {name: headers[path][name] for name, path in self.files.items()}

    @cached_property
    def bytes_on_disk(self) -> int:
        """Bytes of all weight files."""
        return sum(path.stat().st_size for path in set(self.files.values()))


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path.name} in {path.parent} cannot be read ({error}). The file is truncated or "
            "damaged: fetch it again."
        ) from error
    with file:
        yield file


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open `folder`, before any tensor is read.

    Raises ModelError for a missing, truncated or contradictory file.
    """
    return _checkpoint(folder, read_json(folder / "config.json"), weight_files(folder))


def open_piece(path: Path, config: dict[str, Any]) -> Checkpoint:
    """Open one safetensors file of a checkpoint that is being written under `config`."""
    return _checkpoint(path.parent, config, dict.fromkeys(read_header(path), path))


def _checkpoint(folder: Path, config: dict[str, Any], files: dict[str, Path]) -> Checkpoint:
    text = as_object(config.get("text_config"))
    declared = config.get("quantization_config") or text.get("quantization_config")
    if not declared:
        return Checkpoint(folder, config, files)
    settings = as_object(declared)
    method = settings.get("quant_method")
    rows = [f for f in FORMATS.values() if f.quant_method == _method(settings)]
    if not rows:
        known = ", ".join(dict.fromkeys(f.quant_method for f in FORMATS.values()))
        raise CheckpointError(
            f"{folder} is quantized with {method!r}. Salient reads 16-bit models and: {known}. "
            f"{sixteen_bit_remedy(method)}"
        )
    for row in rows:
        try:
            schemes = load_format(row.name).read_config(settings)
        except CheckpointError:
            if row is rows[-1]:
                raise
        else:
            return Checkpoint(folder, config, files, row, schemes, settings)
    raise AssertionError


def _method(settings: dict[str, Any]) -> str:
    """The quant_method by its usual name; AutoRound's by the layout that it packs."""
    name = str(settings.get("quant_method")).lower()
    name = METHOD_ALIASES.get(name, name)
    if name == "auto-round":
        return "awq" if "awq" in str(settings.get("packing_format", "")).lower() else "gptq"
    return name


def fingerprint(source: Checkpoint) -> str:
    """SHA-256 over config.json, and each weight file's name and digest: over the whole content."""
    digest = hashlib.sha256(json.dumps(source.config, sort_keys=True).encode())
    for path, content in file_digests(source.files.values()).items():
        digest.update(f"{path.name}:{content}".encode())
    return digest.hexdigest()
