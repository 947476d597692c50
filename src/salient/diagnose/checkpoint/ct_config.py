"""compressed-tensors' settings: config_groups, their targets and the list `ignore`.

Judged as vLLM 0.32 reads them (quantization/compressed_tensors/compressed_tensors.py, utils.py).
"""

import re
from dataclasses import dataclass
from typing import Any

from salient.core.model_files import as_object
from salient.diagnose.finding import Finding

from .contents import (
    FINDINGS,
    CheckpointContents,
    as_integer,
    as_json,
    change,
    engine_names,
    strings,
)
from .quant_config import wrong_type

PACKED = "pack-quantized"
STRATEGIES = ("group", "channel")


@dataclass(frozen=True)
class WeightArgs:
    """The weight settings of one config group. where: its place in config.json."""

    where: str
    targets: tuple[str, ...]
    format: str
    weights: dict[str, Any]
    inputs: bool

    @property
    def bits(self) -> int | None:
        return as_integer(self.weights.get("num_bits"))

    @property
    def group(self) -> int | None:
        """Inputs per scale, -1 for a whole row, None where unknown."""
        if self.weights.get("strategy") == "channel":
            return -1
        return as_integer(self.weights.get("group_size"))

    @property
    def symmetric(self) -> bool:
        """compressed-tensors' default is symmetric (QuantizationArgs)."""
        return self.weights.get("symmetric") is not False


def read_groups(contents: CheckpointContents) -> list[WeightArgs]:
    """The config groups with weights; those of a wrong type are left out."""
    groups = as_object(contents.settings.get("config_groups"))
    args: list[WeightArgs] = []
    for name, group in ((name, as_object(value)) for name, value in groups.items()):
        if isinstance(group.get("weights"), dict):
            kind = group.get("format") or contents.settings.get("format")
            where = f"{contents.where}.config_groups.{name}"
            targets = tuple(strings(group.get("targets")))
            inputs = bool(group.get("input_activations"))
            args.append(WeightArgs(where, targets, str(kind), group["weights"], inputs))
    return args


def matches(module: str, entry: str) -> bool:
    """Whether an entry of `targets` or `ignore` names `module`: equal, or `re:` and a pattern."""
    if not entry.startswith("re:"):
        return entry == module
    try:
        return re.match(entry[3:], module) is not None
    except (re.error, RecursionError, OverflowError):
        return False


def args_of(module: str, groups: list[WeightArgs]) -> WeightArgs | None:
    """The group of a linear: by its name first, then by the class `Linear`."""
    for name in engine_names(module)[::-1]:
        for args in groups:
            if any(matches(name, target) for target in args.targets):
                return args
    return next((a for a in groups if any("linear" in t.lower() for t in a.targets)), None)


def check_ct_config(contents: CheckpointContents, groups: list[WeightArgs]) -> list[Finding]:
    """Settings that stop readers, whatever the tensors are."""
    settings = contents.settings
    if not settings:
        return []
    listed = as_object(settings.get("config_groups"))
    where = f"{contents.where}.config_groups"
    if not listed:
        text = as_json(settings.get("config_groups"))
        return wrong_type(where, text, "a JSON object with at least one group")
    findings: list[Finding] = []
    kind = settings.get("format")
    if not isinstance(kind, str) and any(args.format == "None" for args in groups):
        place = (f"{contents.where}.format", as_json(kind))
        steps = change(contents.where, "format", kind, PACKED)
        findings += FINDINGS["config-format"].at([place], steps=steps)
    for name, group in listed.items():
        if not isinstance(as_object(group).get("weights"), dict):
            findings += wrong_type(f"{where}.{name}.weights", as_json(group), "a JSON object")
            continue
        targets = group.get("targets")
        if not targets or not isinstance(targets, list) or strings(targets) != targets:
            fits = 'a list such as ["Linear"]'
            findings += wrong_type(f"{where}.{name}.targets", as_json(targets), fits)
    return findings + [finding for args in groups for finding in _check_args(args)]


def _check_args(args: WeightArgs) -> list[Finding]:
    """One group's weight settings; only pack-quantized integers are judged."""
    weights, where = args.weights, f"{args.where}.weights"
    if args.format not in (PACKED, "None") or args.inputs or weights.get("type") == "float":
        return []
    findings: list[Finding] = []
    strategy, size = weights.get("strategy"), weights.get("group_size")
    if strategy is not None and strategy not in STRATEGIES:
        findings += FINDINGS["config-strategy"].at(
            [(f"{where}.strategy", as_json(strategy))],
            steps=change(where, "strategy", strategy, "group"),
            strategy=as_json(strategy),
        )
    sized = type(size) is int and size >= 1
    types = (
        ("num_bits", type(weights.get("num_bits")) is int, "a whole number"),
        ("group_size", strategy == "channel" or sized, "a number of inputs"),
        ("symmetric", type(weights.get("symmetric", True)) is bool, "true or false"),
    )
    for key, valid, fits in types:
        if not valid:
            findings += wrong_type(f"{where}.{key}", as_json(weights.get(key)), fits)
    order = weights.get("actorder")
    if order in ("group", "dynamic", True):
        findings += FINDINGS["config-actorder"].at(
            [(f"{where}.actorder", as_json(order))], order=as_json(order)
        )
    return findings
