"""Shapes of released models, compared with what their makers published.

Totals are `metadata.total_size` of each repository's model.safetensors.index.json over the bytes of
a parameter, or the parameter count that the Hub shows of it, unless `source` says otherwise.
"""

import json
from dataclasses import dataclass
from importlib.resources import files

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import ModelShape

CONFIGS = files("salient.shapes") / "configs"


@dataclass(frozen=True)
class Published:
    """A released model.

    total: parameters; exact: whether the published number is
    active: those a token passes, 0 where all are; without_embedding: the maker leaves it out
    token: bytes of the 16-bit cache that one more token takes: blocks * values * 2
    """

    id: str
    total: float
    token: int
    exact: bool = True
    active: float = 0
    without_embedding: bool = False
    source: str = "the Hub's count of its safetensors"


RELEASED = (
    Published("meta-llama/Llama-3.1-8B", 8_030_261_248, 32 * (2 * 8 * 128) * 2),
    Published("meta-llama/Llama-3.1-70B", 70_553_706_496, 80 * (2 * 8 * 128) * 2),
    Published("Qwen/Qwen2.5-14B", 14_770_033_664, 48 * (2 * 8 * 128) * 2),
    Published("Qwen/Qwen3-8B", 8_190_735_360, 36 * (2 * 8 * 128) * 2),
    Published(
        "Qwen/Qwen3-30B-A3B", 30_532_122_624, 48 * (2 * 4 * 128) * 2, active=3.3e9,
        source="the Hub's count; active: its model card",
    ),
    Published(
        "mistralai/Mistral-Small-24B-Instruct-2501", 23_572_403_200, 40 * (2 * 8 * 128) * 2
    ),
    Published(
        "mistralai/Mixtral-8x7B-v0.1", 46_702_792_704, 32 * (2 * 8 * 128) * 2, active=12.9e9,
        source="the Hub's count; active: mistral.ai/news/mixtral-of-experts",
    ),
    Published(
        "deepseek-ai/DeepSeek-V3", 671e9, 61 * (512 + 64) * 2, exact=False, active=37e9,
        source="arXiv 2412.19437, abstract; the layer for multi-token prediction is not counted",
    ),
    Published("google/gemma-3-27b-it", 27_432_406_640, 62 * (2 * 16 * 128) * 2),
    Published("microsoft/phi-4", 14_659_507_200, 40 * (2 * 10 * 128) * 2),
    Published(
        "openai/gpt-oss-20b", 20_914_757_184, 24 * (2 * 8 * 64) * 2, active=3.61e9,
        without_embedding=True, source="arXiv 2508.10925, table 1: total 20.91 B, active 3.61 B",
    ),
    Published("HuggingFaceTB/SmolLM2-135M", 134_515_008, 30 * (2 * 3 * 64) * 2),
)  # fmt: skip
each_released = pytest.mark.parametrize("row", RELEASED, ids=lambda row: row.id)


def config_of(row: Published) -> dict:
    return json.loads((CONFIGS / f"{row.id.replace('/', '--')}.json").read_text())


def shape_of(row: Published) -> ModelShape:
    return read_shape(config_of(row))


def test_every_shipped_config_is_compared_with_a_published_number():
    shipped = {path.name for path in CONFIGS.iterdir() if path.name.endswith(".json")}
    assert shipped == {f"{row.id.replace('/', '--')}.json" for row in RELEASED}


@each_released
def test_the_total_is_the_published_one(row):
    assert shape_of(row).parameters == pytest.approx(row.total, rel=0 if row.exact else 0.005)


@each_released
def test_the_active_parameters_are_the_published_ones(row):
    shape = shape_of(row)
    active = shape.active_parameters - (shape.embedding if row.without_embedding else 0)
    expected = row.active or row.total - sum(shape.towers.values())
    assert active == pytest.approx(expected, rel=0.03)


@each_released
def test_a_token_takes_the_published_cache(row):
    assert shape_of(row).values_per_token * 2 == row.token


@pytest.mark.parametrize(
    ("row", "window", "sliding", "blocks"),
    [(RELEASED[8], 1024, 52, 62), (RELEASED[10], 128, 12, 24)],
)
def test_most_blocks_with_a_window_cache_no_more_tokens_than_it(row, window, sliding, blocks):
    """Gemma 3: five local blocks to a global one, arXiv 2503.19786; gpt-oss: every other one."""
    windows = [block.cache.window for block in shape_of(row).blocks]
    assert (windows.count(window), len(windows)) == (sliding, blocks)


@each_released
def test_the_shape_is_that_of_transformers_class_to_the_last_parameter(row):
    config = {key: v for key, v in config_of(row).items() if key != "quantization_config"}
    code = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
    with torch.device("meta"):
        model = code.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    corrections = (b for n, b in model.named_buffers() if n.endswith("e_score_correction_bias"))
    expected = sum(p.numel() for p in (*model.parameters(), *corrections))
    shape = shape_of(row)
    assert shape.parameters == expected
    assert shape.tied == (model.get_input_embeddings().weight is model.lm_head.weight)


