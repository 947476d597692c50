"""Index, shards and what lies beside them; salient.json."""

import json

import pytest
from safetensors.torch import load_file, save_file

from helpers.faults import alarms, copied, edit, first, rewrite_header, settings, shard, words
from helpers.rtn_checkpoints import rounded_toy
from salient.core.errors import ModelError
from salient.core.model_files import INDEX, SINGLE, read_json
from salient.diagnose.checkpoint.check import read_checkpoint

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def of_block_1(name):
    return name.startswith("model.layers.1.")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A tiny Llama in AutoAWQ's layout, in one file; do not change it."""
    return rounded_toy(tmp_path_factory.mktemp("single"))


@pytest.fixture
def toy(good, tmp_path):
    return copied(good, tmp_path / "toy")


@pytest.fixture
def shards(toy):
    shard(toy, of_block_1)
    return toy


def ids(folder):
    return [f.id for f in read_checkpoint(folder).findings]


def test_shards_with_their_index_raise_no_alarm(shards):
    assert alarms(read_checkpoint(shards)) == []


def test_a_missing_shard_is_told_and_its_tensors_are_not_told_again(shards):
    (shards / TWO).unlink()
    told = first(shards)
    assert told.id == "shard-missing"
    assert f"{TWO} named for" in words(told)
    assert alarms(read_checkpoint(shards)) == ["shard-missing"]


def test_a_cut_shard_is_told_as_long_as_another_can_be_read(shards):
    data = (shards / TWO).read_bytes()
    (shards / TWO).write_bytes(data[:-100])
    assert alarms(read_checkpoint(shards)) == ["file-damaged"]
    assert TWO in words(first(shards))
    (shards / TWO).write_bytes(b"")
    assert alarms(read_checkpoint(shards)) == ["file-damaged"]


def test_nothing_can_be_said_of_a_folder_whose_files_are_all_cut(shards):
    for name in (ONE, TWO):
        (shards / name).write_bytes(b"12345")
    with pytest.raises(ModelError, match="truncated or damaged"):
        read_checkpoint(shards)


def test_nothing_can_be_said_of_a_folder_without_weights(toy):
    (toy / SINGLE).unlink()
    with pytest.raises(ModelError, match=r"has neither model\.safetensors nor"):
        read_checkpoint(toy)


def test_an_index_that_names_a_tensor_which_its_shard_lacks_is_told(shards):
    name = "model.layers.1.mlp.up_proj.qzeros"
    edit(shards, lambda t: t.pop(name), TWO)
    told = first(shards)
    assert told.id == "index-wrong"
    assert f"{TWO}: {name}" in words(told)


def test_a_file_outside_the_folder_is_not_opened(shards):
    index = read_json(shards / INDEX)
    index["weight_map"]["model.norm.weight"] = "../secret.safetensors"
    (shards / INDEX).write_text(json.dumps(index))
    assert "model.norm.weight its file is not in this folder" in words(first(shards))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_an_index_that_cannot_be_read_is_told_and_the_files_are_read(shards, text):
    (shards / INDEX).write_text(text)
    reading = read_checkpoint(shards)
    assert reading.findings[0].id == "index-damaged"
    assert reading.modules == 14


def test_shards_without_an_index_are_read_and_told(shards):
    (shards / INDEX).unlink()
    assert alarms(read_checkpoint(shards)) == ["index-missing"]


def test_a_wrong_total_and_unnamed_tensors_are_notes(shards):
    index = read_json(shards / INDEX)
    index["metadata"]["total_size"] += 1
    del index["weight_map"]["model.norm.weight"]
    (shards / INDEX).write_text(json.dumps(index))
    assert alarms(read_checkpoint(shards)) == []
    assert {"index-total-size", "index-leftover"} <= set(ids(shards))


