"""Contents of a checkpoint folder as the checks see them, and text helpers for findings."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from salient.core.model_files import StoredTensor, as_list, as_object
from salient.diagnose.tables import read_templates

FINDINGS = read_templates(Path(__file__).with_name("findings.toml"))
LISTED = 64  # names that a step spells out
WORD_BITS = 32
FLOATS = ("F16", "BF16", "F32")
# Names of unquantized matrices that are no linear of a block: embeddings, norms, heads.
TABLES = re.compile(r"embed|wte|wpe|lm_head|norm|relative|rotary", re.IGNORECASE)
HEADS = ("lm_head", "embed_out", "output")
# vLLM 0.32 merges these linears into one (packed_modules_mapping in model_executor/models).
MERGED_OF = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_proj"),
    **dict.fromkeys(("gate_proj", "up_proj"), "gate_up_proj"),
    **dict.fromkeys(("in_proj_qkv", "in_proj_z"), "in_proj_qkvz"),
    **dict.fromkeys(("in_proj_b", "in_proj_a"), "in_proj_ba"),
    **dict.fromkeys(("q_a_proj", "kv_a_proj_with_mqa"), "fused_qkv_a_proj"),
    **dict.fromkeys(("w1", "w3"), "w13"),
}
EXPERT = re.compile(r"(.*\bexperts)\.\d+\.")


@dataclass(frozen=True)
class Suffixes:
    """Local tensor names of a quantized linear. `shape` is "" where a format has none."""

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
# The list of unquantized modules in each format's settings.
SKIP_KEYS = {"awq": "modules_to_not_convert", "compressed-tensors": "ignore"}


@dataclass
class QuantizedLinear:
    """One quantized linear.

    parts: its tensors by local name
    out, width, groups: output and input features, groups along the inputs; 0 until its shapes
        are understood
    bits: bits per code
    """

    name: str
    suffixes: Suffixes
    parts: dict[str, StoredTensor] = field(default_factory=dict[str, StoredTensor])
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
    def first(self) -> StoredTensor:
        """The codes, or any other tensor where they are missing."""
        return self.codes or next(iter(self.parts.values()))

    @property
    def place(self) -> str:
        return place(self.first)

    @property
    def group(self) -> int:
        """Inputs per scale, 0 where the shapes are not understood."""
        return -(-self.width // self.groups) if self.groups else 0


@dataclass
class CheckpointContents:
    """A folder as the checks see it.

    settings: the quantization config, {} where there is none; `where` names its place
    method: the format of the tensors, else the one in the config, "" for an unquantized model
    tensors: all readable ones; lost: tensors that the index names -> the file that lacks them
    packed: quantized linears by module name
    plain: modules with a float `.weight` of two axes -> that tensor
    asymmetric: whether a zero point differs from 8, None before they are read or where none is
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    lost: dict[str, str]
    settings: dict[str, Any]
    where: str
    method: str = ""
    packed: dict[str, QuantizedLinear] = field(default_factory=dict[str, QuantizedLinear])
    plain: dict[str, StoredTensor] = field(default_factory=dict[str, StoredTensor])
    asymmetric: bool | None = None

    @property
    def text_config(self) -> dict[str, Any]:
        """The language model's part of config.json."""
        return as_object(self.config.get("text_config")) or self.config

    def config_value(self, *keys: str) -> Any:
        """The first of `keys` in config.json, in the language model's part or above it."""
        sources = (self.text_config, self.config)
        values = (source.get(key) for source in sources for key in keys)
        return next((value for value in values if value is not None), None)

    @cached_property
    def coded_names(self) -> str:
        """All names by which readers know quantized linears, one per line."""
        return "\n".join({name for m in self.packed for name in (m, *engine_names(m))})

    @property
    def linears(self) -> dict[str, StoredTensor]:
        """Unquantized matrices that could be linears: no embedding, no head, no codes."""
        return {
            name: tensor
            for name, tensor in self.plain.items()
            if not TABLES.search(name.rpartition(".")[2]) and name not in self.packed
        }

    @property
    def in_file_order(self) -> list[QuantizedLinear]:
        """Quantized linears by their place on disk, for sequential reads."""
        return sorted(self.packed.values(), key=lambda p: (p.first.path.name, p.first.start))

    @property
    def skip_key(self) -> str:
        return SKIP_KEYS[self.method]

    @property
    def skip_entries(self) -> list[str]:
        """The settings' list of unquantized modules."""
        return strings(self.settings.get(self.skip_key))