CHATGLM2 = {
    "model_type": "chatglm", "add_bias_linear": False, "add_qkv_bias": True,
    "ffn_hidden_size": 13696, "hidden_size": 4096, "kv_channels": 128,
    "multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": 32,
    "num_layers": 28, "padded_vocab_size": 65024, "post_layer_norm": True, "seq_length": 32768,
    "tie_word_embeddings": False,
}  # fmt: skip
# Of Llama-3.3-Nemotron-Super-49B: blocks, whether they have attention, widths of the MLP.
SEARCHED = [
    (48, True, 5.25), (10, False, 1.3125), (8, False, 1.0), (6, False, 0.5), (5, False, 2.625),
    (1, True, 2.625), (1, False, 3.28125), (1, False, 5.25),
]  # fmt: skip
NEMOTRON_49B = {
    "model_type": "nemotron-nas", "hidden_size": 8192, "num_attention_heads": 64,
    "num_hidden_layers": 80, "num_key_value_heads": None, "intermediate_size": None,
    "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    "block_configs": [
        {"attention": {"n_heads_in_group": 8 if attends else None, "no_op": not attends},
         "ffn": {"ffn_mult": times, "no_op": False}}
        for many, attends, times in SEARCHED
        for _ in range(many)
    ],
}  # fmt: skip


def remote(kind: str, layers: int, hidden: int, heads: int, kv: int, inner: int, vocab: int, **own):
    """A config of a family whose code is in its repository."""
    return {
        "model_type": kind, "num_hidden_layers": layers, "hidden_size": hidden,
        "num_attention_heads": heads, "num_key_value_heads": kv, "intermediate_size": inner,
        "vocab_size": vocab, "max_position_embeddings": 4096, "tie_word_embeddings": False, **own,
    }  # fmt: skip


DBRX = {
    "model_type": "dbrx", "d_model": 6144, "n_layers": 40, "n_heads": 48, "vocab_size": 100352,
    "max_seq_len": 32768, "tie_word_embeddings": False, "attn_config": {"kv_n_heads": 8},
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
}  # fmt: skip
SHARED_EXPERTS = {
    "n_routed_experts": 64, "num_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2,
    "num_shared_experts": 2, "moe_intermediate_size": 1408,
}  # fmt: skip
LONGCAT = {
    "model_type": "longcat_flash", "num_layers": 28, "hidden_size": 6144, "vocab_size": 131072,
    "num_attention_heads": 64, "ffn_hidden_size": 12288, "expert_ffn_hidden_size": 2048,
    "n_routed_experts": 512, "zero_expert_num": 256, "moe_topk": 12, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "max_position_embeddings": 131072,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "total", "token"),
    [
        # total_size of its index over 2 bytes, without 32 inverse frequencies
        (CHATGLM2, 6_243_584_000, 28 * (2 * 2 * 128) * 2),
        # the Hub's counts
        (NEMOTRON_49B, 49_867_145_216, 49 * (2 * 8 * 128) * 2),
        (remote("baichuan", 32, 4096, 32, 32, 11008, 125696), 7_505_973_248, 32 * 8192 * 2),
        (remote("internlm2", 32, 4096, 32, 8, 14336, 92544), 7_737_708_544, 32 * 2048 * 2),
        (remote("qwen", 32, 4096, 32, 32, 22016, 151936), 7_721_324_544, 32 * 8192 * 2),
        (remote("exaone", 32, 4096, 32, 8, 14336, 102400), 7_818_448_896, 32 * 2048 * 2),
        (DBRX, 131_596_523_520, 40 * (2 * 8 * 128) * 2),
        (
            remote("deepseek", 28, 2048, 16, 16, 10944, 102400, **SHARED_EXPERTS,
                   first_k_dense_replace=1),
            16_375_728_128, 28 * 4096 * 2,
        ),
        # as their makers round them
        (remote("grok-1", 64, 6144, 48, 8, 32768, 131072, num_experts=8, num_experts_per_tok=2),
         314e9, 64 * 2048 * 2),
        (remote("bailing_moe", 28, 2048, 16, 4, 5632, 126464, **SHARED_EXPERTS),
         16.8e9, 28 * 1024 * 2),
        (LONGCAT, 560e9, 56 * (512 + 64) * 2),
    ],
)  # fmt: skip
def test_families_of_remote_code_have_the_published_parameters_and_cache(config, total, token):
    shape = read_shape(config)
    assert shape.parameters == pytest.approx(total, rel=0 if isinstance(total, int) else 0.01)
    assert shape.values_per_token * 2 == token


def test_the_layer_ahead_of_deepseek_v3_is_counted_as_its_files_have_it():
    """The Hub's count of its safetensors without the scales of FP8: 684,489,845,504."""
    shape = shape_of(next(row for row in RELEASED if row.id.endswith("DeepSeek-V3")))
    assert shape.files_parameters == 684_489_845_504
    assert f"{shape.ahead:,} parameters" in shape.notes[0]
