"""How families of models differ from Llama: one row a `model_type`, and only what differs.

Read from the model classes of Transformers 5.23 and the names of the published safetensors; a test
compares every row with those classes.
"""

from dataclasses import replace

from .family import NO_BIAS, AttentionNames, ExpertNames, Family, MlpNames

_BARE = AttentionNames(bias=False)
_QWEN2 = AttentionNames(bias=True, out_bias=False)
_HEADS = AttentionNames(norms="head")
_WHOLE = AttentionNames(norms="heads")
_UP_DOWN_NAMES = ("up_proj", "down_proj")
_OUT_PROJ = ("q_proj", "k_proj", "v_proj", "out_proj")
_FUSED = MlpNames(names=("gate_up_proj", "down_proj"), bias=False)
_UP_DOWN = MlpNames(names=_UP_DOWN_NAMES, gated=False)
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
        MlpNames("", ("fc1", "fc2"), "enable_bias", gated=False),
        norm_bias=True, tied=True, positions=2,
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
        MlpNames("ffn", _UP_DOWN_NAMES, bias=False, gated=False), tied=True, inner_times=4,
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
        AttentionNames(out_bias="attention_out_bias"),
        defaults={**_HEAD_128, "attention_bias": True},
    ),
    "ernie4_5": Family(AttentionNames(bias="use_bias"), MlpNames(bias="use_bias"), tied=True),
    "hunyuan_v1_dense": Family(_HEADS, NO_BIAS),
    "helium": Family(AttentionNames(out_bias=False), defaults=_HEAD_128),
}  # fmt: skip

# With experts, or with something in place of attention.
_W123 = ("w1", "w3", "w2")
_LOCAL = {"num_experts": "num_local_experts"}
_ROUTED = {"num_experts": "n_routed_experts"}

_EACH = MlpNames("mlp.experts.*", bias=False)
_SHARED = MlpNames("mlp.shared_experts", bias=False)
_FORWARD = MlpNames("feed_forward", bias=False)
_MIXTRAL = ExpertNames(
    MlpNames("block_sparse_moe.experts.*", _W123, bias=False), "intermediate_size",
    "block_sparse_moe.gate",
)  # fmt: skip
_GRANITE = ExpertNames(
    MlpNames("block_sparse_moe.experts.*", bias=False), "intermediate_size",
    "block_sparse_moe.router.layer",
)  # fmt: skip
_GRANITE_SHARED = replace(
    _GRANITE, shared=MlpNames("shared_mlp", ("input_linear", "output_linear"), bias=False),
    shared_inner="shared_intermediate_size",
)  # fmt: skip
_DEEPSEEK = ExpertNames(shared=_SHARED, correction=True)
_QWEN = ExpertNames(
    shared=MlpNames("mlp.shared_expert", bias=False),
    shared_inner="shared_expert_intermediate_size",
    shared_gate="mlp.shared_expert_gate",
)

# What the config calls the sizes of a state space.
_MAMBA_KEYS = {
    "ssm_groups": "mamba_n_groups", "ssm_state": "mamba_d_state", "ssm_heads": "mamba_n_heads",
    "ssm_head_dim": "mamba_d_head", "ssm_kernel": "mamba_d_conv", "ssm_expand": "mamba_expand",
    "ssm_conv_bias": "mamba_conv_bias", "ssm_bias": "mamba_proj_bias", "ssm_rank": "mamba_dt_rank",
}  # fmt: skip
_PLAIN_KEYS = {
    "ssm_groups": "n_groups", "ssm_state": "state_size", "ssm_heads": "num_heads",
    "ssm_head_dim": "head_dim", "ssm_kernel": "conv_kernel", "ssm_expand": "expand",
    "ssm_conv_bias": "use_conv_bias", "ssm_bias": "use_bias", "ssm_rank": "time_step_rank",
    "ssm_inner": "intermediate_size",
}  # fmt: skip
_NEMOTRON_KEYS = {
    **_PLAIN_KEYS, "ssm_state": "ssm_state_size", "ssm_heads": "mamba_num_heads",
    "ssm_head_dim": "mamba_head_dim",
}  # fmt: skip

