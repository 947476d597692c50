"""The static check of a quantized checkpoint folder: what is wrong before an engine is started.

Reads config, headers, all scales and zeros, and samples of codes; nothing is dequantized and torch
is not imported. One file a subject beside this one:

    files, beside       index and shards; strays, tokenizer, pickles
    evidence            salient.json
    config, groups      where the settings stand; AWQ's keys; compressed-tensors' groups
    layouts, packed     types and shapes of a linear's tensors, AWQ and compressed-tensors
    sizes, complete     against config.json; tensors and linears that are missing
    skips, kept         the lists of 16-bit modules; 16-bit linears; embedding and head
    bits, values        scales          zeros: zero points          codes: samples, cut files

Methods other than AWQ and packed compressed-tensors get the checks that hold for any folder.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salient.core.model_files import read_json
from salient.core.progress import Progress, silent
from salient.diagnose.finding import BAD, Finding, ranked

from .awq_layout import WHOLE_ROW, check_awq, usual_group
from .code_values import FEW, WINDOW, check_codes, check_tails
from .config_shapes import check_config_sizes, check_sizes
from .contents import (
    SUFFIXES,
    CheckpointContents,
    change,
    find_packed,
    find_plain,
    many,
    place,
    said,
    seen,
    stored_method,
    whole,
)
from .ct_config import PACKED, WeightArgs, check_groups, read_groups
from .ct_layout import check_packed
from .extra_files import check_beside
from .ignore_lists import check_skips
from .missing_tensors import check_siblings, check_tensors
from .quant_config import CONFIG, check_awq_keys, check_places, find_settings, first_of
from .salient_json import check_evidence
from .scale_values import check_scales
from .tensor_reader import TensorReader
from .unquantized_layers import check_ends, check_kept
from .weight_files import FolderContents, read_files
from .zero_points import check_zeros

# quant_method as configs spell it -> as it is called here
SPELLED = {"compressed_tensors": "compressed-tensors", "awq_marlin": "awq", "auto_awq": "awq"}

WRITTEN = ("gemm", PACKED)  # the layouts that vLLM reads


@dataclass
class CheckpointReading:
    """What the check found.

    method: "awq", "compressed-tensors", another's name, "" for a 16-bit model
    group: inputs that share a scale, -1 for a whole row; bits: of a code; both by the tensors, else
        by the settings
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
    findings: list[Finding] = field(default_factory=list)


def read_checkpoint(folder: Path, *, progress: Progress = silent) -> CheckpointReading:
    """Check `folder`. `progress` counts bytes; its note is the linear.

    Raises ModelError where nothing can be said: no config.json, no weight file that can be read;
    CheckpointError where a file cannot be read any more.
    """
    config = read_json(folder / CONFIG)
    held = read_files(folder)
    places, found = find_settings(folder, config)
    settings, where = (places[0].settings, places[0].where) if places else ({}, "")
    contents = _contents(folder, config, held)
    contents.settings, contents.where = settings, where or f"{CONFIG}: quantization_config"
    declared = _declared(settings)
    stored = stored_method(held.tensors.values())
    if declared and declared not in SUFFIXES:
        stored = ""  # GPTQ, for one, gives its tensors AWQ's names
    contents.method = stored or declared
    reading = CheckpointReading(folder, config, contents.method)
    reading.group = whole(first_of(settings, "group_size", "q_group_size"))
    reading.bits = whole(first_of(settings, "bits", "w_bit"))
    reading.bytes = sum(tensor.end - tensor.start for tensor in held.tensors.values())
    found += [*held.findings, *check_beside(folder, held)]
    found += _method(contents, declared, stored)
    if stored:
        contents.packed = find_packed(stored, held.tensors)
        layout, more = _check(contents, reading, progress)
        found += more
        found += check_places(contents, places, reading.group if layout in WRITTEN else None)
    if contents.method:
        found += check_evidence(contents, reading.group)
    reading.modules = len(contents.packed)
    reading.findings = ranked([*found, *_good(contents, reading, found)])
    return reading


def _contents(folder: Path, config: dict[str, Any], held: FolderContents) -> CheckpointContents:
    plain = find_plain(held.tensors)
    return CheckpointContents(folder, config, {}, "", "", held.tensors, held.lost, plain=plain)


def _declared(settings: dict[str, Any]) -> str:
    """The settings' word for the method, as it is called here."""
    method = str(settings.get("quant_method") or "").lower()
    return SPELLED.get(method, method)


def _method(contents: CheckpointContents, declared: str, stored: str) -> list[Finding]:
    """Whether settings and tensors mean the same method, and whether it is judged here."""
    key = f"{contents.where}.quant_method"
    if stored and declared and declared != stored:
        return [_other_method(contents, declared, stored)]
    if stored and contents.where.startswith(CONFIG) and contents.settings and not declared:
        return [
            Finding(
                "config-method",
                "error",
                "The settings do not name the method",
                matters="Readers choose by quant_method and stop, or take the model for a 16-bit "
                "one.",
                do=change(contents.where, "quant_method", None, stored),
                evidence=seen([(key, "missing"), _first_codes(contents)]),
                rank=9,
            )
        ]
    if stored:
        return []
    kind = contents.settings.get("format") if declared == "compressed-tensors" else PACKED
    if declared in SUFFIXES and kind == PACKED and not contents.lost:
        return [_no_codes(contents, declared)]
    if declared or contents.settings:
        words = (
            f"Quantized with {declared or 'a method without a name'}: only its files are checked"
        )
        return [
            Finding("method-other", "note", words, evidence=seen([(key, said(declared))])),
        ]
    return [
        Finding(
            "not-quantized",
            "note",
            "The model is not quantized",
            evidence=seen([(f"{CONFIG}: quantization_config", "missing, and no tensor has codes")]),
        )
    ]


