"""How families of models differ from a Llama: one row a `model_type`, and only what differs.

Here are those with one MLP in every block; experts and hybrids are in `mixture_table.py`. Read from
the model classes of Transformers 5.23 and the names of the published safetensors; a test holds
every row against those classes.
"""

from dataclasses import replace

from .families_moe import MIXTURES
from .family import NO_BIAS, AttentionNames, Family, MlpNames

_BARE = AttentionNames(bias=False)
_QWEN2 = AttentionNames(bias=True, out_bias=False)
_HEADS = AttentionNames(norms="head")
_WHOLE = AttentionNames(norms="heads")
_OUT_PROJ = ("q_proj", "k_proj", "v_proj", "out_proj")
_FUSED = MlpNames(names=("gate_up_proj", "down_proj"), bias=False)
_UP_DOWN = MlpNames(names=("up_proj", "down_proj"), gated=False)
_C_FC = MlpNames(names=("c_fc", "c_proj"), bias=True, gated=False)
_4H = MlpNames(names=("dense_h_to_4h", "dense_4h_to_h"), bias=True, gated=False)
_GEMMA = {"head_dim": 256, "sliding_window": 4096}
_HEAD_128 = {"head_dim": 128}
_ALL_HEADS = {"num_key_value_heads": "", "head_dim": ""}
_N_INNER = {"intermediate_size": "n_inner"}

_LLAMA = Family()
_MISTRAL = Family(_BARE, NO_BIAS, window="all")
_QWEN2_ROW = Family(_QWEN2, NO_BIAS, window="flag")
_QWEN3 = Family(_HEADS, NO_BIAS, window="flag", defaults=_HEAD_128)
_GEMMA2 = Family(mlp=NO_BIAS, norms=4, tied=True, window="pattern", pattern=2, defaults=_GEMMA)
_COHERE = Family(AttentionNames(norms="heads", norms_if="use_qk_norm"), NO_BIAS, norms=1, tied=True)
_GLM = Family(AttentionNames(out_bias=False), _FUSED, defaults=_HEAD_128)
_GPT2 = Family(
    AttentionNames("attn", ("c_attn", "c_proj"), bias=True), _C_FC,
    norm_bias=True, tied=True, positions=0, inner_times=4,
    keys={**_N_INNER, "num_key_value_heads": ""},
)  # fmt: skip

_DENSE: dict[str, Family] = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "internlm3": _LLAMA,
    "mistral": _MISTRAL,
    "ministral": _MISTRAL,
    "ministral3": _MISTRAL,
    "cwm": _MISTRAL,
    "qwen2": _QWEN2_ROW,
    "qwen2_vl_text": _QWEN2_ROW,
    "qwen2_5_vl_text": _QWEN2_ROW,
    "qwen3": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "gemma": Family(mlp=NO_BIAS, tied=True, defaults=_GEMMA),
    "gemma2": _GEMMA2,
    "vaultgemma": replace(_GEMMA2, norms=2),
    "gemma3_text": replace(_GEMMA2, attention=_HEADS, pattern=6),
    "phi": Family(
        AttentionNames(names=("q_proj", "k_proj", "v_proj", "dense"), bias=True, norms="head",
                  norms_if="qk_layernorm", norm_bias=True),
        MlpNames(names=("fc1", "fc2"), bias=True, gated=False),
        norms=1, norm_bias=True, head_bias=True,
    ),
    "phi3": Family(AttentionNames(names=("qkv_proj", "o_proj"), bias=False), _FUSED, window="all"),
    "smollm3": Family(tied=True, window="flag"),
    "olmo": Family(mlp=NO_BIAS, norms=0, outer_norms=0),
    "olmo2": Family(_WHOLE, NO_BIAS),
    "olmo3": Family(_WHOLE, NO_BIAS, window="pattern", pattern=4),
    "opt": Family(
        AttentionNames(names=_OUT_PROJ, bias="enable_bias"),
        MlpNames("", ("fc1", "fc2"), "enable_bias", gated=False), norm_bias=True, tied=True, positions=2,
        keys={**_ALL_HEADS, "intermediate_size": "ffn_dim"}, defaults={"enable_bias": True},
    ),
    "gpt2": _GPT2,
    "gpt_bigcode": replace(_GPT2, keys=_N_INNER),
    "gpt_neox": Family(
        AttentionNames("attention", ("query_key_value", "dense")), _4H, norm_bias=True,
        keys=_ALL_HEADS, defaults={"attention_bias": True},
    ),
    "gptj": Family(
        AttentionNames("attn", _OUT_PROJ, bias=False),
        MlpNames(names=("fc_in", "fc_out"), bias=True, gated=False), norms=1, norm_bias=True,
        head_bias=True, inner_times=4, keys={**_N_INNER, "num_key_value_heads": ""},
    ),
    "falcon": Family(
        AttentionNames("self_attention", ("query_key_value", "dense"), "bias"),
        replace(_4H, bias="bias"), norm_bias=True, tied=True, inner_times=4,
        keys={"intermediate_size": "ffn_hidden_size", "head_dim": ""},
    ),
    "bloom": Family(
        AttentionNames("self_attention", ("query_key_value", "dense"), bias=True), _4H,
        norm_bias=True, outer_norms=2, tied=True, inner_times=4,
        keys={**_ALL_HEADS, "intermediate_size": ""},
    ),
    "mpt": Family(
        AttentionNames("attn", ("Wqkv", "out_proj"), bias=False),
        MlpNames("ffn", ("up_proj", "down_proj"), bias=False, gated=False), tied=True, inner_times=4,
        keys={**_ALL_HEADS, "intermediate_size": "", "hidden_size": "d_model",
              "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"},
    ),
    "stablelm": Family(
        AttentionNames(bias="use_qkv_bias", out_bias=False, norms="heads", norms_if="qk_layernorm"),
        NO_BIAS, norm_bias=True,
    ),
    "starcoder2": Family(
        AttentionNames(bias="use_bias"), replace(_C_FC, bias="use_bias"), norm_bias=True, tied=True,
        window="all", defaults={"use_bias": True},
    ),
    "cohere": _COHERE,
    "cohere2": replace(_COHERE, attention=AttentionNames(), window="pattern", pattern=4,
                       defaults={"sliding_window": 4096}),
    "glm": _GLM,
    "glm4": replace(_GLM, norms=4),
    "glm4v_text": replace(_GLM, attention=_QWEN2, norms=4, defaults={}),
    "exaone4": Family(
        replace(_HEADS, bias=False), NO_BIAS, window="pattern", pattern=4,
        defaults={"sliding_window": 4096},
    ),
    "nemotron": Family(mlp=_UP_DOWN, norm_bias=True),
    "arcee": Family(mlp=_UP_DOWN),
    "apertus": Family(_HEADS, replace(_UP_DOWN, bias=False), extra=2),
    "seed_oss": Family(
        AttentionNames(out_bias="attention_out_bias"), defaults={**_HEAD_128, "attention_bias": True},
    ),
    "ernie4_5": Family(AttentionNames(bias="use_bias"), MlpNames(bias="use_bias"), tied=True),
    "hunyuan_v1_dense": Family(_HEADS, NO_BIAS),
    "helium": Family(AttentionNames(out_bias=False), defaults=_HEAD_128),
}  # fmt: skip

ARCHITECTURES: dict[str, Family] = {**_DENSE, **MIXTURES}
