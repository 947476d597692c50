"""Laws of keys that a config lacks: a default is shown, a guess makes the count rough."""

import pytest

from helpers.shapes import released_config
from salient.core.errors import ModelError
from salient.shapes.from_config import read_shape


def without(name, key):
    """The released config `name`, its text's object if it has one, without `key`."""
    config = released_config(name)
    if "text_config" in config:
        text = {k: v for k, v in config["text_config"].items() if k != key}
        return {**config, "text_config": text}
    return {k: v for k, v in config.items() if k != key}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Llama-3.1-8B", "num_key_value_heads"),
        ("Qwen3-30B-A3B", "head_dim"),
        ("DeepSeek-V3", "q_lora_rank"),
        ("DeepSeek-V3", "first_k_dense_replace"),
    ],
)
def test_a_missing_key_that_every_config_of_the_family_states_makes_the_count_rough(name, key):
    shape = read_shape(without(name, key))
    assert shape.rough == (f"config.json has no {key}",)
    assert shape.low < read_shape(released_config(name)).parameters < shape.high
    assert shape.cache_low < 1 < shape.cache_high


def test_a_default_that_stands_in_for_a_missing_key_is_shown():
    assert read_shape(without("Llama-3.1-8B", "tie_word_embeddings")).assumed == (
        "head_dim = 128",
        "tie_word_embeddings = false",
    )
    assert read_shape(without("gpt-oss-20b", "sliding_window")).assumed == ("sliding_window = 128",)
    assert "text_config.head_dim = 256" in read_shape(without("gemma-3-27b-it", "head_dim")).assumed


def test_a_text_part_of_class_defaults_is_exact():
    """LLaVA 1.5 leaves all counts of its Llama to the class."""
    text = {"model_type": "llama", "vocab_size": 32064}
    vision = {**released_config("gemma-3-27b-it")["vision_config"]}
    config = {"model_type": "llava", "text_config": text, "vision_config": vision}
    assert read_shape({**config, "tie_word_embeddings": False}).exact


def test_a_large_head_that_may_be_tied_makes_the_count_rough():
    config = {**released_config("SmolLM2-135M"), "vocab_size": 150_000}
    shape = read_shape({k: v for k, v in config.items() if k != "tie_word_embeddings"})
    assert shape.low == shape.parameters - shape.head
    assert shape.high == shape.parameters


def test_experts_without_their_number_are_refused():
    with pytest.raises(ModelError, match="has no 'num_experts', which a model of type 'qwen3_moe'"):
        read_shape(without("Qwen3-30B-A3B", "num_experts"))


@pytest.mark.parametrize("key", ["vision_config", "image_token_index"])
def test_a_model_for_images_without_a_tower_is_rough(key):
    config = {k: v for k, v in released_config("gemma-3-27b-it").items() if k != "vision_config"}
    shape = read_shape({**config, "image_token_index": 7} if key.startswith("image") else config)
    assert shape.rough == ("config.json has no vision_config: counted without its vision tower",)
    assert shape.low == shape.parameters < shape.high
