"""The static check of a quantized checkpoint folder: faults that show before an engine is started.

Reads config, headers, all scales and zero points, and samples of codes; nothing is dequantized and
torch is not imported. One file per subject:

    weight_files              index and shards; unexpected, empty and pickle files; tokenizer
    quant_config, ct_config   locations of the settings; AWQ's keys; compressed-tensors' groups
    tensor_layout             types and shapes of a linear's tensors
    config_shapes             bits, groups and sizes against config.json
    missing_tensors           tensors and linears that are missing
    ignore_lists              lists of unquantized modules; unquantized linears; embedding and head
    companion_files           files next to the weights, as they are stored
    tokenizer_files           whether the tokenizer loads and fits the embedding
    generation_settings       ids of special tokens, ends of answers, sampling values
    template_check            chat templates, each rendered in a process of its own
    evidence_check            salient.json against the tensors and files
    scale_values              scales
    code_values               samples of codes, cut files, zero points

Methods other than AWQ and packed compressed-tensors get the checks that hold for any folder.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salient.core.input_files import check_folder
from salient.core.model_files import read_json
from salient.core.progress import Progress, silent
from salient.diagnose.finding import BAD, Finding, ranked
from salient.diagnose.rule import Count, Place

from .code_values import FEW, WINDOW, check_codes, check_tails, check_zero_points
from .companion_files import read_companions
from .config_shapes import check_config_sizes, check_sizes
from .contents import (
    FINDINGS,
    SUFFIXES,
    CheckpointContents,
    as_json,
    change,
    find_packed,
    find_plain,
    place,
    stored_method,
)
from .ct_config import PACKED, WeightArgs, check_ct_config, read_groups
from .evidence_check import check_evidence
from .generation_settings import check_generation
from .ignore_lists import check_ends, check_ignore_list, check_unquantized
from .missing_tensors import check_siblings, check_tensors
from .quant_config import (
    CONFIG,
    KEY,
    check_awq_config,
    check_config_locations,
    essence,
    find_settings,
)
from .scale_values import check_scales
from .template_check import check_templates
from .tensor_layout import WHOLE_ROW, check_awq_layout, check_ct_layout, usual_group
from .tensor_reader import TensorReader
from .tokenizer_files import check_tokenizer_files
from .weight_files import check_extra_files, read_files

# quant_method as configs spell it -> its name here
SPELLINGS = {"compressed_tensors": "compressed-tensors", "awq_marlin": "awq", "auto_awq": "awq"}
WRITTEN = ("gemm", PACKED)  # the layouts that vLLM reads


@dataclass
class CheckpointReading:
    """The result of the check.

    method: "awq", "compressed-tensors", another's name, "" for an unquantized model
    group: inputs per scale, -1 for a whole row; bits: per code; both by the tensors, else by the
        settings
    zeros: whether readers compute with zero points (8 in every group counts): by the settings, else
        by the tensors. All three are None where nothing says so
    modules: quantized linears; bytes: of all tensors
    findings: ranked
    """

    folder: Path
    config: dict[str, Any]
    method: str
    group: int | None = None
    zeros: bool | None = None
    bits: int | None = None
    modules: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])


def read_checkpoint(folder: Path, *, progress: Progress = silent) -> CheckpointReading:
    """Check `folder`. `progress` counts bytes; its note is the linear.

    Raises ModelError where nothing is known: no config.json, no readable weight file;
    CheckpointError where a file can no longer be read.
    """
    check_folder(folder, sizes=False)
    config = read_json(folder / CONFIG)
    files = read_files(folder)
    locations, findings = find_settings(folder, config)
    settings = locations[0].settings if locations else {}
    where = locations[0].where if locations else f"{CONFIG}: {KEY}"
    contents = CheckpointContents(folder, config, files.tensors, files.lost, settings, where)
    contents.plain = find_plain(files.tensors)
    declared = str(settings.get("quant_method") or "").lower()
    declared = SPELLINGS.get(declared, declared)
    stored = stored_method(files.tensors.values())
    if declared and declared not in SUFFIXES:
        stored = ""  # GPTQ, for one, gives its tensors AWQ's names
    contents.method = stored or declared
    reading = CheckpointReading(folder, config, contents.method)
    declared_sizes = essence(settings)
    reading.group, reading.bits = declared_sizes.get("group_size"), declared_sizes.get("bits")
    reading.bytes = sum(tensor.bytes for tensor in files.tensors.values())
    findings += [*files.findings, *check_extra_files(folder, files)]
    findings += _check_method(contents, declared, stored)
    if stored:
        contents.packed = find_packed(stored, files.tensors)
        layout, more = _check_linears(contents, reading, progress)
        group = reading.group if layout in WRITTEN else None
        findings += more + check_config_locations(contents, locations, group)
    elif not declared:
        findings += _check_plain(contents)
    findings += _check_companions(contents)
    if contents.method:
        findings += check_evidence(contents, reading.group, progress)
    reading.modules = len(contents.packed)
    reading.findings = ranked([*findings, *_complete(contents, reading, findings)])
    return reading


def _check_plain(contents: CheckpointContents) -> list[Finding]:
    """The checks of an unquantized model."""
    return [*check_siblings(contents), *check_config_sizes(contents)]


def _check_companions(contents: CheckpointContents) -> list[Finding]:
    """What loads with the weights: tokenizer, generation settings, chat templates."""
    read, findings = read_companions(contents)
    return [
        *findings,
        *check_tokenizer_files(read),
        *check_generation(read),
        *check_templates(read),
    ]


def _check_method(contents: CheckpointContents, declared: str, stored: str) -> list[Finding]:
    """Whether settings and tensors have the same method, and whether it is judged here."""
    settings, where = contents.settings, contents.where
    key = f"{where}.quant_method"
    if stored and declared and declared != stored:
        return FINDINGS["method-contradicts"].at(
            [(key, declared), _first_codes(contents)],
            count=1,
            steps=change(where, "quant_method", settings.get("quant_method"), stored),
            declared=declared,
            stored=stored,
        )
    if stored and where.startswith(CONFIG) and settings and not declared:
        steps = change(where, "quant_method", None, stored)
        places = [(key, "missing"), _first_codes(contents)]
        return FINDINGS["config-method"].at(places, count=1, steps=steps)
    if stored:
        return []
    kind = settings.get("format") if declared == "compressed-tensors" else PACKED
    if declared in SUFFIXES and kind == PACKED and not contents.lost:
        return FINDINGS["codes-absent"].at([(key, declared)], declared=declared)
    if declared or settings:
        return FINDINGS["method-other"].at(
            [(key, as_json(declared))], name=declared or "an unnamed method"
        )
    return FINDINGS["not-quantized"].at([(f"{CONFIG}: {KEY}", "missing, and no tensor has codes")])


def _first_codes(contents: CheckpointContents) -> Place:
    codes = {suffixes.codes for suffixes in SUFFIXES.values()}
    tensor = next(t for n, t in contents.tensors.items() if n.rpartition(".")[2] in codes)
    return place(tensor), f"{tensor.dtype} {list(tensor.shape)}"


def _check_linears(
    contents: CheckpointContents, reading: CheckpointReading, progress: Progress
) -> tuple[str, list[Finding]]:
    """All checks of quantized linears, and their layout. Fills in the reading's sizes."""
    awq = contents.method == "awq"
    groups = [] if awq else read_groups(contents)
    with TensorReader(progress) as reader:
        linears = contents.packed.values()
        whole = [tensor for p in linears for tensor in (p.scales, p.zeros) if tensor]
        reader.total = sum(tensor.bytes for tensor in whole) + FEW * WINDOW * len(linears)
        dead, findings = check_tails(contents, reader)
        if awq:
            layout, more = check_awq_layout(contents)
            findings += check_awq_config(contents, gemm=layout == "gemm") + more
        else:
            layout = PACKED
            more = check_ct_layout(contents, groups, reader)
            findings += check_ct_config(contents, groups) + more
        reading.group = usual_group(linears) or reading.group
        findings += _check_structure(contents, groups, layout)
        if layout in WRITTEN:
            findings += check_zero_points(contents, groups, reader, dead)
        findings += check_scales(contents, reader, dead)
        findings += check_codes(contents, reader, dead)
        reader.end()
    declared = contents.settings.get("zero_point")
    by_tensors = declared if isinstance(declared, bool) else contents.asymmetric
    reading.zeros = any(not args.symmetric for args in groups) if groups else by_tensors
    measured = [linear.bits for linear in linears if linear.groups]
    reading.bits = max(set(measured), key=measured.count) if measured else reading.bits
    return layout, findings


