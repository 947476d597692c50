"""The files next to the weights: copied as they are, with keys that old and new readers know."""

import json
import os

import pytest

from helpers.toy_models import byte_tokenizer
from salient.core.carried_files import (
    DEEPEST,
    LARGEST,
    MOST_FILES,
    SIDE_CARS,
    WEIGHTS,
    find_carried,
    matches,
)
from salient.core.errors import ModelError
from salient.formats.folder import copy_metadata, quantized_config, with_present_code

QUANTIZATION = {"quant_method": "awq"}


def config_of(**config):
    return quantized_config(config, QUANTIZATION, "float16")


@pytest.fixture
def folders(tmp_path):
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    return tmp_path / "source", tmp_path / "target"


# Files


COMPANIONS = [
    "tekken.json",
    "tiktoken.model",
    "qwen.tiktoken",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.bpe",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tools.jinja",
    "modules.json",
    "1_Pooling/config.json",
    "2_Dense/model.safetensors",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "modeling_x.py",
    "configuration_x.py",
    "reasoning_parser.py",
    "preprocessor_config.json",
    "image_processor_config.json",
    "audio_processor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "LICENSE",
    "LICENSE.md",
    "LICENCE",
    "NOTICE",
    "USE_POLICY.md",
    "SYSTEM_PROMPT.txt",
    "params.json",
    "figures/a.png",
    "README_zh.md",
]
LEFT_BEHIND = [
    "config.json",
    "README.md",
    "salient.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
    "consolidated.00.pth",
    "consolidated.safetensors",
    "model.Q4_K_M.gguf",
    "MODEL.GGUF",
    "onnx/model.onnx",
    "onnx/model.onnx_data",
    "original/params.json",
    "original/tokenizer.model",
    "optimizer.pt",
    "training_args.bin",
    ".gitattributes",
    ".cache/huggingface/download/a.metadata",
    ".git/config",
    ".ipynb_checkpoints/a.json",
    "tokenizer.json.incomplete",
    "model.safetensors.tmp",
    "out.partial/.lock",
    "out.partial/tokenizer.json",
    "__pycache__/modeling_x.cpython-311.pyc",
    "checkpoint-5/config.json",
    "checkpoint-5/model.safetensors",
    "checkpoint-5/tokenizer.json",
    "adapter_config.json",
]


def write(folder, name, content=b"content\r\n\xff"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'{"a":   1}' if name.endswith(".json") else content)
    path.chmod(0o600)


def names_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_companions_of_every_kind_are_copied_byte_for_byte(folders):
    source, target = folders
    for name in (*COMPANIONS, *LEFT_BEHIND):
        write(source, name)
    assert copy_metadata(source, target) == {}
    assert names_in(target) == sorted(COMPANIONS)
    for name in COMPANIONS:
        assert (target / name).read_bytes() == (source / name).read_bytes()
        assert (target / name).stat().st_mode & 0o777 == 0o644


def test_side_cars_of_quantizers_are_left_behind(folders):
    source, target = folders
    for name in SIDE_CARS:
        write(source, name)
    assert copy_metadata(source, target) == {}
    assert names_in(target) == []


def test_files_that_are_too_large_too_many_or_too_deep_are_named(folders):
    source, target = folders
    write(source, "film.mp4")
    with (source / "film.mp4").open("r+b") as file:
        file.truncate(LARGEST + 2**20)
    write(source, "a/" * (DEEPEST + 1) + "b.txt")
    write(source, "2_Dense/pytorch_model.bin")
    for number in range(MOST_FILES + 3):
        write(source, f"many/{number:04}.txt")
    omitted = copy_metadata(source, target)
    assert omitted["film.mp4"] == "65 MiB, more than 64"
    assert omitted["a/" * (DEEPEST + 1) + "b.txt"] == "deeper than 4 folders"
    assert omitted["2_Dense/pytorch_model.bin"] == "a pickle: convert it to safetensors"
    assert omitted["many/0500.txt"] == "it and 2 others come after the first 500 files"
    assert len(names_in(target)) == MOST_FILES


