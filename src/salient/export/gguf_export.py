"""Export to GGUF: the checkpoint's codes, in the names and with the metadata of a template.

First every tensor is compared with the template's (`gguf_match.py`), which decides its type and the
order of its rows; then the file is written tensor by tensor under a temporary name, and renamed.
"""

import logging
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from salient.core.errors import CheckpointError, RequestError, ResourceError, library_errors
from salient.core.evidence import find_changed
from salient.core.input_files import most_bytes, read_input
from salient.core.progress import Progress
from salient.core.report import Report, Table, mebibytes
from salient.core.version import __version__
from salient.formats.checkpoint import Checkpoint, open_checkpoint
from salient.formats.writer import disk_full_errors, sync
from salient.models.model_folder import model_folder

from .gguf_blocks import RoundingError, code_blocks, plain_data
from .gguf_match import CHANGES, Matcher, TensorPlan, stored_codes
from .gguf_places import EMBEDDING, Place, Places, find_places
from .gguf_template import (
    GgufTemplate,
    check_config,
    check_tokenizer,
    check_vocabulary,
    opened_template,
)
from .options import ExportOptions

FILE_TYPES = {"Q4_1": 3, "Q4_0": 2, "Q8_0": 7, "F16": 1, "BF16": 32, "F32": 0}  # llama_ftype
CODES = ("Q4_0", "Q4_1")
SPARE = 2**26  # bytes of metadata and alignment
TEMPLATE_KEY = "tokenizer.chat_template"


@dataclass(frozen=True)
class GgufFile:
    """What was written. notes: what a user should know of the template and the checkpoint"""

    output: Path
    tensors: tuple[TensorPlan, ...]
    bytes: int
    notes: tuple[str, ...]


def export_gguf(options: ExportOptions, template_path: Path) -> Report:
    """Write the file. Raises SalientError, and leaves nothing, for what cannot be exported."""
    checkpoint = open_checkpoint(model_folder(str(options.checkpoint)))
    output = output_file(options, checkpoint)
    if checkpoint.format is None:
        raise CheckpointError(
            f"{checkpoint.folder} is a 16-bit model. Quantize it first (salient quantize), or use "
            "llama.cpp's own converter."
        )
    if note := find_changed(checkpoint.folder).note:
        raise CheckpointError(note)
    with opened_template(template_path) as template:
        check_config(template, checkpoint.config)
        other_tokens = check_tokenizer(template, checkpoint.folder)
        blocks = int(template.value("block_count") or 0)
        places = find_places(template, checkpoint.parameter_names(), blocks)
        plans = plan_tensors(checkpoint, template, places, options)
        size = _check_disk(output, template, plans, places)
        metadata = _metadata(template, checkpoint, plans)
        write_gguf(
            output,
            checkpoint,
            template,
            plans,
            places,
            metadata=metadata,
            progress=options.progress,
        )
    notes = _notes(places, other_tokens)
    file = GgufFile(output, plans, output.stat().st_size or size, tuple(notes))
    return to_report(file, template)


def output_file(options: ExportOptions, checkpoint: Checkpoint) -> Path:
    """The file to write. Raises RequestError for one that exists or cannot be."""
    name = Path(options.output or f"{checkpoint.folder.resolve().name}.gguf")
    if name.suffix.lower() != ".gguf":
        raise RequestError(f"{name} does not end with .gguf. Set a file with -o NAME.gguf.")
    if name.exists() or name.is_symlink():
        raise RequestError(f"{name} exists. Remove it, or set another file with -o.")
    if not name.absolute().parent.is_dir():
        raise RequestError(f"{name.absolute().parent} is no folder. Set another file with -o.")
    return name


def plan_tensors(
    checkpoint: Checkpoint, template: GgufTemplate, places: Places, options: ExportOptions
) -> tuple[TensorPlan, ...]:
    """Compare every tensor with the template's. Matrices first: norms and biases need them."""
    readers: dict[str, list[tuple[str, str]]] = {}
    for place in places.places:
        if place.block and checkpoint.is_quantized(place.parameters[0].removesuffix(".weight")):
            readers.setdefault(place.block, []).append((place.parameters[0], place.name))
    matcher = Matcher(checkpoint, template, options.others, readers)
    plans: dict[str, TensorPlan] = {}
    for number, place in enumerate(sorted(places.places, key=_comparing_order)):
        options.progress(
            number, 2 * len(places.places), f"{place.name}: comparing with the template"
        )
        with checkpoint.reading():
            plans[place.name] = matcher.plan(place)
        if place.name == EMBEDDING:
            check_vocabulary(template, plans[place.name].shape[0])
    return tuple(plans[place.name] for place in places.places)