def _first_codes(contents: CheckpointContents) -> tuple[str, str]:
    codes = {names.codes for names in SUFFIXES.values()}
    tensor = next(t for n, t in contents.tensors.items() if n.rpartition(".")[2] in codes)
    return place(tensor), f"{tensor.dtype} {list(tensor.shape)}"


def _other_method(contents: CheckpointContents, declared: str, stored: str) -> Finding:
    return Finding(
        "method-contradicts",
        "error",
        f"The settings say {declared}, the tensors have the names of {stored}",
        matters="Readers look for tensors that are not there.",
        do=change(contents.where, "quant_method", contents.settings.get("quant_method"), stored),
        evidence=seen([(f"{contents.where}.quant_method", declared), _first_codes(contents)]),
        rank=9,
    )


def _no_codes(contents: CheckpointContents, declared: str) -> Finding:
    return Finding(
        "codes-absent",
        "error",
        f"The settings say {declared}, and no linear has codes",
        matters="Readers look for codes that are not there: vLLM stops at the first '.weight'.",
        do=(f"Fetch the weights of the {declared} model, or delete quantization_config.",),
        evidence=seen([(f"{contents.where}.quant_method", declared)]),
        rank=9,
    )


def _check(
    contents: CheckpointContents, reading: CheckpointReading, progress: Progress
) -> tuple[str, list[Finding]]:
    """All checks of quantized linears, and what layout they have. Fills in the reading's sizes."""
    awq = contents.method == "awq"
    groups = [] if awq else read_groups(contents)
    with TensorReader(progress) as reader:
        reader.total = _bytes_to_read(contents)
        dead, found = check_tails(contents, reader)
        if awq:
            layout, more = check_awq(contents)
            found += check_awq_keys(contents, gemm=layout == "gemm")
        else:
            layout, more = PACKED, check_packed(contents, groups, reader)
            found += check_groups(contents, groups)
        found += more
        reading.group = usual_group(contents) or reading.group
        found += _structure(contents, groups, layout)
        if layout in WRITTEN:
            found += check_zeros(contents, groups, reader, dead)
        found += check_scales(contents, reader, dead)
        found += check_codes(contents, reader, dead)
        reader.end()
    reading.zeros = _told_zeros(contents, groups)
    measured = [linear.bits for linear in contents.packed.values() if linear.groups]
    reading.bits = max(set(measured), key=measured.count) if measured else reading.bits
    return layout, found


def _told_zeros(contents: CheckpointContents, groups: list[WeightArgs]) -> bool | None:
    """Whether readers compute with zero points: the settings' word, else the tensors'."""
    said_so = contents.settings.get("zero_point")
    if groups:
        return any(not args.symmetric for args in groups)
    return said_so if isinstance(said_so, bool) else contents.asymmetric


def _structure(
    contents: CheckpointContents, groups: list[WeightArgs], layout: str
) -> list[Finding]:
    """The checks that need headers and settings only."""
    return [
        *check_tensors(contents, groups, layout),
        *check_siblings(contents),
        *check_sizes(contents, groups),
        *check_config_sizes(contents),
        *check_skips(contents),
        *check_kept(contents, groups),
        *check_ends(contents),
        *_casts(contents),
    ]


def _casts(contents: CheckpointContents) -> list[Finding]:
    """float16 scales in a bfloat16 model: vLLM says so once a tensor, which looks like trouble."""
    dtype = contents.word("dtype", "torch_dtype")
    scales = [p.scales for p in contents.packed.values() if p.scales and p.scales.dtype == "F16"]
    if dtype != "bfloat16" or not scales:
        return []
    return [
        Finding(
            "dtype-cast",
            "note",
            "The scales are float16 in a bfloat16 model, as AutoAWQ's layout has them",
            matters='vLLM says for each "Attempted to load weight ... with dtype"; it is harmless.',
            evidence=seen([(place(scales[0]), f"config.json: dtype {said(dtype)}")]),
            count=len(scales),
        )
    ]


def _bytes_to_read(contents: CheckpointContents) -> int:
    """Scales, zeros and samples of codes, as far as headers tell."""
    total = 0
    for linear in contents.packed.values():
        read = [tensor for tensor in (linear.scales, linear.zeros) if tensor]
        total += sum(tensor.end - tensor.start for tensor in read) + FEW * WINDOW
    return total


def _good(
    contents: CheckpointContents, reading: CheckpointReading, found: list[Finding]
) -> list[Finding]:
    """What is right, where nothing is wrong."""
    if not reading.modules or any(finding.level in BAD for finding in found):
        return []
    zeros = "zero points" if contents.asymmetric else "symmetric"
    groups = "whole rows" if reading.group == WHOLE_ROW else f"groups of {reading.group}"
    words = f"{many(reading.modules, 'linear')}, all tensors there, scales finite"
    return [
        Finding(
            "checkpoint-whole",
            "good",
            f"{words}, {reading.bits} bits in {groups}, {zeros}",
            evidence=seen([(reading.folder.name, f"{reading.bytes} bytes of tensors")]),
        )
    ]