def test_a_tokenizer_of_any_size_is_copied(folders):
    source, target = folders
    write(source, "tokenizer.json")
    with (source / "tokenizer.json").open("r+b") as file:
        file.truncate(LARGEST + 1)
    assert copy_metadata(source, target) == {}
    assert names_in(target) == ["tokenizer.json"]


def test_links_are_followed_only_inside_and_into_the_cache_of_the_hub(tmp_path):
    repo = tmp_path / "models--org--name"
    source, target = repo / "snapshots" / "0123", tmp_path / "target"
    source.mkdir(parents=True)
    target.mkdir()
    write(repo / "blobs", "aa")
    write(source, "NOTICE")
    write(tmp_path, "secret")
    write(tmp_path, "folder/secret")
    for name, goal in {
        "LICENSE": "../../blobs/aa",
        "inner": "NOTICE",
        "stolen.txt": str(tmp_path / "secret"),
        "tree": str(tmp_path / "folder"),
        "dangling.txt": "nothing",
    }.items():
        (source / name).symlink_to(goal)
    omitted = copy_metadata(source, target)
    assert names_in(target) == ["LICENSE", "NOTICE", "inner"]
    assert not any(path.is_symlink() for path in target.rglob("*"))
    outside = "a link out of the folder"
    assert omitted == {"stolen.txt": outside, "tree": outside, "dangling.txt": "a link to no file"}


def test_a_tokenizer_that_is_a_link_to_elsewhere_is_refused(tmp_path):
    write(tmp_path, "other/tokenizer.json")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "tokenizer.json").symlink_to(tmp_path / "other" / "tokenizer.json")
    message = r"tokenizer\.json is a link out of the folder, which Salient does not follow"
    with pytest.raises(ModelError, match=message):
        find_carried(tmp_path / "source")


def test_what_is_no_file_is_not_copied(folders):
    source, target = folders
    os.mkfifo(source / "pipe.txt")
    assert copy_metadata(source, target) == {"pipe.txt": "no regular file"}
    assert names_in(target) == []


def test_every_kind_of_weights_is_excluded_in_any_case():
    for pattern in WEIGHTS:
        name = pattern.strip("*").upper().replace("*", "")
        assert matches(f"A{name}", WEIGHTS)


# Code


@pytest.mark.parametrize(
    ("value", "present"),
    [
        ({"AutoModel": "modeling_x.X"}, True),
        ({"AutoModel": "modeling_y.Y"}, False),
        ({"AutoModel": "org/name--modeling_y.Y"}, True),
        ({"AutoTokenizer": ["modeling_x.Slow", None]}, True),
        ({"AutoTokenizer": ["modeling_y.Slow", None]}, False),
        (["modeling_x.Slow", "modeling_y.Fast"], False),
    ],
    ids=str,
)
def test_auto_map_names_code_that_is_there(value, present, tmp_path):
    (tmp_path / "modeling_x.py").write_text("raise SystemExit")
    config = {"model_type": "x", "auto_map": value}
    expected = config if present else {"model_type": "x"}
    assert with_present_code(config, tmp_path) == expected


def test_auto_map_keeps_the_entries_whose_code_is_there(tmp_path):
    (tmp_path / "modeling_x.py").write_text("raise SystemExit")
    config = {"auto_map": {"AutoModel": "modeling_x.X", "AutoConfig": "configuration_x.X"}}
    assert with_present_code(config, tmp_path) == {"auto_map": {"AutoModel": "modeling_x.X"}}


def test_a_tokenizer_config_without_its_code_loses_auto_map_with_a_remark(folders):
    source, target = folders
    settings = {"auto_map": {"AutoTokenizer": ["gone.Slow", None]}, "eos_token": "</s>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    omitted = copy_metadata(source, target)
    assert omitted == {"auto_map of tokenizer_config.json": "its code is not in the folder"}
    assert json.loads((target / "tokenizer_config.json").read_text()) == {"eos_token": "</s>"}


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