def _comparing_order(place: Place) -> tuple[int, str, bool]:
    """Embedding, then block by block: weights of linears, then norms and biases."""
    number = int(place.block.split(".")[1]) if place.block else -1
    return number, "", place.name.endswith(".bias") or "norm" in place.name


def _check_disk(
    output: Path, template: GgufTemplate, plans: tuple[TensorPlan, ...], places: Places
) -> int:
    """The bytes that the file will have. Raises ResourceError if the disk has no room for them."""
    size = SPARE + sum(plan.bytes for plan in plans)
    size += sum(template.tensors[name].data.nbytes for name in places.computed)
    free = shutil.disk_usage(output.absolute().parent).free
    if free < size:
        raise ResourceError(
            f"{output} will have {mebibytes(size)}, and its disk has {mebibytes(free)} free. Free "
            "some space, or set another file with -o."
        )
    return size


def _metadata(
    template: GgufTemplate, checkpoint: Checkpoint, plans: tuple[TensorPlan, ...]
) -> dict[str, Any]:
    """The fields to write: those of the template, or a text or number in place of them."""
    fields: dict[str, Any] = dict(template.metadata())
    counts = Counter(plan.kind for plan in plans if plan.place.block and len(plan.shape) > 1)
    fields["general.file_type"] = FILE_TYPES.get(next(iter(counts.most_common()))[0], 1)
    fields["general.quantization_version"] = 2
    fields["general.quantized_by"] = f"salient {__version__}"
    if text := _chat_template(checkpoint.folder):
        fields[TEMPLATE_KEY] = text
    return fields


def _chat_template(folder: Path) -> str:
    """The checkpoint's own chat template; '' if it has none in a file of its own."""
    path = folder / "chat_template.jinja"
    if not path.is_file():
        return ""
    return read_input(path, most_bytes(path.name) or 2**20).decode("utf-8", errors="replace")


def write_gguf(
    output: Path,
    checkpoint: Checkpoint,
    template: GgufTemplate,
    plans: tuple[TensorPlan, ...],
    places: Places,
    *,
    metadata: dict[str, Any],
    progress: Progress,
) -> None:
    """Write the file tensor by tensor; it appears when it is complete and on disk."""
    import gguf

    logging.getLogger("gguf").setLevel(logging.WARNING)
    partial = output.with_name(output.name + ".partial")
    writer = gguf.GGUFWriter(None, template.architecture)
    with library_errors("The metadata of the template cannot be written", "Use another one."):
        for key, value in metadata.items():
            _add_field(writer, key, value)
    for name in places.computed:
        tensor = template.tensors[name]
        kind = gguf.GGMLQuantizationType[tensor.kind]
        writer.add_tensor_info(name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, kind)
    for plan in plans:
        writer.add_tensor_info(
            plan.place.name,
            plan.shape,
            np.dtype(np.float32),
            plan.bytes,
            gguf.GGMLQuantizationType[plan.kind],
        )
    try:
        with disk_full_errors(output.absolute().parent):
            writer.write_header_to_file(partial)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name in places.computed:
                writer.write_tensor_data(template.tensors[name].data)
            for number, plan in enumerate(plans):
                progress(len(plans) + number, 2 * len(plans), f"{plan.place.name}: writing")
                _write_tensor(writer, plan, checkpoint, template)
            writer.close()
            sync(partial)
            partial.rename(output)
            output.chmod(0o644)
            sync(output.absolute().parent)
        progress(2 * len(plans), 2 * len(plans), "")
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _add_field(writer: Any, key: str, value: Any) -> None:
    """Add a field of gguf.GGUFReader, or a number or a text of ours."""
    if isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        kinds = value.types
        writer.add_key_value(key, value.contents(), kinds[0], kinds[-1] if kinds[1:] else None)


