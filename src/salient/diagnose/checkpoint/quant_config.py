"""Where a checkpoint says how it is quantized, and the keys of it that readers disagree on.

AWQ's keys are judged here, compressed-tensors' in groups.py. Readers: vLLM 0.32
(quantization/auto_awq.py: AutoAWQConfig.from_config), Transformers 5 (AwqConfig), AutoAWQ 0.2.9.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salient.core.errors import ModelError
from salient.core.model_files import read_json
from salient.diagnose.finding import Finding

from .contents import CheckpointContents, change, changes, fitting_entries, said, seen, whole

CONFIG = "config.json"
KEY = "quantization_config"
# Older files beside config.json; vLLM reads them only where --quantization is given.
BESIDE = ("quant_config.json", "quantize_config.json")


@dataclass(frozen=True)
class ConfigLocation:
    """One place where settings stand. main: whether every reader of today looks there."""

    where: str
    settings: dict[str, Any]
    main: bool


def find_settings(
    folder: Path, config: dict[str, Any]
) -> tuple[list[ConfigLocation], list[Finding]]:
    """Every place that has settings, the one that counts first; and what is no JSON object."""
    text = config.get("text_config")
    spots: list[tuple[str, Any, bool]] = [
        (f"{CONFIG}: {KEY}", config.get(KEY), True),
        (f"{CONFIG}: text_config.{KEY}", text.get(KEY) if isinstance(text, dict) else None, True),
        (f"{CONFIG}: compression_config", config.get("compression_config"), False),
    ]
    found = []
    for name in BESIDE:
        try:
            spots.append((name, read_json(folder / name), False))
        except ModelError as error:
            if (folder / name).exists():
                found.append(wrong_type(name, str(error), "a JSON object"))
    places = []
    for where, settings, main in spots:
        if isinstance(settings, dict) and settings:
            places.append(ConfigLocation(where, settings, main))
        elif settings is not None and not isinstance(settings, dict):
            found.append(wrong_type(where, said(settings), "a JSON object"))
    return places, found


def wrong_type(where: str, value: str, fits: str) -> Finding:
    return Finding(
        "config-type",
        "error",
        f"{where} is not {fits}",
        matters="Readers stop at it, or take it for something else.",
        do=(f"Write {fits} there, or fetch the file again.",),
        evidence=seen([(where, value)]),
        rank=8,
    )


def check_places(
    contents: CheckpointContents, places: list[ConfigLocation], group: int | None
) -> list[Finding]:
    """Whether readers find the settings at all, and whether those that they find agree."""
    if not places:
        return [_absent(contents, group)] if contents.packed else []
    found = []
    first = places[0]
    if not first.main and contents.packed:
        found.append(_only_beside(contents, first))
    if first.where.startswith(f"{CONFIG}: text_config"):
        found.append(
            Finding(
                "config-nested",
                "note",
                f"{KEY} stands in text_config, not at the top of {CONFIG}",
                matters="vLLM and Transformers look there too; older readers take the model for "
                "a 16-bit one.",
                do=(f"Copy it to the top of {CONFIG}.",),
                evidence=seen([(first.where, said(first.settings))]),
            )
        )
    found += [_contradiction(first, other) for other in places[1:] if _differ(first, other)]
    return found


def _absent(contents: CheckpointContents, group: int | None) -> Finding:
    """No settings; `group` is that of the tensors, None where no settings would make them fit."""
    linear = next(iter(contents.packed.values()))
    tensor = linear.codes or next(iter(linear.parts.values()))
    return Finding(
        "config-missing",
        "error",
        f"{CONFIG} has no {KEY}, but the tensors have codes",
        matters="Readers build a 16-bit model and find no place for the codes: vLLM stops with "
        f"\"There is no module or parameter named '...{linear.suffixes.codes}'\".",
        do=change(CONFIG, KEY, None, _proposed(contents, group)) if group and group > 0 else (),
        evidence=seen([(f"{CONFIG}: {KEY}", "missing"), (tensor.path.name, tensor.name)]),
        rank=9,
    )


def _proposed(contents: CheckpointContents, group: int) -> dict[str, Any]:
    """The settings that fit the tensors, in the words of their format's writers."""
    left = ["lm_head", *fitting_entries(contents, list(contents.linears))]
    if contents.method == "awq":
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": left,
        }
    symmetric = not any(linear.zeros for linear in contents.packed.values())
    weights = {
        "num_bits": 4,
        "type": "int",
        "strategy": "group",
        "group_size": group,
        "symmetric": symmetric,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": left,
    }


def _only_beside(contents: CheckpointContents, place: ConfigLocation) -> Finding:
    """Settings that some readers find: vLLM knows compression_config, and the files when told."""
    known = place.where.startswith(CONFIG)
    told = () if known else (f"Or: vllm serve ... --quantization {contents.method}",)
    return Finding(
        "config-beside",
        "error",
        f"Only {place.where} says that the model is quantized, {KEY} does not",
        matters="Transformers does not read it and builds a 16-bit model; vLLM "
        + ("does." if known else "does only where it is told the method."),
        do=(
            *change(CONFIG, KEY, None, {"quant_method": contents.method} | place.settings),
            *told,
        ),
        evidence=seen([(place.where, said(place.settings)), (f"{CONFIG}: {KEY}", "missing")]),
        rank=9,
    )