def _check_structure(
    contents: CheckpointContents, groups: list[WeightArgs], layout: str
) -> list[Finding]:
    """The checks that need headers and settings only."""
    return [
        *check_tensors(contents, groups, layout),
        *check_siblings(contents),
        *check_sizes(contents, groups),
        *check_config_sizes(contents),
        *check_ignore_list(contents),
        *check_unquantized(contents, groups),
        *check_ends(contents),
        *_casts(contents),
    ]


def _casts(contents: CheckpointContents) -> list[Finding]:
    """float16 scales in a bfloat16 model: vLLM logs each tensor, which looks like trouble."""
    dtype = contents.config_value("dtype", "torch_dtype")
    scales = [p.scales for p in contents.packed.values() if p.scales and p.scales.dtype == "F16"]
    cast = scales[:1] if dtype == "bfloat16" else []
    text = f"config.json: dtype {as_json(dtype)}"
    return FINDINGS["dtype-cast"].at(((place(tensor), text) for tensor in cast), count=len(scales))


def _complete(
    contents: CheckpointContents, reading: CheckpointReading, findings: list[Finding]
) -> list[Finding]:
    """The good finding of a checkpoint without faults."""
    if not reading.modules or any(finding.level in BAD for finding in findings):
        return []
    groups = "whole rows" if reading.group == WHOLE_ROW else f"groups of {reading.group}"
    return FINDINGS["checkpoint-whole"].at(
        [(reading.folder.name, f"{reading.bytes} bytes of tensors")],
        linears=Count(reading.modules),
        bits=reading.bits,
        groups=groups,
        zeros="zero points" if contents.asymmetric else "symmetric",
    )