_QWEN3_MOE = Family(_HEADS, NO_BIAS, ExpertNames(), window="flag")
_DELTA = Family(
    AttentionNames(norms="head", gated=True), NO_BIAS, _QWEN, mixer="delta",
    mixer_module="linear_attn", defaults={"full_attention_interval": 4},
)  # fmt: skip
_DEEPSEEK3 = Family(
    AttentionNames(latent=True), NO_BIAS, _DEEPSEEK, keys=_ROUTED,
    defaults={"first_k_dense_replace": 3},
)  # fmt: skip
_DEEPSEEK32 = replace(_DEEPSEEK3, attention=AttentionNames(latent=True, indexer=True))
_GLM4_MOE = Family(
    AttentionNames(norms="head", norms_if="use_qk_norm", out_bias=False), NO_BIAS, _DEEPSEEK,
    keys=_ROUTED, defaults={"first_k_dense_replace": 1},
)  # fmt: skip
_MAMBA = Family(mlp=None, mixer="mamba", mixer_module="mixer", norms=1, tied=True, keys=_PLAIN_KEYS)
_LFM2 = Family(
    AttentionNames(names=_OUT_PROJ, bias=False, norms="head"),
    MlpNames("feed_forward", _W123, bias=False),
    mixer="convolution", mixer_module="conv", tied=True,
)  # fmt: skip

