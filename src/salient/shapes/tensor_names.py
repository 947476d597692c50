"""The role of a stored tensor by its name: part of a block, an embedding, a tower, a scale.

Imports no torch.
"""

import re
from math import prod
from typing import Any, cast

from salient.core.model_files import ELEMENT_BYTES, StoredTensor

from .model_shape import LinearShape, Part

# No parameters: scales, zeros and orders of the codes, and tables that are computed.
AUXILIARY = re.compile(
    r"(^|\.)(scales|qzeros|g_idx|layer_scalar|SCB|weight_format|weight_scale(_inv|_2)?|weight_zero_point|"
    r"weight_shape|weight_g_idx|(weight|input)_global_scale|input_scale|output_scale|[kvq]_scale|"
    r"weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*)|inv_freq|"
    r"masked_bias|slope_rate|(query|key|diagonal)_decay)$|_scales$"
)
AHEAD = re.compile(r"(^|[._])(mtp|nextn)([._]|$)")  # layers that predict further tokens
BLOCK = re.compile(r"^((?:.*?\.)?(?:layers|h|blocks|layer))\.([0-9]{1,9})\.(.+)$")
EXPERT = re.compile(r"\bexperts\.\d+\.")
# Parts of the names of what does not belong to the language model.
TOWER_NAMES = (
    "vision", "visual", "audio", "speech", "image", "video", "mtp", "projector", "connector",
    "resampler", "perceiver", "talker", "merger",
)  # fmt: skip
EMBEDDINGS = frozenset((
    "embed_tokens", "wte", "wpe", "word_embeddings", "embed_in", "embeddings", "embed_positions",
    "tok_embeddings", "word_embedding", "embedding", "embed", "embed_tokens_per_layer",
))  # fmt: skip
HEADS = frozenset(("lm_head", "embed_out", "output", "output_layer", "head"))
STACKS = re.compile(r"(^|\.)moe\.(gate|up|down)_proj\.")  # Step's experts
STACKED = {"input_linear": "experts.gate_up_proj", "output_linear": "experts.down_proj"}
OUTER = ("model", "transformer", "language_model", "backbone")

_JOINS = {
    "q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "w1": "gate_up_proj",
    "w3": "gate_up_proj",
}  # fmt: skip
_BY_INPUTS = frozenset((
    "o_proj", "out_proj", "dense", "c_proj", "wo", "down_proj", "w2", "fc2", "fc_out",
    "dense_4h_to_h", "output_linear", "x_proj",
))  # fmt: skip
_BY_OUTPUTS = frozenset((
    "qkv_proj", "Wqkv", "query_key_value", "c_attn", "qkv", "wqkv", "W_pack", "gate_up_proj",
    "fc1", "fc_in", "c_fc", "in_proj", "dense_h_to_4h", "input_linear", "q_b_proj", "kv_b_proj",
    "in_proj_qkvz", "in_proj_qkv", "in_proj_z", "in_proj_ba", "in_proj_b", "in_proj_a",
))  # fmt: skip
_PARTS: tuple[tuple[Part, tuple[str, ...]], ...] = (
    ("shared experts", ("shared_expert", "shared_mlp")),
    ("experts", ("experts.",)),
    ("mixer", ("mamba", "mixer", "linear_attn", "conv", "ssm", "recurrent")),
    ("attention", ("attn", "attention")),
)
_OF_ATTENTION = frozenset(("q_proj", "k_proj", "v_proj", "o_proj"))
_ROUTERS = re.compile(r"(^|\.)(router|gate|shared_expert_gate)(\.(wg|layer|weight))?$")
FEWEST_OUTPUTS = 8  # a packed word of the formats; smaller linears stay unquantized


def is_parameter(tensor: StoredTensor) -> bool:
    """Whether it is no scale, no table and no causal mask (of old GPT-2 files)."""
    mask = tensor.name.endswith(".bias") and len(tensor.shape) == 4
    return not mask and AUXILIARY.search(tensor.name) is None


