"""Select and check what the options leave open: dtype, scheme, linears to quantize."""

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from salient.core.dtypes import SIXTEEN_BITS, stored_sixteen_bits
from salient.core.errors import ShapeError
from salient.core.scheme import GROUP_SIZES, Scheme, largest_scheme, parse_scheme
from salient.models.skeleton import Skeleton
from salient.models.stored_types import main_type
from salient.models.weight_map import ParameterFiles

STORED_SIXTEEN_BITS = {"F16": torch.float16, "BF16": torch.bfloat16}
ACROSS = 8  # AutoAWQ packs eight outputs a word


def written_dtype(files: ParameterFiles, name: str) -> tuple[torch.dtype, str]:
    """The 16-bit type of the checkpoint, and why; 'auto' is the source's own.

    The source's is its config's, else that of its tensors. A float32 source becomes bfloat16, which
    has float32's range. Raises ShapeError for other names.
    """
    if name != "auto":
        if name not in SIXTEEN_BITS:
            raise ShapeError(f"Unknown dtype {name!r}. Known: auto, {', '.join(SIXTEEN_BITS)}.")
        return SIXTEEN_BITS[name], "as asked"
    named = stored_sixteen_bits(files.source.config)
    if named is not None:
        return named, "as config.json says"
    stored = main_type(files)
    if stored in STORED_SIXTEEN_BITS:
        return STORED_SIXTEEN_BITS[stored], "as the tensors are stored"
    return torch.bfloat16, f"the source is {stored}, and bfloat16 has the range of float32"


@dataclass(frozen=True)
class LayerSelection:
    """The scheme with its reason, the linears to quantize, and unquantized ones with reasons."""

    scheme: Scheme
    reason: str
    quantized: frozenset[str]
    left: dict[str, str]


def choose_layers(
    skeleton: Skeleton, scheme: str, format: str, skip: tuple[str, ...]
) -> LayerSelection:
    """Select the scheme and the linears to quantize.

    Raises ShapeError naming the layer or pattern that does not fit.
    """
    linears, left = {}, {}
    for index, block in enumerate(skeleton.blocks):
        linears |= {f"{block}.{name}": linear for name, linear in skeleton.linears(index).items()}
        left |= {f"{block}.{name}": why for name, why in skeleton.unfit(index).items()}
    _check_patterns(skip, [*linears, *skeleton.outer_modules()], next(iter(linears)))
    left |= {n: f"--skip {p}" for n in linears for p in skip if matches(n, p)}
    _check_experts(linears, left)
    wanted = {n: m for n, m in linears.items() if n not in left}
    if not wanted:
        raise ShapeError("--skip names every linear of the model: nothing is left to quantize.")
    smallest = Scheme(GROUP_SIZES[-1])
    selected = smallest if scheme == "auto" else parse_scheme(scheme)
    _check_sizes(wanted, selected, format)
    reason = "as asked"
    if scheme == "auto":
        selected, reason = largest_scheme({n: m.in_features for n, m in wanted.items()})
    return LayerSelection(selected, reason, frozenset(wanted), left)


def _check_sizes(linears: dict[str, nn.Linear], scheme: Scheme, format: str) -> None:
    """Refuse linears that do not fit `scheme` or `format`, naming the patterns that skip all."""
    size = scheme.group_size
    narrow = {n: m.in_features for n, m in linears.items() if m.in_features % size}
    uneven = {
        n: m.out_features for n, m in linears.items() if m.out_features % ACROSS and format == "awq"
    }
    skips = " ".join(f"--skip {p!r}" for p in dict.fromkeys(map(_skip_pattern, narrow | uneven)))
    if narrow:
        name, width = next(iter(narrow.items()))
        sizes = [g for g in GROUP_SIZES if not any(w % g for w in narrow.values())]
        advice = [f"use group size {' or '.join(map(str, sizes))}"] if sizes else []
        if len(narrow) < len(linears) or not sizes:
            advice.append(f"leave all that do not fit unquantized with {skips}")
        raise ShapeError(
            f"{name!r} has {width} input features, not a multiple of the group size {size}"
            f"{_and_others(narrow)}: {', or '.join(advice)}."
        )
    if uneven:
        name, rows = next(iter(uneven.items()))
        raise ShapeError(
            f"{name!r} has {rows} outputs; the awq format packs {ACROSS} a word"
            f"{_and_others(uneven)}. Use --format compressed-tensors, or leave all that do not fit "
            f"unquantized with {skips}."
        )


def _and_others(names: dict[str, int]) -> str:
    return f" ({len(names) - 1} other linears do not fit either)" if len(names) > 1 else ""


def _skip_pattern(name: str) -> str:
    """The --skip pattern that leaves all linears like `name` unquantized."""
    if ".experts." in name:
        return "*.experts.*"
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _check_experts(linears: dict[str, Any], left: dict[str, str]) -> None:
    """Refuse to skip only some experts of a block: engines store them as one stack."""
    stacks: dict[str, list[str]] = {}
    for name in linears:
        home, expert, _ = name.rpartition(".experts.")
        if expert:
            stacks.setdefault(home, []).append(name)
    for home, names in stacks.items():
        some = [name for name in names if name in left]
        if some and len(some) < len(names):
            raise ShapeError(
                f"{left[some[0]]} leaves {some[0]!r} unquantized, but not all of {home}.experts. "
                "Engines store the experts of a block as one stack: leave all unquantized with "
                "--skip '*.experts.*', or none."
            )


def _check_patterns(skip: tuple[str, ...], names: list[str], example: str) -> None:
    for pattern in skip:
        if not any(matches(name, pattern) for name in names):
            raise ShapeError(
                f"--skip {pattern!r} names no linear of the model. Its linears are called like "
                f"{example!r}."
            )


def matches(name: str, pattern: str) -> bool:
    """Whether --skip `pattern` means the linear `name`: all of it, its last parts, or a glob."""
    return (
        name == pattern
        or name.endswith(f".{pattern}")
        or fnmatch(name, pattern)
        or fnmatch(name, f"*.{pattern}")
    )