def _write_tensor(
    writer: Any, plan: TensorPlan, checkpoint: Checkpoint, template: GgufTemplate
) -> None:
    """Write one tensor, an expert after the other."""
    with checkpoint.reading():
        if plan.copied:
            data = template.tensors[plan.place.name].raw()
        else:
            parts = [
                _tensor_data(checkpoint, name, plan, order.rows)
                for name, order in zip(plan.place.parameters, plan.orders, strict=True)
            ]
            data = torch.cat([part.flatten() for part in parts]) if parts[1:] else parts[0]
    writer.write_tensor_data(np.ascontiguousarray(data.numpy()).reshape(-1))


def _tensor_data(
    checkpoint: Checkpoint, parameter: str, plan: TensorPlan, rows: Tensor | None
) -> Tensor:
    """The bytes of one parameter."""
    codes = stored_codes(checkpoint, parameter)
    if codes is not None and plan.kind in (*CODES, "Q8_0"):
        data = code_blocks(codes, plan.kind)
        return data if rows is None else data[rows]
    values = checkpoint.parameter(parameter)
    if plan.change:
        values = CHANGES[plan.change](values.float())
    values = values.reshape(-1, values.shape[-1]) if values.dim() > 1 else values
    if rows is not None:
        values = values[rows]
    return plain_data(parameter, values, plan.kind)


def _notes(places: Places, other_tokens: list[str]) -> list[str]:
    notes: list[str] = []
    if places.left_out:
        notes.append(
            f"Left out: {len(places.left_out)} tensors of towers and of layers that predict "
            f"further tokens ({places.left_out[0]}, ...), which this file has no place for."
        )
    if other_tokens:
        notes.append(
            f"The file has the template's tokenizer, of which {len(other_tokens)} tokens differ "
            f"from tokenizer.json: {'; '.join(other_tokens[:3])}."
        )
    return notes


def to_report(file: GgufFile, template: GgufTemplate) -> Report:
    """Types, orders and the worst errors, as data, table and lines."""
    kinds = Counter(plan.kind for plan in file.tensors)
    errors = {plan.place.name: plan.error for plan in file.tensors if plan.error}
    worst_name = max(errors, key=lambda name: errors[name].steps, default="")
    worst = errors.get(worst_name, RoundingError())
    parts: dict[str, list[TensorPlan]] = {}
    for plan in file.tensors:
        parts.setdefault(plan.place.part, []).append(plan)
    rows = [
        (
            part,
            str(len(plans)),
            ", ".join(dict.fromkeys(plan.kind for plan in plans)),
            ", ".join(dict.fromkeys(plan.orders[0].kind for plan in plans)),
            f"{min(order.agreement for plan in plans for order in plan.orders):.3f}",
            f"{max((plan.error.steps for plan in plans if plan.error), default=0):.1e}",
        )
        for part, plans in parts.items()
    ]
    data: dict[str, object] = {
        "output": str(file.output),
        "bytes": file.bytes,
        "template": str(template.path),
        "architecture": template.architecture,
        "types": dict(kinds),
        "worst_error": {
            "tensor": worst_name,
            "steps": worst.steps,
            "absolute": worst.absolute,
        },
        "tensors": [
            {
                "name": plan.place.name,
                "type": plan.kind,
                "rows": plan.orders[0].kind,
                "agreement": min(order.agreement for order in plan.orders),
                "change": plan.change,
                "copied": plan.copied,
                "worst_error_steps": plan.error.steps if plan.error else 0.0,
                "worst_error_absolute": plan.error.absolute if plan.error else 0.0,
            }
            for plan in file.tensors
        ],
        "notes": list(file.notes),
    }
    columns = ("tensor", "count", "type", "rows", "agreement", "worst error (steps)")
    table = Table(f"{file.output}: {mebibytes(file.bytes)}", columns, rows, ("type", "rows"))
    lines = [
        "Codes are the checkpoint's. "
        + (
            f"Only scale x zero is rounded to float16: at most {worst.steps:.1e} of a code's step, "
            f"in {worst_name}."
            if worst.steps
            else "Nothing is rounded."
        ),
        *file.notes,
        "Run it with:",
        f"  llama-cli -m {file.output}",
        f'  echo "FROM ./{file.output.name}" > Modelfile && ollama create NAME -f Modelfile',
    ]
    return Report(data, [table], lines)
