"""The quantization config: its locations, and the keys of AWQ's on which readers disagree.

Readers: vLLM 0.32 (quantization/auto_awq.py: AutoAWQConfig.from_config), Transformers 5
(AwqConfig), AutoAWQ 0.2.9.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salient.core.errors import ModelError
from salient.core.model_files import as_object, read_json
from salient.diagnose.finding import Finding

from .contents import (
    FINDINGS,
    CheckpointContents,
    as_integer,
    as_json,
    change,
    changes,
    fitting_entries,
)

CONFIG = "config.json"
KEY = "quantization_config"
OLD_KEYS = {"bits": "w_bit", "group_size": "q_group_size"}
# Older files next to config.json; vLLM reads them only with --quantization.
OTHER_FILES = ("quant_config.json", "quantize_config.json")


@dataclass(frozen=True)
class ConfigLocation:
    """A place with settings. main: whether every reader of today looks there."""

    where: str
    settings: dict[str, Any]
    main: bool


def find_settings(
    folder: Path, config: dict[str, Any]
) -> tuple[list[ConfigLocation], list[Finding]]:
    """Every place with settings, the one that counts first; and values that are no JSON object."""
    text = as_object(config.get("text_config"))
    spots: list[tuple[str, Any, bool]] = [
        (f"{CONFIG}: {KEY}", config.get(KEY), True),
        (f"{CONFIG}: text_config.{KEY}", text.get(KEY), True),
        (f"{CONFIG}: compression_config", config.get("compression_config"), False),
    ]
    findings: list[Finding] = []
    for name in OTHER_FILES:
        try:
            spots.append((name, read_json(folder / name), False))
        except ModelError as error:
            if (folder / name).exists():
                findings += wrong_type(name, str(error), "a JSON object")
    locations: list[ConfigLocation] = []
    for where, settings, main in spots:
        if as_object(settings):
            locations.append(ConfigLocation(where, as_object(settings), main))
        elif settings is not None and not isinstance(settings, dict):
            findings += wrong_type(where, as_json(settings), "a JSON object")
    return locations, findings


def wrong_type(where: str, text: str, fits: str) -> list[Finding]:
    return FINDINGS["config-type"].at([(where, text)], where=where, fits=fits)


def check_config_locations(
    contents: CheckpointContents, locations: list[ConfigLocation], group: int | None
) -> list[Finding]:
    """Whether readers find the settings at all, and whether those that they find agree.

    group: the tensors' group size, None where no settings would make them fit
    """
    if not locations:
        return _no_config(contents, group) if contents.packed else []
    first = locations[0]
    findings = [] if first.main or not contents.packed else _other_location(contents, first)
    if first.where.startswith(f"{CONFIG}: text_config"):
        findings += FINDINGS["config-nested"].at([(first.where, as_json(first.settings))])
    for other in locations[1:]:
        ours, theirs = essence(first.settings), essence(other.settings)
        if any(ours[key] != theirs[key] for key in ours.keys() & theirs.keys()):
            places = [
                (where, ", ".join(f"{key} {as_json(value)}" for key, value in values.items()))
                for where, values in ((first.where, ours), (other.where, theirs))
            ]
            findings += FINDINGS["config-contradicts"].at(
                places, count=1, first=first.where, other=other.where
            )
    return findings


def _no_config(contents: CheckpointContents, group: int | None) -> list[Finding]:
    linear = next(iter(contents.packed.values()))
    valid = group is not None and group > 0
    return FINDINGS["config-missing"].at(
        [(f"{CONFIG}: {KEY}", "missing"), (linear.first.path.name, linear.first.name)],
        count=1,
        steps=change(CONFIG, KEY, None, _proposed(contents, group)) if valid else (),
        codes=linear.suffixes.codes,
    )


def _proposed(contents: CheckpointContents, group: int | None) -> dict[str, Any]:
    """The settings that fit the tensors, spelled as their format's writers do."""
    skip = ["lm_head", *fitting_entries(contents, contents.linears)]
    if contents.method == "awq":
        return {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": skip,
        }
    weights = {
        "num_bits": 4,
        "type": "int",
        "strategy": "group",
        "group_size": group,
        "symmetric": not any(linear.zeros for linear in contents.packed.values()),
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": skip,
    }


