"""GGUF's block types and which tensor gets which in llama.cpp's mixtures.

Bits a weight are bytes of a block over its weights, as in ggml-common.h. The choice by tensor is
llama.cpp's `llama_tensor_get_type` (src/llama-quant.cpp), for the tensors that make up the size.
"""

from salient.shapes.gguf_header import NAMES
from salient.shapes.model_shape import LinearShape

# bytes of a block over the weights in it
BITS: dict[str, float] = {
    kind: 8 * size / weights for kind, size, weights in NAMES["types"].values() if weights > 1
}
# what a type becomes where 256 does not divide the inputs
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_BASE = {"q4_0": "Q4_0", "q4_k_m": "Q4_K", "q5_k_m": "Q5_K", "q8_0": "Q8_0"}
# bits of the embedding and of the head; a tied embedding is stored as the head is
ENDS = {
    name: (BITS[base], BITS["Q8_0" if base == "Q8_0" else "Q6_K"]) for name, base in _BASE.items()
}


def gguf_bits(mixture: str, linear: LinearShape, experts: int, *, more: bool) -> float | None:
    """Bits a weight of `linear`, in a block that gets `more_bits` or not, of a model with that many
    experts a block; None where no type fits and it stays unquantized."""
    if linear.width % 32:
        return None
    kind = _kind(mixture, linear, experts, more=more)
    if linear.width % 256:
        kind = _FALLBACK.get(kind, kind)
    return BITS[kind]


def _kind(mixture: str, linear: LinearShape, experts: int, *, more: bool) -> str:
    base = _BASE[mixture]
    if not mixture.endswith("k_m"):
        return base
    last = linear.name.rpartition(".")[2]
    down = linear.split == "in" and linear.part != "attention"
    if last in ("v_proj", "k_proj") and experts == 8:
        return "Q8_0"
    if last == "v_proj" or down:
        return "Q6_K" if more else base
    if last in ("qkv_proj", "query_key_value", "c_attn", "Wqkv"):
        return "Q5_K" if base == "Q4_K" else "Q6_K"
    if linear.split == "in" and experts == 8:
        return "Q5_K"
    return base


def more_bits(index: int, layers: int) -> bool:
    """Whether block `index` is of the first or last eighth of the blocks, or each third between."""
    return index < layers // 8 or index >= 7 * layers // 8 or (index - layers // 8) % 3 == 2
