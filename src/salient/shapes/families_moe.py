"""The rows of `table.py` with experts, or with something in attention's place."""

from dataclasses import replace

from .family import NO_BIAS, AttentionNames, ExpertNames, Family, MlpNames

_BARE = AttentionNames(bias=False)
_HEADS = AttentionNames(norms="head")
_W123 = ("w1", "w3", "w2")
_UP_DOWN = ("up_proj", "down_proj")
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
    AttentionNames(names=("q_proj", "k_proj", "v_proj", "out_proj"), bias=False, norms="head"),
    MlpNames("feed_forward", _W123, bias=False), mixer="convolution", mixer_module="conv", tied=True,
)  # fmt: skip

MIXTURES: dict[str, Family] = {
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
        AttentionNames(latent=True), experts=ExpertNames(shared=MlpNames("mlp.shared_experts")), keys=_ROUTED,
        defaults={"first_k_dense_replace": 0},
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
            MlpNames("feed_forward.experts.*", bias=False), "intermediate_size", "feed_forward.router",
            shared=MlpNames("feed_forward.shared_expert", bias=False), shared_inner="intermediate_size",
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
        AttentionNames("mixer", bias=False), MlpNames("mixer", _UP_DOWN, gated=False),
        ExpertNames(MlpNames("mixer.experts.*", _UP_DOWN, bias=False, gated=False), router="mixer.gate",
                correction=True, shared=MlpNames("mixer.shared_experts", _UP_DOWN, gated=False),
                shared_inner="moe_shared_expert_intermediate_size"),
        mixer="mamba2", mixer_module="mixer", norms=1, keys={**_ROUTED, **_NEMOTRON_KEYS},
    ),
    "falcon_h1": Family(
        mlp=MlpNames("feed_forward"), mixer="mamba2", mixer_module="mamba", beside=True,
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
