"""The verb `convert`: a checkpoint's codes in another format, integer for integer, or not at all.

Block by block each linear is unpacked, packed in the other format, and unpacked again: codes, zeros
and scales must be the same numbers. All other tensors are copied. Config, tokenizer, evidence and
card are carried over. Converting there and back gives the same bytes of every tensor.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salient.core.dtypes import stored_sixteen_bits
from salient.core.errors import CheckpointError, SalientError
from salient.core.evidence import find_changed, read_evidence
from salient.core.model_files import as_list, as_object
from salient.core.progress import Progress
from salient.core.quant import QuantizedWeight
from salient.core.records import is_object
from salient.core.report import Report, Table, mebibytes
from salient.core.scheme import LayerSchemes
from salient.core.source_card import CARD, join_card, split_card
from salient.formats import find_format, load_format
from salient.formats.checkpoint import Checkpoint, open_checkpoint
from salient.formats.folder import copy_metadata
from salient.formats.output_folder import (
    check_output,
    is_vacant,
    partial_folder,
    publish,
    write_evidence,
)
from salient.formats.writer import disk_full_errors, merge, write_json, write_tensors, write_text
from salient.models.model_folder import model_folder

from .options import ConvertOptions

MIDDLE_WORD = int.from_bytes(b"\x88" * 4, "little", signed=True)  # eight zeros of 8
_BLOCK = re.compile(r"(.*?\.\d+)\.")


@dataclass(frozen=True)
class Conversion:
    """What is converted: each file's tensors, in the order of the source."""

    source: Checkpoint
    format: str
    dtype: torch.dtype

    @property
    def modules(self) -> list[str]:
        return [name.removesuffix(".weight") for name in self.source.parts]

    @cached_property
    def symmetric(self) -> bool:
        """Whether every zero of an awq checkpoint, which cannot say so, is the middle code."""
        if self.source.format is None or self.source.format.name != "awq":
            return False
        with self.source.reading():
            zeros = (self.source.tensor(own["qzeros"]) for own in self.source.parts.values())
            return all(bool((packed == MIDDLE_WORD).all()) for packed in zeros)

    def weight(self, module: str) -> QuantizedWeight:
        """The codes of a linear, with the scheme that they have in the other format."""
        weight = self.source.quantized(module)
        if not self.symmetric:
            return weight
        return replace(weight, scheme=replace(weight.scheme, symmetric=True))

    def pieces(self) -> dict[str, list[str]]:
        """Block (or '') -> the parameters in it, in the order of the files."""
        quantized = {_block_of(name) for name in self.source.parts}
        pieces: dict[str, list[str]] = {}
        headers = self.source.headers
        order = sorted(
            self.source.files, key=lambda n: (self.source.files[n].name, headers[n].start)
        )
        owners = {
            stored: name for name, own in self.source.parts.items() for stored in own.values()
        }
        for name in dict.fromkeys(owners.get(stored, stored) for stored in order):
            block = _block_of(name)
            pieces.setdefault(block if block in quantized else "", []).append(name)
        return pieces


