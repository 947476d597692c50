"""Laws of the other evidence of a count: the size in a model's name, the index of its files."""

import json

import pytest

from helpers.shapes import released, released_config
from salient.core.errors import ModelError
from salient.shapes.named_size import model_name, named_size
from salient.shapes.resolve import resolve_shape, shape_of_folder

GB = 10**9


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("Qwen/Qwen3-8B", 8, None),
        ("Qwen3_8B-instruct", 8, None),
        ("Llama-3_3-Nemotron-Super-49B-v1_5", 49, None),
        ("internlm2_5-1_8b-chat", 1.8, None),
        ("bloom-7b1", 7.1, None),
        ("SmolLM2-135M", 0.135, None),
        ("Ling-1T", 1000, None),
        ("Qwen3-30B-A3B-4bit", 30, 3),
        ("Nemotron-3-Super-120B-A12B-FP8", 120, 12),
        ("granite-3.0-1b-a400m", 1, 0.4),
        ("Mixtral-8x7B-v0.1", 46.7, None),
        ("gemma-3n-E4B", 6.9, None),
        ("Llama-4-Maverick-17B-128E", 400, 17),
        ("TinyLlama-1.1B-step-1431k-3T", 1.1, None),
        ("Hunyuan-A13B", None, 13),
    ],
)
def test_the_size_in_a_name_is_read(name, total, active):
    size = named_size(model_name(name))
    assert bool(size.totals) == (total is not None)
    assert (size.active is not None) == (active is not None)
    if total:
        assert any(low <= total * GB <= high for low, high in size.totals)
        assert not any(low <= total * GB * 4 <= high for low, high in size.totals) or "E" in name
    if active:
        assert size.active[0] <= active * GB <= size.active[1] < 2 * active * GB


@pytest.mark.parametrize("name", ["gpt2", "Qwen3-Next-MLX-4.5bit", "w4a16-128k", "phi-1_5", "1x"])
def test_other_numbers_in_a_name_are_no_size(name):
    assert named_size(name) is None


def test_the_name_of_a_path_is_that_of_its_folder(tmp_path):
    snapshot = tmp_path / "models--org--tiny-1B" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    assert model_name(str(snapshot)) == "tiny-1B"
    assert model_name(str(tmp_path / "org--tiny-1B" / "config.json")) == "tiny-1B"


def folder_of(path, config, **metadata):
    """A folder with `config` and, with metadata, an index of shards that are not there."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    if metadata:
        names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(metadata.pop("blocks", 32))]
        index = {
            "metadata": metadata,
            "weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors"),
        }
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Llama-3.1-70B", "its name says 70B, the config counts 8.03 billion parameters"),
        ("Llama-30B-A1B", "its name says 30B-A1B, the config counts 8.03 billion parameters"),
        ("Llama-8B-A1B", "its name says 8B-A1B, the config counts 8.03 billion active for a token"),
    ],
)
def test_a_name_of_another_size_makes_the_count_rough(name, reason, tmp_path):
    folder = folder_of(tmp_path / name, released_config("Llama-3.1-8B"))
    for shape in (shape_of_folder(folder), resolve_shape(str(folder / "config.json"))[0]):
        assert shape.rough == (reason,)
        assert shape.low <= shape.parameters <= shape.high


def test_the_range_has_both_a_contradicting_name_and_the_count(tmp_path):
    config = {**released_config("Llama-3.1-8B"), "moe_latent_size": 1024}
    for name in ("Novel-20B", "Novel-1B"):
        shape = shape_of_folder(folder_of(tmp_path / name, config))
        assert shape.low <= shape.parameters <= shape.high
        assert shape.low <= (20 if "20" in name else 1) * GB <= shape.high


def test_the_range_of_an_unread_key_ends_where_the_name_does(tmp_path):
    config = {**released_config("Llama-3.1-8B"), "moe_latent_size": 1024}
    named = shape_of_folder(folder_of(tmp_path / "Novel-8B", config))
    plain = shape_of_folder(folder_of(tmp_path / "novel", config))
    assert plain.low < named.low < named.parameters < named.high < plain.high


def test_a_layout_that_is_not_known_is_refused_with_the_size_in_its_name(tmp_path):
    folder = folder_of(tmp_path / "Novel-8B", {"model_type": "novel", "auto_map": {}})
    with pytest.raises(
        ModelError, match=r"code of its own in auto_map.* 11\.2 to 23\.2 GB of 16-bit"
    ):
        shape_of_folder(folder)


def test_config_and_index_alone_are_enough(tmp_path):
    config, size = released_config("Llama-3.1-8B"), 2 * released("Llama-3.1-8B").parameters
    folder = folder_of(tmp_path / "model", config, total_size=size)
    for shape in (shape_of_folder(folder), resolve_shape(str(folder / "config.json"))[0]):
        assert shape.exact
        assert shape.stored_bytes == size
        assert shape.parameters == released("Llama-3.1-8B").parameters
    assert "1 of 1 shards are not in the folder" in shape_of_folder(folder).notes[0]


def test_an_index_of_other_bytes_or_blocks_makes_the_count_rough(tmp_path):
    config, size = released_config("Llama-3.1-8B"), 2 * released("Llama-3.1-8B").parameters
    twice = shape_of_folder(folder_of(tmp_path / "twice", config, total_size=2 * size))
    assert twice.rough[0].startswith("its index counts 32.1 GB of tensors, the config counts 8.03")
    assert twice.low <= twice.parameters
    assert 16e9 < twice.high < 17e9
    fewer = shape_of_folder(folder_of(tmp_path / "fewer", config, total_size=size, blocks=16))
    assert fewer.rough == ("its index names 16 blocks, the config counts 32",)


def test_an_index_narrows_a_rough_count(tmp_path):
    config = {**released_config("Llama-3.1-8B"), "moe_latent_size": 1024}
    folder = folder_of(tmp_path / "novel", config, total_size=16 * GB)
    shape = shape_of_folder(folder)
    assert (round(shape.low / GB, 1), round(shape.high / GB, 1)) == (7.8, 8.2)


@pytest.mark.parametrize("size", [None, "big", True, -1, 0, 1e300])
def test_an_index_without_a_usable_size_is_no_evidence(size, tmp_path):
    config = released_config("Llama-3.1-8B")
    assert shape_of_folder(folder_of(tmp_path / "model", config, total_size=size)).exact