def _other_location(contents: CheckpointContents, location: ConfigLocation) -> list[Finding]:
    """vLLM reads compression_config, and the other files only with --quantization."""
    known = location.where.startswith(CONFIG)
    steps = change(CONFIG, KEY, None, {"quant_method": contents.method} | location.settings)
    if not known:
        steps += (f"Or: vllm serve ... --quantization {contents.method}",)
    return FINDINGS["config-beside"].at(
        [(location.where, as_json(location.settings)), (f"{CONFIG}: {KEY}", "missing")],
        count=1,
        steps=steps,
        where=location.where,
        vllm="does" if known else "does only with --quantization",
    )


def essence(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that change how tensors are read, under one spelling."""
    values = {key: as_integer(first_of(settings, key, old)) for key, old in OLD_KEYS.items()}
    values["zero_point"] = settings.get("zero_point")
    return {key: value for key, value in values.items() if value is not None}


def first_of(settings: dict[str, Any], *keys: str) -> Any:
    return next((settings[key] for key in keys if settings.get(key) is not None), None)


def check_awq_config(contents: CheckpointContents, *, gemm: bool) -> list[Finding]:
    """The keys of an AWQ config. `gemm`: the tensors have that layout."""
    settings, where = contents.settings, contents.where
    if not settings:
        return []
    findings: list[Finding] = []
    if settings.get("zero_point") is None:
        steps = change(where, "zero_point", None, new=True)
        findings += FINDINGS["config-zero-point"].at(
            [(f"{where}.zero_point", "missing")], steps=steps
        )
    findings += [*_types(settings, where), *_spellings(settings, where)]
    legacy: dict[str, str] = {}  # keys of GPTQ's settings that mean nothing for AWQ
    if settings.get("sym") is True and settings.get("zero_point") is True:
        legacy["sym"] = "true, though zero_point is true"
    if order := settings.get("desc_act"):
        legacy["desc_act"] = f"{as_json(order)}, but AWQ has no activation order"
    for key, text in legacy.items():
        findings += FINDINGS["config-legacy"].at([(f"{where}.{key}", text)], key=key, where=where)
    version = first_of(settings, "version", "format")
    if gemm and version is not None and str(version).lower() != "gemm":
        findings += FINDINGS["config-version"].at(
            [(f"{where}.version", as_json(version))],
            steps=change(where, "version", version, "gemm"),
            version=as_json(version),
        )
    return findings


def _types(settings: dict[str, Any], where: str) -> list[Finding]:
    findings: list[Finding] = []
    for name, old in OLD_KEYS.items():
        value = first_of(settings, name, old)
        if type(value) is not int:
            text = "missing" if value is None else as_json(value)
            findings += wrong_type(f"{where}.{name}", text, "a whole number")
    zero = settings.get("zero_point")
    if zero is not None and type(zero) is not bool:
        findings += wrong_type(f"{where}.zero_point", as_json(zero), "true or false")
    return findings


def _spellings(settings: dict[str, Any], where: str) -> list[Finding]:
    """w_bit and q_group_size, which vLLM and AutoAWQ read and Transformers does not."""
    defaults = {"w_bit": 4, "q_group_size": 128}
    only = {k: new for new, k in OLD_KEYS.items() if k in settings and new not in settings}
    wrong = any(settings[key] != defaults[key] for key in only)
    return FINDINGS["config-spelling"].at(
        [(f"{where}.{key}", as_json(settings[key])) for key in only],
        count=1,
        steps=changes(where, *((new, None, settings[key]) for key, new in only.items())),
        level="error" if wrong else None,
        keys=", ".join(only),
        effect="is wrong here" if wrong else "happens to be right",
    )
