"""compressed-tensors' settings: config_groups, their targets and the list `ignore`.

Judged as vLLM 0.32 reads them (quantization/compressed_tensors/compressed_tensors.py, utils.py).
"""

import re
from dataclasses import dataclass
from typing import Any

from salient.diagnose.finding import Finding

from .contents import CheckpointContents, change, engine_names, names, said, seen, whole
from .quant_config import wrong_type

PACKED = "pack-quantized"
STRATEGIES = ("group", "channel")


@dataclass(frozen=True)
class WeightArgs:
    """One config group's words about weights.

    where: its place in config.json; group: inputs that share a scale, -1 a whole row, None unknown
    """

    where: str
    targets: tuple[str, ...]
    format: str
    weights: dict[str, Any]
    inputs: bool

    @property
    def bits(self) -> int | None:
        return whole(self.weights.get("num_bits"))

    @property
    def group(self) -> int | None:
        if self.weights.get("strategy") == "channel":
            return -1
        return whole(self.weights.get("group_size"))

    @property
    def symmetric(self) -> bool:
        """compressed-tensors' default is symmetric (QuantizationArgs)."""
        return self.weights.get("symmetric") is not False


def read_groups(contents: CheckpointContents) -> list[WeightArgs]:
    """The config groups that have weights; what has a wrong type is left out."""
    groups = contents.settings.get("config_groups")
    found = []
    for name, group in groups.items() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            kind = group.get("format") or contents.settings.get("format")
            where = f"{contents.where}.config_groups.{name}"
            targets = tuple(names(group.get("targets")))
            inputs = bool(group.get("input_activations"))
            found.append(WeightArgs(where, targets, str(kind), weights, inputs))
    return found


def matches(module: str, entry: str) -> bool:
    """Whether an entry of `targets` or `ignore` names `module`: equal, or `re:` and a pattern."""
    if not entry.startswith("re:"):
        return entry == module
    try:
        return re.match(entry[3:], module) is not None
    except (re.error, RecursionError, OverflowError):
        return False


def args_of(module: str, groups: list[WeightArgs]) -> WeightArgs | None:
    """The group that a linear falls under: by its name first, then by the class `Linear`."""
    for wanted in engine_names(module)[::-1]:
        for args in groups:
            if any(matches(wanted, target) for target in args.targets):
                return args
    return next((a for a in groups if any("linear" in t.lower() for t in a.targets)), None)


def check_groups(contents: CheckpointContents, groups: list[WeightArgs]) -> list[Finding]:
    """What of the settings stops readers, whatever the tensors are."""
    settings = contents.settings
    if not settings:
        return []
    listed = settings.get("config_groups")
    where = f"{contents.where}.config_groups"
    if not isinstance(listed, dict) or not listed:
        return [wrong_type(where, said(listed), "a JSON object with one group at least")]
    found = []
    if not isinstance(settings.get("format"), str) and not all(a.format != "None" for a in groups):
        found.append(_no_format(contents))
    for name, group in listed.items():
        place = f"{where}.{name}"
        if not isinstance(group, dict) or not isinstance(group.get("weights"), dict):
            found.append(wrong_type(f"{place}.weights", said(group), "a JSON object"))
        elif not names(group.get("targets")) or len(names(group["targets"])) != len(
            group["targets"]
        ):
            found.append(
                wrong_type(
                    f"{place}.targets", said(group.get("targets")), 'a list such as ["Linear"]'
                )
            )
    for args in groups:
        found += _check_args(args)
    return found


def _no_format(contents: CheckpointContents) -> Finding:
    return Finding(
        "config-format",
        "error",
        "The settings do not say in which format the codes are packed",
        matters="vLLM chooses the scheme by it and finds none.",
        do=change(contents.where, "format", contents.settings.get("format"), PACKED),
        evidence=seen([(f"{contents.where}.format", said(contents.settings.get("format")))]),
        rank=9,
    )


def _check_args(args: WeightArgs) -> list[Finding]:
    """One group's words about weights; only pack-quantized integers are judged."""
    if args.format not in (PACKED, "None") or args.inputs or args.weights.get("type") == "float":
        return []
    found = []
    where, weights = f"{args.where}.weights", args.weights
    strategy, size = weights.get("strategy"), weights.get("group_size")
    if strategy is not None and strategy not in STRATEGIES:
        found.append(
            Finding(
                "config-strategy",
                "error",
                f"strategy is {said(strategy)}; {' or '.join(STRATEGIES)} can be run",
                matters="vLLM's packed scheme takes a scale a group or a row, nothing else.",
                do=change(where, "strategy", strategy, "group"),
                evidence=seen([(f"{where}.strategy", said(strategy))]),
                rank=12,
            )
        )
    if type(weights.get("num_bits")) is not int:
        found.append(
            wrong_type(f"{where}.num_bits", said(weights.get("num_bits")), "a whole number")
        )
    if strategy != "channel" and (type(size) is not int or size < 1):
        found.append(wrong_type(f"{where}.group_size", said(size), "a number of inputs"))
    if type(weights.get("symmetric", True)) is not bool:
        found.append(wrong_type(f"{where}.symmetric", said(weights["symmetric"]), "true or false"))
    if weights.get("actorder") in ("group", "dynamic", True):
        found.append(
            Finding(
                "config-actorder",
                "error",
                f"Activation order {said(weights['actorder'])} is no longer supported",
                matters='vLLM 0.32 stops: "Compressed-tensors group/dynamic activation ordering".',
                do=("Quantize again with actorder null, static or weight.",),
                evidence=seen([(f"{where}.actorder", said(weights["actorder"]))]),
                rank=12,
            )
        )
    return found
