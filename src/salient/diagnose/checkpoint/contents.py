"""What a checkpoint folder says and holds, gathered once for all checks of `checkpoint.py`.

Also the words that those checks share: where a tensor lies, how a config is to be changed.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from salient.core.model_files import StoredTensor
from salient.diagnose.finding import Evidence, Finding

SHOWN = 5  # places named under one finding
LISTED = 64  # names that a step spells out
WORD_BITS = 32
FLOATS = ("F16", "BF16", "F32")
# The names that 16-bit matrices have which are no linear of a block: look-up tables and heads.
TABLES = re.compile(r"embed|wte|wpe|lm_head|norm|relative|rotary", re.IGNORECASE)
HEADS = ("lm_head", "embed_out", "output")
# vLLM 0.32 joins these linears into one (packed_modules_mapping in model_executor/models).
JOINED = (
    ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
    ("gate_up_proj", ("gate_proj", "up_proj")),
    ("in_proj_qkvz", ("in_proj_qkv", "in_proj_z")),
    ("in_proj_ba", ("in_proj_b", "in_proj_a")),
    ("fused_qkv_a_proj", ("q_a_proj", "kv_a_proj_with_mqa")),
    ("w13", ("w1", "w3")),
)
JOINED_OF = {shard: name for name, shards in JOINED for shard in shards}
EXPERT = re.compile(r"(.*\bexperts)\.\d+\.")


@dataclass(frozen=True)
class Suffixes:
    """The local names of a quantized linear's tensors. `shape` is "" where a format has none."""

    codes: str
    scales: str
    zeros: str
    order: str  # activation order, which only some checkpoints have
    shape: str = ""

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.codes, self.scales, self.zeros, self.order, self.shape)))


SUFFIXES = {
    "awq": Suffixes("qweight", "scales", "qzeros", "g_idx"),
    "compressed-tensors": Suffixes(
        "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"
    ),
}