def convert_checkpoint(options: ConvertOptions) -> Report:
    """Write the checkpoint in the other format. Raises SalientError, and leaves nothing, if that
    is not exact."""
    source = open_checkpoint(model_folder(str(options.checkpoint)))
    target = find_format(options.format, "convert").name
    output = check_output(_output(options, source, target), source.folder)
    if source.format is None or not source.format.codes or source.schemes is None:
        raise CheckpointError(
            f"{source.folder} has no integer codes in groups: it is "
            f"{source.format.name if source.format else 'a 16-bit model'}. Quantize the 16-bit "
            "model with salient quantize."
        )
    if source.format.name == target:
        raise CheckpointError(f"{source.folder} is of the format {target} already.")
    load_format(target).config(source.schemes, [])  # refuses schemes that it has no place for
    if not is_vacant(output):
        raise CheckpointError(f"{output} is not empty. Set another output with -o.")
    if note := find_changed(source.folder).note:
        raise CheckpointError(note)
    dtype = stored_sixteen_bits(source.config) or torch.float16
    conversion = Conversion(source, target, dtype)
    partial = partial_folder(output)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        folder = partial / "checkpoint"
        with disk_full_errors(partial):
            folder.mkdir(parents=True)
        schemes = _write_weights(conversion, partial, folder, options.progress)
        _write_companions(conversion, schemes, folder)
        publish(folder, output, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _report(conversion, schemes, output)


def _output(options: ConvertOptions, source: Checkpoint, target: str) -> Path:
    return Path(options.output or f"{source.folder.resolve().name}-{target}")


def _block_of(name: str) -> str:
    match = _BLOCK.match(name)
    return match[1] if match else ""


def _write_weights(
    conversion: Conversion, partial: Path, folder: Path, progress: Progress
) -> LayerSchemes:
    """Write the shards. Returns the schemes of the linears."""
    pieces = conversion.pieces()
    files: list[Path] = []
    own: dict[str, Any] = {}
    for number, (block, names) in enumerate(pieces.items()):
        progress(number, len(pieces), f"{block or 'outside the blocks'}: converting")
        tensors: dict[str, Tensor] = {}
        with conversion.source.reading():
            for name in names:
                if name in conversion.source.parts:
                    module = name.removesuffix(".weight")
                    weight = conversion.weight(module)
                    own[module] = weight.scheme
                    packed = exact(module, weight, conversion.format, conversion.dtype)
                    tensors |= {f"{module}.{part}": tensor for part, tensor in packed.items()}
                else:
                    tensors[name] = conversion.source.tensor(name)
        files.append(partial / f"piece-{number:05d}.safetensors")
        write_tensors(files[-1], tensors)
    progress(len(pieces), len(pieces), "")
    merge(files, folder)
    for file in files:
        file.unlink()
    assert conversion.source.schemes
    schemes = list(own.values())
    main = max(dict.fromkeys(schemes), key=schemes.count)
    if all(scheme == conversion.source.schemes.of(m) for m, scheme in own.items()):
        return conversion.source.schemes
    return LayerSchemes(main, {m: scheme for m, scheme in own.items() if scheme != main})


def exact(
    module: str, weight: QuantizedWeight, format: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of `weight` in `format`. Raises CheckpointError where they are other numbers."""
    code = load_format(format)
    fault = ""
    tensors: dict[str, Tensor] = {}
    if format == "awq" and (weight.scheme.bits != 4 or weight.codes.shape[0] % 8):
        fault = f"awq packs 4-bit codes of 8 outputs a word, and it is {weight.scheme}"
    else:
        try:
            tensors = code.pack(weight, dtype)
        except SalientError as error:
            fault = str(error)
    scales = next((t for n, t in tensors.items() if n in ("scales", "weight_scale")), None)
    if scales is not None:
        stored = scales.float() if format == "compressed-tensors" else scales.float().t()
        if not torch.equal(stored, weight.scale):
            kind = str(scales.dtype).removeprefix("torch.")
            worst = ((stored - weight.scale).abs() / weight.scale.abs().clamp(min=1e-30)).max()
            fault = f"its scales are not exact in {kind} (relative error {float(worst):.1e})"
    if weight.scheme.symmetric and bool((weight.zero != weight.scheme.middle).any()):
        fault = "its zeros are not the middle code, although the scheme is symmetric"
    if fault:
        raise CheckpointError(
            f"{module!r} cannot be converted to {format} exactly: {fault}. Use another --format, "
            "or quantize the 16-bit model in this one."
        )
    return tensors


def _write_companions(conversion: Conversion, schemes: LayerSchemes, folder: Path) -> None:
    """Config, tokenizer, card and evidence of the converted checkpoint."""
    source = conversion.source
    copy_metadata(source.folder, folder)
    settings = load_format(conversion.format).config(schemes, *_unquantized(conversion))
    write_json(folder / "config.json", _with_settings(source.config, settings))
    assert source.format
    if (card := source.folder / CARD).is_file():
        write_text(folder / CARD, converted_card(card.read_text("utf-8"), source.format.name,
                                                 conversion.format))  # fmt: skip
    evidence = read_evidence(source.folder)
    if evidence is None:
        return
    size = replace(
        evidence.bytes, after=sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    )
    run = replace(evidence.run, format=conversion.format)
    write_evidence(replace(evidence, run=run, bytes=size), folder)


def _with_settings(config: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """`config` with other settings of quantization, where it has them."""
    if config.get("quantization_config"):
        return {**config, "quantization_config": settings}
    text = as_object(config.get("text_config"))
    return {**config, "text_config": {**text, "quantization_config": settings}}


def _unquantized(conversion: Conversion) -> tuple[list[str], Sequence[str]]:
    """The names of unquantized linears, and modules without a quantized one, as formats take them.

    From the settings of the source; every other matrix in a block with codes is added.
    """
    settings = conversion.source.settings
    listed = [
        str(name)
        for key in ("modules_to_not_convert", "ignore")
        for name in as_list(settings.get(key))
    ]
    listed += [
        str(key).removeprefix("-:")
        for key in as_object(settings.get("dynamic"))
        if str(key).startswith("-:")
    ]
    plain = [_plain_name(name) for name in listed]
    modules = {name.rpartition(".")[0] for name in conversion.source.files}
    skipped = [name for name in plain if name in modules and name != "lm_head"]
    parts = [name for name in plain if name not in modules and name != "lm_head"]
    skipped += [n for n in _bare_matrices(conversion) if n not in skipped and not _covers(parts, n)]
    return skipped, parts


def _plain_name(entry: str) -> str:
    """A name or part of a list of ours, out of an expression around it."""
    match = re.fullmatch(r"(?:re:)?(?:\(\.\*\\\.\)\?|\^)(.*?)(?:\\\.\.\*|\$)", entry)
    return re.sub(r"\\(.)", r"\1", match[1]) if match else entry


def _covers(parts: Sequence[str], name: str) -> bool:
    return any(part in name for part in parts)


def _bare_matrices(conversion: Conversion) -> Iterator[str]:
    """Modules with an unquantized matrix in blocks that have codes."""
    source = conversion.source
    blocks = {_block_of(name) for name in source.parts} - {""}
    for name, header in source.headers.items():
        bare = name.endswith(".weight") and len(header.shape) == 2 and name not in source.parts
        if bare and _block_of(name) in blocks:
            yield name.removesuffix(".weight")


def converted_card(text: str, before: str, after: str) -> str:
    """The card with the other format in its tags, and a line that says what was converted."""
    front, body = split_card(text)
    if isinstance(tags := front.get("tags"), list):
        front = {**front, "tags": [after if tag == before else tag for tag in as_list(tags)]}
    line = f"Converted from the format {before} to {after}: same codes, zeros and scales."
    back = f"Converted from the format {after} to {before}: same codes, zeros and scales."
    body = body.rstrip("\n")
    undone = body.endswith(back)
    body = body.removesuffix(back).rstrip("\n") if undone else f"{body}\n\n{line}"
    return join_card(front, body.lstrip("\n") + "\n") if is_object(front) else text


def _report(conversion: Conversion, schemes: LayerSchemes, output: Path) -> Report:
    source = conversion.source
    assert source.format
    size = sum(path.stat().st_size for path in output.glob("*.safetensors"))
    data: dict[str, object] = {
        "output": str(output),
        "from": source.format.name,
        "to": conversion.format,
        "scheme": str(schemes),
        "linears": len(conversion.modules),
        "bytes": size,
    }
    rows = [(key, str(data[key])) for key in ("from", "to", "scheme", "linears")]
    table = Table(str(output), ("field", "value"), [*rows, ("weights", mebibytes(size))])
    return Report(data, [table], ["Every code, zero and scale is the same number as before."])
