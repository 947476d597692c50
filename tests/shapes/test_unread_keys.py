"""Laws of keys that nothing read: one that looks like a shape makes the count rough."""

import json

import pytest
from transformers import CONFIG_MAPPING

from helpers.shapes import released_config
from salient.shapes.families import ARCHITECTURES
from salient.shapes.from_config import read_shape
from salient.shapes.rough_counts import UNREAD
from salient.shapes.unread_keys import HARMLESS, looks_like_shape

SHAPES = (
    ("moe_latent_size", 1024),
    ("global_head_dim", 512),
    ("num_global_key_value_heads", 4),
    ("attention_k_eq_v", True),
    ("hidden_size_per_layer_input", 256),
    ("laurel_rank", 64),
    ("num_kv_shared_layers", 15),
    ("hybrid_layer_pattern", [0, 1, 1]),
    ("compress_ratios", [0, 4, 128]),
    ("routed_expert_hidden_size", 3584),
    ("linear_attn_config", {"head_dim": 128}),
    ("block_configs", [{"attention": {"n_heads_in_group": 8}}]),
    ("ffn_expansion", 2.5),
    ("layer_pattern", "LLLG"),
)
OFF = (
    ("num_kv_shared_layers", 0),
    ("hidden_size_per_layer_input", None),
    ("attention_k_eq_v", False),
    ("moe_layer_freq", 1),
    ("indexer_types", ["full", "full"]),
    ("bos_token_id", 128000),
    ("rope_scaling", {"original_max_position_embeddings": 8192}),
    ("attention_dropout", 0.1),
    ("pretraining_tp", 4),
    ("auto_map", {"AutoConfig": "configuration.Config"}),
    ("quantization", {"group_size": 64, "bits": 4}),
)


@pytest.mark.parametrize(("key", "value"), SHAPES)
def test_an_unread_key_that_looks_like_a_shape_makes_a_known_family_rough(key, value):
    config = released_config("Llama-3.1-8B")
    shape = read_shape({**config, key: value})
    assert shape.rough == (f"not read: {key}",)
    assert shape.low < shape.parameters < shape.high


@pytest.mark.parametrize(("key", "value"), OFF)
def test_a_key_that_is_off_or_says_nothing_of_a_shape_leaves_the_count_exact(key, value):
    assert read_shape({**released_config("Llama-3.1-8B"), key: value}).exact


@pytest.mark.parametrize(("value", "exact"), [(14336, True), (28672, False)])
def test_another_name_of_a_key_counts_as_read_where_it_says_the_same(value, exact):
    config = released_config("Llama-3.1-8B")
    assert config["intermediate_size"] == 14336
    assert read_shape({**config, "n_inner": value}).exact is exact


def test_keys_with_dots_are_read_as_others():
    config = released_config("Llama-3.1-8B")
    assert read_shape({**config, "transformers.js_config": {"dtype": "q4"}}).exact
    rough = read_shape({**config, "own.sizes": {"latent_size": 64}}).rough
    assert rough == ("not read: own.sizes",)


def test_unread_keys_are_named_with_the_object_that_they_are_in():
    config = released_config("gemma-3-27b-it")
    text = {**config["text_config"], "laurel_rank": 64}
    assert read_shape({**config, "text_config": text}).rough == (
        "not read: text_config.laurel_rank",
    )


def test_an_unread_key_of_a_tower_widens_the_range_by_less():
    config = released_config("gemma-3-27b-it")
    shape = read_shape({**config, "vision_config": {**config["vision_config"], "extra_layers": 3}})
    assert shape.rough == ("not read: vision_config.extra_layers",)
    assert shape.low == shape.parameters < shape.high < 1.1 * shape.parameters


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES.keys() & CONFIG_MAPPING.keys()))
def test_the_config_of_every_known_class_is_read_whole(kind):
    config = json.loads(json.dumps(CONFIG_MAPPING[kind]().to_dict(), default=str))
    if config.get("num_experts_per_tok", 1) is None:  # DeepSeek-V2's class needs one
        config["num_experts_per_tok"] = 2
    assert not [reason for reason in read_shape(config).rough if reason.startswith(UNREAD)]


def test_each_harmless_pattern_matches_no_shape():
    patterns = [pattern for patterns in HARMLESS.values() for pattern in patterns]
    assert len(patterns) == len(set(patterns))
    assert not any(looks_like_shape(pattern.replace("*", "x"), 7) for pattern in patterns)