def essence(settings: dict[str, Any]) -> dict[str, Any]:
    """What of the settings changes how tensors are read, by one set of words."""
    words = {
        "bits": whole(first_of(settings, "bits", "w_bit")),
        "group_size": whole(first_of(settings, "group_size", "q_group_size")),
        "zero_point": settings.get("zero_point"),
    }
    return {key: value for key, value in words.items() if value is not None}


def first_of(settings: dict[str, Any], *keys: str) -> Any:
    return next((settings[key] for key in keys if settings.get(key) is not None), None)


def _differ(one: ConfigLocation, other: ConfigLocation) -> bool:
    a, b = essence(one.settings), essence(other.settings)
    return any(a[key] != b[key] for key in a.keys() & b.keys())


def _contradiction(one: ConfigLocation, other: ConfigLocation) -> Finding:
    return Finding(
        "config-contradicts",
        "warning",
        f"{other.where} contradicts {one.where}",
        matters="Readers of today take the latter, older ones and conversion tools the former.",
        do=(f"Delete {other.where}, or make it say the same.",),
        evidence=seen(
            (place.where, ", ".join(f"{k} {said(v)}" for k, v in essence(place.settings).items()))
            for place in (one, other)
        ),
        rank=30,
    )


def check_awq_keys(contents: CheckpointContents, *, gemm: bool) -> list[Finding]:
    """The keys of an AWQ config. `gemm`: the tensors have that layout."""
    found = []
    if not contents.settings:
        return found
    if contents.settings.get("zero_point") is None:
        found.append(
            Finding(
                "config-zero-point",
                "error",
                "The settings have no zero_point",
                matters="vLLM stops: \"Cannot find any of ['zero_point'] in the model's "
                'quantization config."',
                do=change(contents.where, "zero_point", None, True),  # noqa: FBT003
                evidence=seen([(f"{contents.where}.zero_point", "missing")]),
                rank=12,
            )
        )
    found += [*_types(contents), *_spellings(contents), *_legacy(contents)]
    return [*found, *_version(contents)] if gemm else found


def _types(contents: CheckpointContents) -> list[Finding]:
    checks = (
        ("bits", ("bits", "w_bit"), lambda v: type(v) is int, "a whole number"),
        ("group_size", ("group_size", "q_group_size"), lambda v: type(v) is int, "a whole number"),
        ("zero_point", ("zero_point",), lambda v: type(v) is bool, "true or false"),
    )
    found = []
    for name, keys, fits, words in checks:
        value = first_of(contents.settings, *keys)
        if value is not None and not fits(value):
            found.append(wrong_type(f"{contents.where}.{name}", said(value), words))
        elif value is None and name != "zero_point":
            found.append(wrong_type(f"{contents.where}.{name}", "missing", words))
    return found


def _spellings(contents: CheckpointContents) -> list[Finding]:
    """w_bit and q_group_size, which vLLM and AutoAWQ read and Transformers does not."""
    old = {"w_bit": "bits", "q_group_size": "group_size"}
    settings = contents.settings
    only = {key: new for key, new in old.items() if key in settings and new not in settings}
    if not only:
        return []
    usual = {"w_bit": 4, "q_group_size": 128}
    wrong = any(settings[key] != usual[key] for key in only)
    return [
        Finding(
            "config-spelling",
            "error" if wrong else "note",
            f"{', '.join(only)} are AutoAWQ's own words",
            matters="Transformers does not know them and takes 4 bits and groups of 128"
            + (", which is wrong here." if wrong else ", which happens to be right."),
            do=changes(contents.where, *((new, None, settings[key]) for key, new in only.items())),
            evidence=seen((f"{contents.where}.{key}", said(settings[key])) for key in only),
            rank=14,
        )
    ]


def _version(contents: CheckpointContents) -> list[Finding]:
    version = first_of(contents.settings, "version", "format")
    if version is None or str(version).lower() == "gemm":
        return []
    return [
        Finding(
            "config-version",
            "warning",
            f"The settings call the layout {said(version)}",
            matters="vLLM ignores the word and reads GEMM; Transformers and AutoAWQ choose kernels "
            "by it, which read other layouts.",
            do=change(contents.where, "version", version, "gemm"),
            evidence=seen([(f"{contents.where}.version", said(version))]),
            rank=25,
        )
    ]


def _legacy(contents: CheckpointContents) -> list[Finding]:
    """Keys that AWQ's settings inherit from GPTQ's and that mean nothing for AWQ."""
    settings = contents.settings
    odd = []
    if settings.get("sym") is True and settings.get("zero_point") is True:
        odd.append(("sym", "true, though zero_point is true"))
    if settings.get("desc_act"):
        odd.append(("desc_act", f"{said(settings['desc_act'])}, but AWQ has no activation order"))
    return [
        Finding(
            "config-legacy",
            "note",
            f"{key} means nothing in AWQ's settings",
            matters="vLLM does not read it. Transformers hands it on to GPTQModel.",
            do=(f"Delete it from {contents.where}.",),
            evidence=seen([(f"{contents.where}.{key}", words)]),
        )
        for key, words in odd
    ]