_MIXTURES: dict[str, Family] = {
    "mixtral": Family(_BARE, experts=_MIXTRAL, window="all", keys=_LOCAL),
    "phimoe": Family(
        experts=_MIXTRAL, norm_bias=True, head_bias="lm_head_bias", window="all", keys=_LOCAL,
    ),
    "qwen2_moe": Family(
        AttentionNames(bias="qkv_bias", out_bias=False), NO_BIAS, _QWEN, window="flag",
        defaults={"qkv_bias": True},
    ),
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_vl_moe_text": _QWEN3_MOE,
    "qwen3_next": _DELTA,
    "qwen3_5_text": replace(_DELTA, experts=None, mixer="delta in four"),
    "qwen3_5_moe_text": replace(_DELTA, mixer="delta in four"),
    "olmoe": Family(AttentionNames(norms="heads"), experts=ExpertNames(inner="intermediate_size")),
    "granitemoe": Family(experts=_GRANITE),
    "granitemoeshared": Family(experts=_GRANITE_SHARED),
    "granitemoehybrid": Family(
        experts=_GRANITE_SHARED, mixer="mamba2", mixer_module="mamba", keys=_MAMBA_KEYS,
    ),
    "bamba": Family(
        mlp=MlpNames("feed_forward"), mixer="mamba2", mixer_module="mamba", keys=_MAMBA_KEYS,
    ),
    "deepseek_v2": Family(
        AttentionNames(latent=True), experts=ExpertNames(shared=MlpNames("mlp.shared_experts")),
        keys=_ROUTED, defaults={"first_k_dense_replace": 0},
    ),
    "deepseek_v3": _DEEPSEEK3,
    "kimi_k2": _DEEPSEEK3,
    "deepseek_v32": _DEEPSEEK32,
    "glm_moe_dsa": _DEEPSEEK32,
    "glm4_moe": _GLM4_MOE,
    "glm4v_moe_text": replace(
        _GLM4_MOE, attention=AttentionNames(out_bias=False),
        defaults={"first_k_dense_replace": 1, "attention_bias": True},
    ),
    "glm4_moe_lite": replace(_DEEPSEEK3, defaults={"first_k_dense_replace": 1}),
    "dots1": replace(_GLM4_MOE, attention=_HEADS),
    "exaone_moe": replace(
        _GLM4_MOE, attention=replace(_HEADS, bias=False), window="pattern", pattern=4,
        keys={"num_experts": "num_experts"},
    ),
    "solar_open": Family(
        experts=_DEEPSEEK, keys={**_ROUTED, "first_k_dense_replace": ""},
    ),
    "hy_v3": Family(_HEADS, experts=_DEEPSEEK, defaults={"first_k_dense_replace": 1}),
    "llama4_text": Family(
        mlp=_FORWARD,
        experts=ExpertNames(
            MlpNames("feed_forward.experts.*", bias=False), "intermediate_size",
            "feed_forward.router", shared=MlpNames("feed_forward.shared_expert", bias=False),
            shared_inner="intermediate_size",
        ),
        keys=_LOCAL, defaults={"attention_chunk_size": 8192},
    ),
    "gpt_oss": Family(
        AttentionNames(sinks=True),
        experts=ExpertNames(replace(_EACH, bias=True), "intermediate_size", "mlp.router",
                        router_bias=True),
        window="pattern", pattern=2, keys=_LOCAL,
        defaults={"attention_bias": True, "head_dim": 64, "sliding_window": 128},
    ),
    "ernie4_5_moe": Family(
        AttentionNames(bias="use_bias"), MlpNames(bias="use_bias"),
        ExpertNames(shared=MlpNames("mlp.shared_experts", bias="use_bias"), correction=True),
        tied=True, head_bias="use_bias",
        keys={"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
        defaults={"moe_layer_start_index": 1},
    ),
    "hunyuan_v1_moe": Family(
        _HEADS, NO_BIAS,
        ExpertNames(inner="intermediate_size", router="mlp.gate.wg",
                shared=MlpNames("mlp.shared_mlp", bias=False)),
        keys={"num_experts": "num_experts", "num_experts_per_tok": "moe_topk",
              "n_shared_experts": "num_shared_expert"},
    ),
    "minimax": Family(
        _BARE, experts=_MIXTRAL, mixer="lightning", mixer_module="self_attn", keys=_LOCAL,
    ),
    "minimax_m2": Family(
        AttentionNames(bias=False, norms="heads", norms_if="use_qk_norm"),
        experts=replace(_MIXTRAL, correction=True), keys=_LOCAL, defaults={"use_qk_norm": True},
    ),
    "jamba": Family(
        _BARE, _FORWARD,
        ExpertNames(MlpNames("feed_forward.experts.*", bias=False), "intermediate_size",
                "feed_forward.router"),
        mixer="mamba", mixer_module="mamba", keys={**_MAMBA_KEYS, "num_experts": "num_experts"},
        defaults={"attn_layer_period": 8, "attn_layer_offset": 4,
                  "expert_layer_period": 2, "expert_layer_offset": 1},
    ),
    "nemotron_h": Family(
        AttentionNames("mixer", bias=False), MlpNames("mixer", _UP_DOWN_NAMES, gated=False),
        ExpertNames(
            MlpNames("mixer.experts.*", _UP_DOWN_NAMES, bias=False, gated=False),
            router="mixer.gate", correction=True,
            shared=MlpNames("mixer.shared_experts", _UP_DOWN_NAMES, gated=False),
            shared_inner="moe_shared_expert_intermediate_size",
        ),
        mixer="mamba2", mixer_module="mixer", norms=1, keys={**_ROUTED, **_NEMOTRON_KEYS},
    ),
    "falcon_h1": Family(
        mlp=MlpNames("feed_forward"), mixer="mamba2", mixer_module="mamba", parallel=True,
        keys=_MAMBA_KEYS,
    ),
    "lfm2": _LFM2,
    "lfm2_moe": replace(
        _LFM2,
        experts=ExpertNames(MlpNames("feed_forward.experts.*", _W123, bias=False),
                        router="feed_forward.gate", correction=True),
    ),
    "mamba": _MAMBA,
    "falcon_mamba": _MAMBA,
    "mamba2": replace(_MAMBA, mixer="mamba2", tied=False),
}  # fmt: skip

ARCHITECTURES: dict[str, Family] = {**_DENSE, **_MIXTURES}