def stored_method(tensors: Iterable[StoredTensor]) -> str:
    """The format of tensors by their names and types, "" for neither of ours."""
    counts = Counter(t.name.rpartition(".")[2] for t in tensors if t.dtype in ("I32", "I16"))
    best = max(SUFFIXES, key=lambda method: counts[SUFFIXES[method].codes])
    return best if counts[SUFFIXES[best].codes] else ""


def find_packed(method: str, tensors: dict[str, StoredTensor]) -> dict[str, QuantizedLinear]:
    """The quantized linears of a format, by the names of their tensors."""
    suffixes = SUFFIXES[method]
    linears: dict[str, QuantizedLinear] = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        coded = f"{module}.{suffixes.codes}" in tensors or f"{module}.weight" not in tensors
        if suffix in suffixes.all and coded:  # FP8 and FP4 have a weight and a weight_scale
            linears.setdefault(module, QuantizedLinear(module, suffixes)).parts[suffix] = tensor
    return {name: linear for name, linear in linears.items() if not _of_floats(linear)}


def _of_floats(linear: QuantizedLinear) -> bool:
    """Whether it is a compressed-tensors linear of small floats (NVFP4, MXFP4)."""
    kinds = {tensor.dtype for tensor in (linear.codes, linear.scales) if tensor}
    return linear.suffixes.shape != "" and bool(kinds & {"U8", "F8_E4M3", "F8_E8M0"})


def find_plain(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2 and tensor.dtype in FLOATS
    }


def in_block(module: str) -> tuple[str, int, str] | None:
    """A module's path before its block's number, that number, and its path in the block."""
    parts = module.split(".")
    for i, part in enumerate(parts[:-1]):
        if part.isascii() and part.isdigit() and len(part) < 7:
            return ".".join(parts[:i]), int(part), ".".join(parts[i + 1 :])
    return None


def pattern(module: str) -> str:
    """`module` with its numbers as `*`, equal for the same module of all blocks."""
    return ".".join("*" if part.isdigit() else part for part in module.split("."))


@cache
def engine_names(module: str) -> tuple[str, ...]:
    """The names by which vLLM looks `module` up in a list of unquantized modules.

    Experts are one module; merged linears have the merged name and their own
    (vLLM 0.32, layers/quantization/utils/quant_utils.py: is_layer_skipped).
    """
    experts = EXPERT.match(module)
    if experts:
        return (experts[1],)
    parent, dot, leaf = module.rpartition(".")
    merged = MERGED_OF.get(leaf)
    return (f"{parent}{dot}{merged}", module) if merged else (module,)


def fitting_entries(contents: CheckpointContents, modules: Iterable[str]) -> list[str]:
    """The fewest list entries that name `modules` and no quantized linear.

    The last parts of their names if no name of a quantized linear contains those, else full names.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        kinds[pattern(module)].append(module)
    entries: list[str] = []
    for like, members in kinds.items():
        parts = like.split(".")
        tails = [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
        safe = next((t for t in tails if "*" not in t and t not in contents.coded_names), None)
        if safe is None or len(members) == 1:
            entries += members
        elif contents.method == "awq":
            entries.append(safe)
        else:
            entries.append(rf"re:.*{re.escape(safe)}$")
    return list(dict.fromkeys(entries))[:LISTED]


def place(tensor: StoredTensor) -> str:
    """A tensor with its file."""
    return f"{tensor.path.name}: {tensor.name}"


def as_json(value: Any) -> str:
    """A config value as JSON, shortened."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def change(where: str, key: str, old: Any, new: Any) -> tuple[str, ...]:
    """Steps that change `key` of the JSON object at `where`. None for `old` adds it."""
    return changes(where, (key, old, new))


def changes(where: str, *rows: tuple[str, Any, Any]) -> tuple[str, ...]:
    """The same for several keys at once."""
    lines = [f"In {where.replace(': ', ', ')}:"]
    for key, old, new in rows:
        lines += [f'-  "{key}": {as_json(old)}'] if old is not None else []
        lines.append(f'+  "{key}": {json.dumps(new)}')
    return tuple(lines)


def as_integer(value: Any) -> int | None:
    """`value` if it is an integer (a string of digits counts as one), else None."""
    if type(value) is int:
        return value if abs(value) < 2**31 else None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
        return int(value)
    return None


def strings(value: Any) -> list[str]:
    """The strings of a list, [] for anything else."""
    return [item for item in as_list(value) if isinstance(item, str)]
