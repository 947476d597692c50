"""What goes beside the weights: carried as it was, in words that old and new readers know."""

import json

import pytest

from helpers.toy_models import byte_tokenizer
from salient.formats.folder import CARRIED, copy_metadata, quantized_config

QUANTIZATION = {"quant_method": "awq"}


def config_of(**config):
    return quantized_config(config, QUANTIZATION, "float16")


@pytest.fixture
def folders(tmp_path):
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    return tmp_path / "source", tmp_path / "target"


# Files


def test_tokenizer_template_and_licence_are_carried_as_they_are(folders):
    source, target = folders
    for name in CARRIED:
        if name.endswith(".json"):
            (source / name).write_text(f'{{"name":   "{name}"}}')
        elif name == "additional_chat_templates":
            (source / name).mkdir()
            (source / name / "tools.jinja").write_text("{{ tools }}")
        else:
            (source / name).write_bytes(name.encode() + b"\r\n\xff")
    copy_metadata(source, target)
    files = [p.relative_to(source) for p in source.rglob("*") if p.is_file()]
    assert len(files) == len(CARRIED)
    for file in files:
        assert (target / file).read_bytes() == (source / file).read_bytes()


def test_weights_config_and_strangers_are_not_carried(folders):
    source, target = folders
    for name in ("config.json", "model.safetensors", "model.safetensors.index.json", "evil.py"):
        (source / name).write_text("{}")
    copy_metadata(source, target)
    assert list(target.iterdir()) == []


def test_carrying_twice_changes_nothing(folders):
    source, target = folders
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "a.jinja").write_text("a")
    byte_tokenizer().save_pretrained(source)
    copy_metadata(source, target)
    once = {p: p.read_bytes() for p in target.rglob("*") if p.is_file()}
    copy_metadata(source, target)
    assert {p: p.read_bytes() for p in target.rglob("*") if p.is_file()} == once


def test_a_tokenizer_class_of_transformers_5_is_called_as_transformers_4_knows_it(folders):
    source, target = folders
    settings = {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "is_local": True,
        "local_files_only": False,
        "eos_token": "</s>",
        "model_max_length": 512,
    }
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    copy_metadata(source, target)
    assert json.loads((target / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "model_max_length": 512,
    }


def test_any_other_tokenizer_class_is_left_to_the_byte(folders):
    source, target = folders
    text = '{"tokenizer_class":"LlamaTokenizerFast",   "backend": "kept"}'
    (source / "tokenizer_config.json").write_text(text)
    copy_metadata(source, target)
    assert (target / "tokenizer_config.json").read_text() == text


def test_a_tokenizer_that_was_carried_gives_the_same_tokens(folders):
    from transformers import AutoTokenizer

    source, target = folders
    byte_tokenizer().save_pretrained(source)
    copy_metadata(source, target)
    carried = AutoTokenizer.from_pretrained(target)
    text = "Zoë said: 16 bits </s>"
    assert carried(text).input_ids == byte_tokenizer()(text).input_ids
    assert carried.eos_token_id == byte_tokenizer().eos_token_id


# config.json


@pytest.mark.parametrize("old", ["dtype", "torch_dtype"])
def test_the_16_bit_type_has_the_old_key_and_the_new(old):
    built = config_of(**{old: "bfloat16"})
    assert built["torch_dtype"] == built["dtype"] == "float16"


def test_only_the_quantization_of_the_source_is_replaced():
    built = config_of(quantization_config={"quant_method": "gptq"}, hidden_size=64, odd=[1])
    assert built["quantization_config"] == QUANTIZATION
    assert built["hidden_size"] == 64
    assert built["odd"] == [1]


def test_the_config_of_the_argument_is_not_modified():
    config = {"dtype": "bfloat16", "rope_parameters": {"rope_type": "default", "rope_theta": 1.0}}
    before = json.dumps(config)
    quantized_config(config, QUANTIZATION, "float16")
    assert json.dumps(config) == before


def test_default_rope_has_the_old_keys_too():
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    built = config_of(rope_parameters=rope)
    assert built["rope_parameters"] == rope
    assert built["rope_theta"] == 500000.0
    assert built["rope_scaling"] is None


def test_scaled_rope_has_the_old_keys_too():
    scaling = {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192}
    built = config_of(rope_parameters={"rope_theta": 10000.0, **scaling})
    assert built["rope_theta"] == 10000.0
    assert built["rope_scaling"] == scaling


def test_a_partial_rotary_factor_is_where_old_readers_expect_it():
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    built = config_of(rope_parameters=rope)
    assert built["partial_rotary_factor"] == 0.5
    assert built["rope_scaling"] is None


def test_rope_of_each_kind_of_layer_has_gemma_3s_old_keys():
    full = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    local = {"rope_type": "default", "rope_theta": 1e4}
    built = config_of(rope_parameters={"full_attention": full, "sliding_attention": local})
    assert built["rope_theta"] == 1e6
    assert built["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert built["rope_local_base_freq"] == 1e4


def test_rope_of_full_attention_alone_has_no_local_frequency():
    full = {"rope_type": "default", "rope_theta": 1e6}
    built = config_of(rope_parameters={"full_attention": full, "sliding_attention": None})
    assert built["rope_theta"] == 1e6
    assert built["rope_scaling"] is None
    assert "rope_local_base_freq" not in built


def test_a_config_with_the_old_keys_is_unchanged():
    old = {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}
    built = config_of(**old)
    assert {k: built[k] for k in old} == old
    assert "rope_parameters" not in built


def test_both_keys_of_the_source_are_unchanged():
    both = {"rope_theta": 1e4, "rope_scaling": None, "rope_parameters": {"rope_theta": 2e4}}
    built = config_of(**both)
    assert {k: built[k] for k in both} == both


@pytest.mark.parametrize("config", [{}, {"rope_parameters": None}, {"alibi": True}], ids=str)
def test_a_model_without_rope_gets_none(config):
    assert not {"rope_theta", "rope_scaling"} & config_of(**config).keys()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gemma3_text"])
def test_transformers_reads_the_same_rope_from_the_old_keys(kind, tmp_path):
    from transformers import AutoConfig

    source = AutoConfig.for_model(kind)
    built = quantized_config(json.loads(source.to_json_string(use_diff=False)), {}, "float16")
    del built["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(built))
    result = AutoConfig.from_pretrained(tmp_path)
    assert result.rope_parameters == source.rope_parameters