def unpacked(tensor: StoredTensor, quantization: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """The name of the parameter in a tensor, and its shape before it was packed.

    AWQ packs outputs ([in, out / 8]), GPTQ inputs ([in / 8, out]); compressed-tensors packs inputs
    ([out, in / 8]), as MLX in words of 32 bits; MXFP4 has 16 bytes for 32 inputs ([experts, out,
    in / 32, 16]).
    """
    method = quantization.get("quant_method")
    home, _, leaf = tensor.name.rpartition(".")
    shape = tensor.shape
    if leaf == "qweight" and len(shape) == 2:
        bits = _bits(quantization)
        by_inputs = method in ("gptq", "auto-round", "inc")
        inputs, outputs = (
            (shape[0] * 32 // bits, shape[1]) if by_inputs else (shape[0], shape[1] * 32 // bits)
        )
        return f"{home}.weight", (outputs, inputs)
    if leaf == "weight_packed" and len(shape) >= 2:
        codes = ELEMENT_BYTES.get(tensor.dtype, 4) * 8 // _bits(quantization)
        return f"{home}.weight", (*shape[:-1], shape[-1] * codes)
    if leaf.endswith("_blocks") and len(shape) == 4:
        return tensor.name.removesuffix("_blocks"), (*shape[:2], shape[2] * shape[3] * 2)
    if leaf == "weight" and tensor.dtype == "U32" and quantization and len(shape) >= 2:
        bits = _bits({**quantization, **_object(quantization.get(home))})
        return tensor.name, (*shape[:-1], shape[-1] * 32 // bits)
    if leaf == "weight" and tensor.dtype == "U8" and quantization and len(shape) >= 2:
        return tensor.name, (*shape[:-1], shape[-1] * 2)
    return tensor.name, shape


def _bits(quantization: dict[str, Any]) -> int:
    """Bits of a code, 4 where the config does not say."""
    bits = quantization.get("bits", quantization.get("w_bit"))
    for group in _object(quantization.get("config_groups")).values():
        bits = _object(_object(group).get("weights")).get("num_bits", bits)
    return bits if type(bits) is int and bits in (2, 3, 4, 5, 6, 8) else 4


def _object(value: Any) -> dict[str, Any]:
    """`value` if it is a JSON object, else an empty one."""
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def is_tower(name: str) -> bool:
    """Whether a tensor belongs to a tower and not to the language model."""
    return any(word in name for word in TOWER_NAMES)


def language_block(name: str) -> re.Match[str] | None:
    """The list, number and rest of the name of a tensor in a block of the language model."""
    match = BLOCK.match(name)
    return None if match is None or is_tower(match[1]) else match


def tower_of(name: str) -> str:
    """The first specific part of a name."""
    parts = name.split(".")
    return next((part for part in parts if part not in OUTER), parts[0])


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of a block is the weight of a linear, or of a stack of experts."""
    *_, last = name.removesuffix(".weight").rpartition(".")
    if any(word in last for word in ("norm", "conv", "embed", "bias")) or last == "A_log":
        return False
    if len(shape) == 3:
        return "experts." in name or last in STACKED or STACKS.search(name) is not None
    return len(shape) == 2 and name.endswith(".weight") and prod(shape) > 0


def guess_linear(name: str, out: int, width: int, *, copies: int, active: int) -> LinearShape:
    """A linear of an unknown family, by its name."""
    last = name.rpartition(".")[2]
    router = _ROUTERS.search(name) is not None
    if router or last not in _BY_INPUTS | _BY_OUTPUTS | set(_JOINS):
        split = "none"
    else:
        split = "in" if last in _BY_INPUTS else "out"
    return LinearShape(
        name,
        out,
        width,
        "router" if router else _part(name, last),
        split,
        "" if router else _JOINS.get(last, ""),
        copies=copies,
        active=active,
        unquantized=router or out < FEWEST_OUTPUTS,
    )


def _part(name: str, last: str) -> Part:
    """What a linear belongs to. Some blocks have an attention where others have a mixer."""
    for part, names in _PARTS:
        if any(word in name for word in names):
            return "attention" if part == "mixer" and last in _OF_ATTENTION else part
    return "mlp"