@dataclass
class QuantizedLinear:
    """One quantized linear.

    parts: its tensors by local name
    out, width, groups: output and input features, groups along the inputs; 0 until its shapes
        were understood
    bits: bits a code
    """

    name: str
    suffixes: Suffixes
    parts: dict[str, StoredTensor] = field(default_factory=dict)
    out: int = 0
    width: int = 0
    groups: int = 0
    bits: int = 4

    @property
    def codes(self) -> StoredTensor | None:
        return self.parts.get(self.suffixes.codes)

    @property
    def scales(self) -> StoredTensor | None:
        return self.parts.get(self.suffixes.scales)

    @property
    def zeros(self) -> StoredTensor | None:
        return self.parts.get(self.suffixes.zeros)

    @property
    def group(self) -> int:
        """Inputs that share a scale, 0 where the shapes were not understood."""
        return -(-self.width // self.groups) if self.groups else 0


@dataclass
class CheckpointContents:
    """A folder as the checks see it.

    settings: the quantization's own config, {} where there is none; `where` says where it stands
    method: the format that the tensors have, else what the config says, "" for a 16-bit model
    tensors: all that can be read; lost: tensors that the index names -> the file that lacks them
    packed: quantized linears by module name
    plain: every module that has a `.weight` of 16 or 32 bits and two axes -> that tensor
    asymmetric: whether a zero point differs from 8, None before they are read or where none is
    """

    folder: Path
    config: dict[str, Any]
    settings: dict[str, Any]
    where: str
    method: str
    tensors: dict[str, StoredTensor]
    lost: dict[str, str] = field(default_factory=dict)
    packed: dict[str, QuantizedLinear] = field(default_factory=dict)
    plain: dict[str, StoredTensor] = field(default_factory=dict)
    asymmetric: bool | None = None

    @property
    def text_config(self) -> dict[str, Any]:
        """The language model's part of config.json."""
        part = self.config.get("text_config")
        return part if isinstance(part, dict) else self.config

    def word(self, *keys: str) -> Any:
        """The first of `keys` that config.json has, in the language model's part or above it."""
        for source in (self.text_config, self.config):
            for key in keys:
                if source.get(key) is not None:
                    return source[key]
        return None

    @cached_property
    def coded_names(self) -> str:
        """All names by which readers know quantized linears, one a line, to look for pieces."""
        return "\n".join({name for m in self.packed for name in (m, *engine_names(m))})

    @property
    def linears(self) -> dict[str, StoredTensor]:
        """Matrices at 16 bits that could be linears: no embedding, no head, no codes beside."""
        return {
            name: tensor
            for name, tensor in self.plain.items()
            if not TABLES.search(name.rpartition(".")[2]) and name not in self.packed
        }


def stored_method(tensors: Iterable[StoredTensor]) -> str:
    """The format that tensors have by their names and types, "" for neither of ours."""
    counts = dict.fromkeys(SUFFIXES, 0)
    for tensor in tensors:
        suffix = tensor.name.rpartition(".")[2]
        for method, names in SUFFIXES.items():
            counts[method] += suffix == names.codes and tensor.dtype in ("I32", "I16")
    best = max(counts, key=lambda method: counts[method])
    return best if counts[best] else ""


def find_packed(method: str, tensors: dict[str, StoredTensor]) -> dict[str, QuantizedLinear]:
    """The quantized linears of a format, by the names of their tensors."""
    suffixes = SUFFIXES[method]
    found: dict[str, QuantizedLinear] = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        coded = f"{module}.{suffixes.codes}" in tensors or f"{module}.weight" not in tensors
        if suffix in suffixes.all and coded:  # small floats have a weight and a weight_scale
            found.setdefault(module, QuantizedLinear(module, suffixes)).parts[suffix] = tensor
    return {name: linear for name, linear in found.items() if not _of_floats(linear)}


def _of_floats(linear: QuantizedLinear) -> bool:
    """Whether it is one of compressed-tensors' linears of small floats (NVFP4, MXFP4)."""
    kinds = {tensor.dtype for tensor in (linear.codes, linear.scales) if tensor}
    return linear.suffixes.shape != "" and bool(kinds & {"U8", "F8_E4M3", "F8_E8M0"})


def find_plain(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Modules with a `.weight` of floats and two axes."""
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2 and tensor.dtype in FLOATS
    }


def in_block(module: str) -> tuple[str, int, str] | None:
    """A module's path before its block's number, that number, and its path in the block."""
    before, found, rest = [], None, module.split(".")
    while rest and found is None:
        part = rest.pop(0)
        if part.isascii() and part.isdigit() and len(part) < 7:
            found = int(part)
        else:
            before.append(part)
    return None if found is None or not rest else (".".join(before), found, ".".join(rest))


def pattern(module: str) -> str:
    """`module` with its numbers as `*`, which like modules of all blocks share."""
    return ".".join("*" if part.isdigit() else part for part in module.split("."))


@cache
def engine_names(module: str) -> tuple[str, ...]:
    """The names by which vLLM asks whether the linear `module` is skipped.

    Experts are one module; joined linears are asked for by the joined name and by their own
    (vLLM 0.32, layers/quantization/utils/quant_utils.py: is_layer_skipped).
    """
    experts = EXPERT.match(module)
    if experts:
        return (experts[1],)
    parent, dot, leaf = module.rpartition(".")
    joined = JOINED_OF.get(leaf)
    return (f"{parent}{dot}{joined}", module) if joined else (module,)


def fitting_entries(contents: CheckpointContents, modules: list[str]) -> list[str]:
    """Entries that name `modules` and no quantized linear, as few as there are.

    The last parts of their names if those are in no name of a quantized linear, else full names.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        kinds[pattern(module)].append(module)
    found: list[str] = []
    for like, held in kinds.items():
        parts = like.split(".")
        tails = [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
        safe = next((t for t in tails if "*" not in t and t not in contents.coded_names), None)
        if safe is None or len(held) == 1:
            found += held
        elif contents.method == "awq":
            found.append(safe)
        else:
            found.append(rf"re:.*{re.escape(safe)}$")
    return list(dict.fromkeys(found))[:LISTED]


def place(tensor: StoredTensor) -> str:
    """A tensor with its file."""
    return f"{tensor.path.name}: {tensor.name}"


def seen(places: Iterable[tuple[str, str]]) -> tuple[Evidence, ...]:
    """The first places with their words."""
    return tuple(Evidence(where, text) for where, text in list(places)[:SHOWN])


def told(places: Iterable[tuple[str, str]], finding: Finding) -> list[Finding]:
    """`finding` with its places and their number, nothing where there is none."""
    places = list(places)
    return [replace(finding, evidence=seen(places), count=len(places))] if places else []


def said(value: Any) -> str:
    """A value of a config as JSON has it, shortened."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def change(where: str, key: str, old: Any, new: Any) -> tuple[str, ...]:
    """Steps that change `key` of the JSON object at `where`. None for `old` adds it."""
    return changes(where, (key, old, new))


def changes(where: str, *rows: tuple[str, Any, Any]) -> tuple[str, ...]:
    """The same for several keys at once."""
    lines = [f"In {where.replace(': ', ', ')}:"]
    for key, old, new in rows:
        lines += [f'-  "{key}": {said(old)}'] if old is not None else []
        lines.append(f'+  "{key}": {json.dumps(new)}')
    return tuple(lines)


def many(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def whole(value: Any) -> int | None:
    """`value` if it is a whole number (a string of digits counts as one), else None."""
    if type(value) is int:
        return value if abs(value) < 2**31 else None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
        return int(value)
    return None


def names(value: Any) -> list[str]:
    """The strings of a list, [] for anything else."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
