"""What decides before the table of kernels is tried: why vLLM stops, or takes the slow kernel.

A gate is a row of gates.json with a condition; the first one that applies counts. PRECONDITIONS
stop vLLM before it looks at a matrix: config/model.py (the match of --quantization), config/vllm.py
(capability and types), platforms/*.py and the get_min_capability of each method's file in
layers/quantization, of vLLM 0.32. AWQ_GATES and GPTQ_GATES leave a matrix to the slow kernel:
auto_awq.py (before 0.24 awq.py, awq_marlin.py) and auto_gptq.py (gptq.py, gptq_marlin.py) there.

On Intel's devices AWQ and GPTQ ran by its extension for PyTorch first, and after that not at all
until vLLM had kernels of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from salient.plan.gpus import Vendor
from salient.shapes.model_shape import ModelShape

from .rows import read_table
from .sharding import MatrixShard, expert_widths, shards
from .types import ServingTarget, WeightPacking, dotted
from .versions import (
    AUTO_AWQ,
    AUTO_GPTQ,
    EVER,
    HUMMING_METHOD,
    NEVER,
    OLDEST,
    Version,
    release_name,
)

MARLIN_GROUPS = (-1, 32, 64, 128)
_TABLE, _TEXTS = read_table("gates.json")
# a step whose sizes `route` fills in, after trying them
REGROUP, NO_GROUP = _TEXTS["regroup"], _TEXTS["no-group"]
OTHER_ENGINES = _TEXTS["other-engines"]
ODD_WIDTHS = _TEXTS["odd-widths"]
Subject = TypeVar("Subject", ModelShape, MatrixShard)
Reason = tuple[str, ...]  # why, then what to do, one step each
Outcome = Mapping[str, object] | bool  # whether a gate is closed; values of its texts


@dataclass(frozen=True)
class Gate(Generic[Subject]):
    """A row.

    check: whether it is closed; in the table `when`, by default always
    why, do: the reason; braces: target, packing, shard, release, since, method, or values of
        `check`
    methods, vendors: () for all; since, until: releases
    local: whether the reason is about one matrix's widths
    """

    check: Callable[[ServingTarget, WeightPacking, Subject], Outcome]
    why: str
    do: tuple[str, ...]
    methods: tuple[str, ...] = ()
    vendors: tuple[Vendor, ...] = ()
    since: Version = OLDEST
    until: Version = EVER
    local: bool = False

    def reason(self, target: ServingTarget, packing: WeightPacking, subject: Subject) -> Reason:
        """The reason where the gate applies and is closed, else ()."""
        applies = (
            (not self.methods or packing.method in self.methods)
            and (not self.vendors or target.gpu.vendor in self.vendors)
            and self.since <= target.version < self.until
        )
        outcome = applies and self.check(target, packing, subject)
        if not outcome:
            return ()
        values = {
            "target": target,
            "packing": packing,
            "shard": subject,
            "release": release_name(target.version),
            "since": release_name(self.since),
            "method": packing.method.upper(),
            "groups": "{groups}",
            **(outcome if isinstance(outcome, Mapping) else {}),
        }
        return tuple(text.format_map(values) for text in (self.why, *self.do))


def first_closed(
    gates: tuple[Gate[Subject], ...],
    target: ServingTarget,
    packing: WeightPacking,
    subject: Subject,
) -> tuple[Gate[Subject] | None, Reason]:
    """The first gate that is closed, and the reason."""
    for gate in gates:
        if reason := gate.reason(target, packing, subject):
            return gate, reason
    return None, ()


# Values of --quantization that fit a checkpoint's own method.
FORCED: dict[str, tuple[str, ...]] = {row["method"]: row["values"] for row in _TABLE["forced"]}
NAMED_SINCE = {"auto_awq": AUTO_AWQ, "auto_gptq": AUTO_GPTQ}


def _mismatch(target: ServingTarget, packing: WeightPacking, _: object) -> bool:
    forced, vendor = target.forced, target.gpu.vendor
    awq_on_cpu = packing.method == "awq" and vendor == "cpu"
    # before 0.24 AWQ's CPU loaders took the model whatever the flag said
    if not forced or (awq_on_cpu and target.version < AUTO_AWQ):
        return False
    known = ("awq",) if awq_on_cpu else FORCED.get(packing.method, ())
    if packing.grouped and vendor == "nvidia" and target.version >= HUMMING_METHOD:
        known = (*known, "humming")
    return forced not in known or target.version < NAMED_SINCE.get(forced, NEVER)


def _least_capability(target: ServingTarget, packing: WeightPacking, _: object) -> Outcome:
    """The first row of the method counts whose release is not newer."""
    least: int = next(
        row["capability"]
        for row in _TABLE["least"]
        if row["method"] == packing.method and row.get("since", OLDEST) <= target.version
    )
    label = "16-bit weights" if packing.method == "none" else packing.method
    return target.capability < least and {"label": label, "dotted": dotted(least)}


def _gptq_codes(_: ServingTarget, packing: WeightPacking, __: object) -> Outcome:
    unsupported = packing.zeros or packing.bits not in (4, 8)
    return unsupported and {"symmetric": not packing.zeros}


def _input_dtype(target: ServingTarget, packing: WeightPacking, _: object) -> Outcome:
    """Marlin needs symmetric codes for 8-bit activations (mixed_precision/marlin.py)."""
    dtype = target.environment.get("VLLM_MARLIN_INPUT_DTYPE", "").lower()
    return dtype in ("int8", "fp8") and packing.zeros and {"dtype": dtype}


def _no_matrix(_: ServingTarget, packing: WeightPacking, shape: ModelShape) -> bool:
    widths = [shard.width for shard in shards(shape, 1)]
    widths += [width for widths in expert_widths(shape) for width in widths]
    return not any(packing.group == -1 or width % packing.group == 0 for width in widths)


_BITS = {"awq": (4,), "gptq": (2, 3, 4, 8)}
_CHECKS: dict[str, Callable[[ServingTarget, WeightPacking, object], Outcome]] = {
    "always": lambda target, packing, _: True,
    "mismatch": _mismatch,
    "float16-from-ampere": lambda target, packing, _: (
        target.dtype == "float16" and target.capability >= 80
    ),
    "float32": lambda target, packing, _: target.dtype == "float32",
    "capability": _least_capability,
    "bits": lambda target, packing, _: packing.bits not in _BITS[packing.method],
    "gptq-codes": _gptq_codes,
    "group": lambda target, packing, _: packing.group not in MARLIN_GROUPS,
    "zeros": lambda target, packing, _: packing.zeros,
    "no-zeros": lambda target, packing, _: not packing.zeros,
    "order": lambda target, packing, _: packing.act_order and packing.group != -1,
    "input-type": _input_dtype,
    "forced": lambda target, packing, _: target.forced == packing.method,
    "batch-invariant": lambda target, packing, _: target.is_on("VLLM_BATCH_INVARIANT"),
    "before-ampere": lambda target, packing, _: target.capability < 80,
    "before-turing": lambda target, packing, _: target.capability < 75,
    "bfloat16-before-ampere": lambda target, packing, _: (
        target.dtype == "bfloat16" and target.capability < 80
    ),
}
_MODEL_CHECKS: dict[str, Callable[[ServingTarget, WeightPacking, ModelShape], Outcome]] = {
    **_CHECKS,
    "sharded-checkpoint": lambda target, packing, shape: target.tp > 1 and bool(shape.quantization),
    "no-matrix": _no_matrix,
}
# Marlin's min_thread_n and min_thread_k, before it padded.
_MATRIX_CHECKS: dict[str, Callable[[ServingTarget, WeightPacking, MatrixShard], Outcome]] = {
    **_CHECKS,
    "outputs": lambda target, packing, shard: shard.outputs % 64 > 0,
    "inputs": lambda target, packing, shard: shard.inputs % 128 > 0,
}


def _gates(
    name: str, checks: Mapping[str, Callable[[ServingTarget, WeightPacking, Subject], Outcome]]
) -> tuple[Gate[Subject], ...]:
    """The rows of one list. Raises KeyError for an unknown condition."""
    return tuple(Gate(checks[row.pop("when", "always")], **row) for row in _TABLE[name])


PRECONDITIONS = _gates("preconditions", _MODEL_CHECKS)
AWQ_GATES = _gates("awq", _MATRIX_CHECKS)
GPTQ_GATES = _gates("gptq", _MATRIX_CHECKS)
