"""Laws of invalid configs: refused by key, value and what fits, with no other error."""

import copy
import random
from typing import Any

import pytest
from transformers import AutoConfig

from helpers.meta_models import ALL, built
from salient.core.errors import ModelError
from salient.shapes.config_reader import KEYS, MOST_LAYERS
from salient.shapes.families import ARCHITECTURES
from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import ModelShape


def shape_of(kind: str, **changes: Any) -> ModelShape:
    return read_shape({**built(kind)[0], **changes})


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads",
                                  "vocab_size", "intermediate_size", "model_type"])  # fmt: skip
def test_a_missing_key_is_named_with_its_file(key):
    config = {name: value for name, value in built("llama")[0].items() if name != key}
    with pytest.raises(ModelError, match=rf"odd\.json.*{key}"):
        read_shape(config, "odd.json")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llama", {"hidden_size": "big"}, "hidden_size is 'big', but only a whole number from 1"),
        ("llama", {"hidden_size": -4096}, "hidden_size is -4096"),
        ("llama", {"hidden_size": True}, "hidden_size is True"),
        ("llama", {"hidden_size": [64]}, r"hidden_size is \[64\]"),
        ("llama", {"hidden_size": 64.5}, r"hidden_size is 64\.5"),
        ("llama", {"vocab_size": 10**30}, "vocab_size is 10+"),
        ("llama", {"vocab_size": 10**5000}, "vocab_size is a int too long to show"),
        ("llama", {"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ("llama", {"num_hidden_layers": 10**9}, "only a whole number from 1 to 10000 fits"),
        ("llama", {"num_hidden_layers": MOST_LAYERS + 1}, "num_hidden_layers is 10001"),
        ("llama", {"attention_bias": "yes"}, "attention_bias is 'yes', but only true or false"),
        ("llama", {"num_attention_heads": 128, "head_dim": None}, "up to the hidden width 64"),
        ("llama", {"layer_types": ["mamba", "mamba"]}, "attention in every block"),
        ("llama", {"layer_types": ["full_attention"]}, "a list of 2 names, one for each layer"),
        ("llama", {"layer_types": [1, 2]}, "only a list of names"),
        ("llama", {"dtype": 16}, "dtype is 16, but only the name of a floating-point type"),
        ("llama", {"dtype": "int4"}, "dtype is 'int4', but only the name of a floating-point type"),
        ("llama", {"num_attention_heads": 4, "num_key_value_heads": 3}, "a divisor of the 4 att"),
        ("llama", {"quantization_config": "awq"}, "only a JSON object fits"),
        ("llama", {"text_config": 5}, "text_config is 5"),
        ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
        ("qwen2_moe", {"mlp_only_layers": "all"}, "only a list of whole numbers"),
        ("mixtral", {"num_experts_per_tok": 9}, "up to the 8 experts"),
        ("deepseek_v3", {"kv_lora_rank": None}, "has no 'kv_lora_rank'"),
        ("exaone4", {"sliding_window_pattern": "LXG", "layer_types": None}, "a string of L and G"),
        ("nemotron_h", {"layers_block_type": None}, "has no 'layers_block_type'"),
        ("nemotron_h", {"layers_block_type": None, "hybrid_override_pattern": "MX"}, "letters M"),
        ("hunyuan_v1_moe", {"moe_topk": [1]}, "or a list of 2, one for each"),
        ("glm4_moe", {"mlp_layer_types": ["dense", "odd"]}, "a list of 'dense' and 'sparse'"),
        ("lfm2", {"block_ffn_dim_multiplier": -1}, "only a number above 0"),
    ],
)  # fmt: skip
def test_an_invalid_value_is_named_with_what_fits(kind, changes, message):
    with pytest.raises(ModelError, match=message):
        shape_of(kind, **changes)


def test_a_layout_of_its_own_is_named_and_not_to_be_fetched_again():
    blocks = {"block_configs": [{}], "auto_map": {}, "intermediate_size": None}
    with pytest.raises(
        ModelError, match=r"of its own \(block_configs, code of its own in auto_map"
    ):
        shape_of("llama", **blocks)
    with pytest.raises(ModelError, match=r"has no 'hidden_size'.* its layout is not known: give a"):
        shape_of("llama", hidden_size=None)


def test_a_kind_of_attention_that_is_not_known_makes_the_count_rough():
    shape = shape_of("llama", layer_types=["novel_attention", "full_attention"])
    assert shape.rough == ("layer_types has novel_attention, counted as full attention",)
    assert shape.blocks == shape_of("llama").blocks


def test_a_config_that_is_no_object_is_refused():
    with pytest.raises(ModelError, match=r"holds .*, not a JSON object"):
        read_shape([1, 2])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["bert", "t5", "whisper", "clip", "siglip", "modernbert"])
def test_other_models_than_decoders_are_refused_with_the_kinds_that_fit(kind):
    config = AutoConfig.for_model(kind).to_dict()
    with pytest.raises(ModelError, match=f"type {kind!r}, which is no decoder-only.*Llama, Qwen"):
        read_shape(config)


BAD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 10**30, 10_001, 10**9, 1.5, -2.5, float("nan"), "", "big",
    "auto", [], [1, 2], [[]], ["full_attention"], ["x", 1], {}, {"a": 1}, {"model_type": "llama"},
)  # fmt: skip


def mutated(config: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """`config` with a few keys changed, dropped or added, at any depth."""
    result = copy.deepcopy(config)
    for _ in range(chance.randint(1, 4)):
        place = result
        key = chance.choice(sorted(place))
        while isinstance(place[key], dict) and place[key] and chance.random() < 0.7:
            place = place[key]
            key = chance.choice(sorted(place))
        if chance.random() < 0.2:
            key = chance.choice(sorted(KEYS))
        if chance.random() < 0.2:
            place.pop(key, None)
        else:
            place[key] = copy.deepcopy(chance.choice(BAD))
        if chance.random() < 0.1:
            result["model_type"] = chance.choice(sorted(ARCHITECTURES))
        result = result or {"model_type": "llama"}
    return result


@pytest.mark.parametrize("seed", range(6))
def test_a_spoiled_config_gives_a_shape_or_a_model_error(seed):
    chance = random.Random(seed)
    refused = 0
    for _ in range(150):
        config = mutated(built(chance.choice(sorted(ALL)))[0], chance)
        try:
            shape = read_shape(config)
        except ModelError:
            refused += 1
        else:
            assert shape.parameters >= shape.embedding > 0
            assert shape.cache_values(100) >= 0
    assert 0 < refused < 150