def test_a_tensor_in_two_shards_is_told(shards):
    extra = load_file(shards / ONE)["model.norm.weight"]
    edit(shards, lambda t: t.update({"model.norm.weight": extra}), TWO)
    told = first(shards)
    assert told.id == "tensor-twice"
    assert f"{TWO}: model.norm.weight {ONE} has it too" in words(told)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("old.safetensors", "Readers ignore them"),
        ("consolidated.safetensors", "load format mistral"),
        (SINGLE, "Transformers reads model.safetensors"),
    ],
)
def test_a_stray_beside_an_index_is_told(shards, name, text):
    save_file(load_file(shards / ONE), shards / name)
    told = first(shards)
    assert told.id == "file-stray"
    assert name in words(told)
    assert text in told.why


def test_a_stray_without_an_index_is_read_by_vllm(toy):
    save_file(load_file(toy / SINGLE), toy / "old.safetensors")
    told = first(toy)
    assert told.id == "file-stray"
    assert "vLLM reads every *.safetensors" in told.why


def test_bytes_after_the_last_tensor_are_refused_by_safetensors_and_told(toy):
    with (toy / SINGLE).open("ab") as file:
        file.write(b"1234")
    with pytest.raises(Exception, match="deserializing header"):
        load_file(toy / SINGLE)
    told = first(toy)
    assert told.id == "file-layout"
    assert SINGLE in words(told)


def test_a_gap_between_tensors_is_told(toy):
    rewrite_header(toy / SINGLE, lambda header: header.pop("model.layers.0.mlp.up_proj.scales"))
    with pytest.raises(Exception, match="deserializing header"):
        load_file(toy / SINGLE)
    assert first(toy).id == "file-layout"


def test_a_file_of_no_length_is_told(toy):
    (toy / "tokenizer_config.json").write_bytes(b"")
    told = first(toy)
    assert told.id == "file-empty"
    assert "tokenizer_config.json" in words(told)


def test_a_missing_tokenizer_is_a_warning_and_a_pickle_a_note(toy):
    (toy / "tokenizer.json").unlink()
    (toy / "pytorch_model.bin").write_bytes(b"x")
    assert alarms(read_checkpoint(toy)) == ["tokenizer-missing"]
    assert "file-pickle" in ids(toy)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        ({"scheme": "w4-g128"}, "the tensors have groups of 32"),
        ({"scheme": "w4-g32-sym"}, "the tensors have zero points"),
        ({"format": "compressed-tensors"}, "the tensors are 'awq'"),
    ],
)
def test_evidence_of_another_checkpoint_is_an_error(toy, run, text):
    (toy / "salient.json").write_text(json.dumps({"run": run}))
    told = first(toy)
    assert told.id == "evidence-contradicts"
    assert text in words(told)


def test_evidence_that_agrees_is_good_and_its_absence_a_note(toy):
    assert "evidence-missing" in ids(toy)
    run = {"scheme": "w4-g32", "format": "awq"}
    evidence = {"run": run, "heldout": {"awq": {"kl": 0.0123}}}
    (toy / "salient.json").write_text(json.dumps(evidence))
    told = next(f for f in read_checkpoint(toy).findings if f.id == "evidence-there")
    assert told.level == "good"
    assert "0.0123 nats" in words(told)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": 3}'])
def test_evidence_that_cannot_be_read_is_a_warning(toy, text):
    (toy / "salient.json").write_text(text)
    assert "evidence-unreadable" in alarms(read_checkpoint(toy))


def test_zeros_at_the_end_of_a_shard_are_told_once_and_not_as_bad_scales(shards):
    data = bytearray((shards / TWO).read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (shards / TWO).write_bytes(data)
    assert alarms(read_checkpoint(shards)) == ["file-zeros"]
    assert f"{TWO}: model.layers.1" in words(first(shards))


def test_a_zero_matrix_of_zero_scales_inside_a_file_is_no_cut_file(toy):
    """Only what stands at the end counts: the norm after it is whole."""
    settings(toy, modules_to_not_convert=["lm_head"])
    edit(toy, lambda t: t["model.layers.0.mlp.up_proj.scales"].zero_())
    assert alarms(read_checkpoint(toy)) == ["scale-zero"]
