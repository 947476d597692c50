"""How families of models differ from Llama, whose values are the defaults. Imports no torch.

The families are in families.json: one row a `model_type`, with only what differs from Llama, or
from the family that it is "like". They are read from the model classes of Transformers 5.23 and the
names of the published safetensors; a test compares every row with those classes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from salient.core.records import is_list

# A fact of the family, or the config's flag that decides it.
Fact = bool | str


@dataclass(frozen=True)
class AttentionNames:
    """The projections of q, k, v and the output.

    names: four linears, or two where q, k and v are stored as one
    bias, out_bias: whether they have one; out_bias None is as bias
    norms: norms of q and k: of one head's width each, or over all heads
    norms_if: the config's flag that turns them on, "" always
    gated: q is merged with a gate and twice as tall
    gate: a linear `gate_name` whose outputs gate those of each head, or each of their values;
        gate_if: the config's flag that turns it on, "" always
    value_width: the name of the width of a head's values, "" where it is that of its keys
    sinks: a number for each head in addition to the scores
    latent: multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)
    compressed: entries that join tokens (DeepSeek-V4)
    indexer: the small attention that picks tokens (DeepSeek-V3.2, MiniMax-M3)
    """

    module: str = "self_attn"
    names: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    bias: Fact = "attention_bias"
    out_bias: Fact | None = None
    norms: Literal["", "head", "heads"] = ""
    norms_if: str = ""
    norm_bias: bool = False
    gated: bool = False
    gate: Literal["", "head", "value"] = ""
    gate_name: str = "g_proj"
    gate_if: str = ""
    value_width: str = ""
    sinks: Fact = False
    latent: bool = False
    compressed: bool = False
    indexer: bool = False


@dataclass(frozen=True)
class MlpNames:
    """names: gate, up, down; of two, a fused gate and up, or (gated False) only up, and down."""

    module: str = "mlp"
    names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    bias: Fact = "mlp_bias"
    gated: bool = True


@dataclass(frozen=True)
class ExpertNames:
    """A mixture of experts.

    mlp: one expert, `*` for its number
    inner: the name of its width
    router: the linear that chooses
    correction: a number for each expert is added to the router's scores
    shared: the expert that every token passes; shared_inner: the name of its width, "" for
        n_shared_experts times that of the others
    shared_gate: a linear of one output that weighs it
    latent: the name of the width to which `latent_names` project for the experts, "" for none;
        latent_norm: the flag of a norm of that width
    norm: a norm of its outputs
    router_scales: numbers that scale the router's inputs and each expert's output
    """

    mlp: MlpNames = MlpNames("mlp.experts.*", bias=False)
    inner: str = "moe_intermediate_size"
    router: str = "mlp.gate"
    router_bias: Fact = False
    correction: bool = False
    shared: MlpNames | None = None
    shared_inner: str = ""
    shared_gate: str = ""
    latent: str = ""
    latent_names: tuple[str, str] = ("", "")
    latent_norm: str = ""
    norm: bool = False
    router_scales: bool = False


@dataclass(frozen=True)
class AheadNames:
    """A layer for multi-token prediction: a block, a projection of two hidden vectors, three norms.

    block: its attention and its feed, as layer_types.py has them, () as the last block
    tables: whether each has an embedding and a head of its own
    """

    block: tuple[str, ...] = ()
    tables: bool = False


@dataclass(frozen=True)
class Family:
    """A family.

    mlp: what follows the attention, None for nothing
    mixer: what replaces the attention in some blocks or all, a key of mixers.MIXERS
    mixer_module: its module; parallel: it runs in parallel with the attention in every block
    norms: norms a block, of the hidden width; norm_bias: whether they have a bias (LayerNorm)
    extra: other numbers a block; outer_norms: norms outside blocks
    extras: further parts of every block, keys of extras.IN_BLOCK; outside: further parts outside
        the blocks, keys of extras.OUTSIDE
    per_block: what differs from block to block, a key of block_values.FUNCTIONS, "" for nothing
    ahead: layers for multi-token prediction, None where the released files have none
    tied: whether the head is the embedding where the config does not say
    positions: rows of learned positions in addition to the config's, None for rotary
    inner_times: width of the MLP in hidden widths where the config has none; 0: it must
    window: the blocks of sliding_window without layer_types: none, all, those after
        max_window_layers if use_sliding_window, or all but each `pattern`-th
    keys: names under the family's own keys, "" for a name that it does not read
    defaults: values that configs may leave out
    """

    attention: AttentionNames = AttentionNames()
    mlp: MlpNames | None = MlpNames()
    experts: ExpertNames | None = None
    mixer: str = ""
    mixer_module: str = ""
    parallel: bool = False
    norms: int = 2
    norm_bias: bool = False
    extra: int = 0
    extras: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    per_block: str = ""
    ahead: AheadNames | None = AheadNames()
    outer_norms: int = 1
    tied: bool = False
    head_bias: Fact = False
    positions: int | None = None
    inner_times: int = 0
    window: Literal["", "all", "flag", "pattern"] = ""
    pattern: int = 0
    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _attention(row: dict[str, Any]) -> AttentionNames:
    return AttentionNames(**_with_tuple(row))


def _mlp(row: dict[str, Any]) -> MlpNames:
    return MlpNames(**_with_tuple(row))


def _experts(row: dict[str, Any]) -> ExpertNames:
    parts: dict[str, Any] = {key: _mlp(row[key]) for key in ("mlp", "shared") if key in row}
    return ExpertNames(**{**row, **parts})


def _ahead(row: dict[str, Any]) -> AheadNames:
    return AheadNames(**_with_tuple(row))


def _with_tuple(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if is_list(value) else value for key, value in row.items()}


def _families() -> dict[str, Family]:
    path = Path(__file__).with_name("families.json")
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    parts = {"attention": _attention, "mlp": _mlp, "experts": _experts, "ahead": _ahead}
    families: dict[str, Family] = {}
    for kind, row in rows.items():
        base = families[row.pop("like")] if "like" in row else Family()
        for key in parts.keys() & row.keys():
            row[key] = None if row[key] is None else parts[key](row[key])
        families[kind] = replace(base, **_with_tuple(row)) if row else base
    return families


ARCHITECTURES: dict[str, Family] = _families()
