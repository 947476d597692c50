"""Index, shards and what lies beside them; salient.json."""

import json
import time

import pytest
from safetensors.torch import load_file, save_file

from helpers.evidence_files import rewrite_evidence, write_evidence
from helpers.faults import alarms, copied, edit, first, rewrite_header, settings, shard, text_of
from helpers.rtn_checkpoints import rounded_toy
from salient.core.content_digest import folder_digests
from salient.core.errors import ModelError
from salient.core.evidence import EVIDENCE_FILE
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


def test_a_missing_shard_is_one_finding_without_its_tensors(shards):
    (shards / TWO).unlink()
    finding = first(shards)
    assert finding.id == "shard-missing"
    assert f"{TWO} named for" in text_of(finding)
    assert alarms(read_checkpoint(shards)) == ["shard-missing"]


def test_a_cut_shard_is_a_finding_while_another_is_readable(shards):
    data = (shards / TWO).read_bytes()
    (shards / TWO).write_bytes(data[:-100])
    assert alarms(read_checkpoint(shards)) == ["file-damaged"]
    assert TWO in text_of(first(shards))
    (shards / TWO).write_bytes(b"")
    assert alarms(read_checkpoint(shards)) == ["file-damaged"]


def test_a_folder_of_cut_files_is_refused(shards):
    for name in (ONE, TWO):
        (shards / name).write_bytes(b"12345")
    with pytest.raises(ModelError, match="truncated or damaged"):
        read_checkpoint(shards)


def test_a_folder_without_weights_is_refused(toy):
    (toy / SINGLE).unlink()
    with pytest.raises(ModelError, match=r"has neither model\.safetensors nor"):
        read_checkpoint(toy)


def test_an_index_with_a_tensor_that_its_shard_lacks_is_a_finding(shards):
    name = "model.layers.1.mlp.up_proj.qzeros"
    edit(shards, lambda t: t.pop(name), TWO)
    finding = first(shards)
    assert finding.id == "index-wrong"
    assert f"{TWO}: {name}" in text_of(finding)


def test_a_file_outside_the_folder_is_not_opened(shards):
    index = read_json(shards / INDEX)
    index["weight_map"]["model.norm.weight"] = "../secret.safetensors"
    (shards / INDEX).write_text(json.dumps(index))
    assert "model.norm.weight its file is not in this folder" in text_of(first(shards))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_an_unreadable_index_is_a_finding_and_the_files_are_read(shards, text):
    (shards / INDEX).write_text(text)
    reading = read_checkpoint(shards)
    assert reading.findings[0].id == "index-damaged"
    assert reading.modules == 14


def test_shards_without_an_index_are_read_with_a_finding(shards):
    (shards / INDEX).unlink()
    assert alarms(read_checkpoint(shards)) == ["index-missing"]


def test_a_wrong_total_and_unnamed_tensors_are_notes(shards):
    index = read_json(shards / INDEX)
    index["metadata"]["total_size"] += 1
    del index["weight_map"]["model.norm.weight"]
    (shards / INDEX).write_text(json.dumps(index))
    assert alarms(read_checkpoint(shards)) == []
    assert {"index-total-size", "index-leftover"} <= set(ids(shards))


def test_a_tensor_in_two_shards_is_a_finding(shards):
    extra = load_file(shards / ONE)["model.norm.weight"]
    edit(shards, lambda t: t.update({"model.norm.weight": extra}), TWO)
    finding = first(shards)
    assert finding.id == "tensor-twice"
    assert f"{TWO}: model.norm.weight {ONE} has it too" in text_of(finding)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("old.safetensors", "Readers ignore them"),
        ("consolidated.safetensors", "load format mistral"),
        (SINGLE, "Transformers reads model.safetensors"),
    ],
)
def test_an_unexpected_file_next_to_an_index_is_a_finding(shards, name, text):
    save_file(load_file(shards / ONE), shards / name)
    finding = first(shards)
    assert finding.id == "file-stray"
    assert name in text_of(finding)
    assert text in finding.why


def test_a_stray_without_an_index_is_read_by_vllm(toy):
    save_file(load_file(toy / SINGLE), toy / "old.safetensors")
    finding = first(toy)
    assert finding.id == "file-stray"
    assert "vLLM reads every *.safetensors" in finding.why


def test_bytes_after_the_last_tensor_are_a_finding_and_refused_by_safetensors(toy):
    with (toy / SINGLE).open("ab") as file:
        file.write(b"1234")
    with pytest.raises(Exception, match="deserializing header"):
        load_file(toy / SINGLE)
    finding = first(toy)
    assert finding.id == "file-layout"
    assert SINGLE in text_of(finding)


def test_a_gap_between_tensors_is_a_finding(toy):
    rewrite_header(toy / SINGLE, lambda header: header.pop("model.layers.0.mlp.up_proj.scales"))
    with pytest.raises(Exception, match="deserializing header"):
        load_file(toy / SINGLE)
    assert first(toy).id == "file-layout"


def test_an_empty_file_is_a_finding(toy):
    (toy / "tokenizer_config.json").write_bytes(b"")
    finding = first(toy)
    assert finding.id == "file-empty"
    assert "tokenizer_config.json" in text_of(finding)


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
    write_evidence(toy, **run)
    finding = first(toy)
    assert finding.id == "evidence-contradicts"
    assert text in text_of(finding)


def write_digests(folder):
    """A salient.json with the digests of all files."""
    write_evidence(folder, kl=0.0123)
    names = [p.name for p in folder.iterdir() if p.name != EVIDENCE_FILE]
    rewrite_evidence(folder, files=folder_digests(folder, names))


def test_evidence_that_agrees_is_good_and_its_absence_a_note(toy):
    assert "evidence-missing" in ids(toy)
    write_digests(toy)
    finding = next(f for f in read_checkpoint(toy).findings if f.id == "evidence-there")
    assert finding.level == "good"
    assert "0.0123 nats" in text_of(finding)


def figures_in(folder):
    return "0.0123" in "".join(map(text_of, read_checkpoint(folder).findings))


def test_no_figure_is_repeated_of_evidence_without_digests(toy):
    write_evidence(toy, kl=0.0123)
    assert "evidence-unverified" in ids(toy)
    assert not figures_in(toy)


@pytest.mark.parametrize(
    ("name", "level"),
    [
        (SINGLE, "error"),
        ("config.json", "warning"),
        ("tokenizer.json", "warning"),
        ("tokenizer_config.json", "warning"),
        ("generation_config.json", "warning"),
    ],
)
@pytest.mark.parametrize("fault", ["bit", "missing", "new"])
def test_no_figure_is_repeated_of_evidence_of_other_files(name, level, fault, toy):
    if fault == "new":
        data = (toy / name).read_bytes()
        (toy / name).unlink()
        write_digests(toy)
        (toy / name).write_bytes(data)
    else:
        write_digests(toy)
        data = bytearray((toy / name).read_bytes())
        if fault == "missing" and name not in (SINGLE, "config.json"):
            (toy / name).unlink()
        elif name == SINGLE:
            data[-2] ^= 1
            (toy / name).write_bytes(data)
        else:
            (toy / name).write_bytes(data + b" ")
    finding = next(f for f in read_checkpoint(toy).findings if f.id == "evidence-files-changed")
    assert finding.level == level
    assert name in text_of(finding)
    assert not figures_in(toy)


@pytest.mark.parametrize("name", [SINGLE, "generation_config.json"])
def test_a_file_that_grew_is_named_without_reading_it(name, toy):
    write_digests(toy)
    with (toy / name).open("r+b") as file:
        file.truncate(10**12)
    start = time.monotonic()
    finding = next(f for f in read_checkpoint(toy).findings if f.id == "evidence-files-changed")
    assert f"{name} has 1000000000000 bytes" in text_of(finding)
    assert time.monotonic() - start < 10


def test_no_figure_is_repeated_of_evidence_that_was_changed(toy):
    write_digests(toy)
    path = toy / EVIDENCE_FILE
    path.write_text(path.read_text().replace("0.0123", "0.0012"))
    assert "evidence-unreadable" in alarms(read_checkpoint(toy))
    assert "0.0012" not in "".join(map(text_of, read_checkpoint(toy).findings))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": 3}'])
def test_evidence_that_cannot_be_read_is_a_warning(toy, text):
    (toy / "salient.json").write_text(text)
    assert "evidence-unreadable" in alarms(read_checkpoint(toy))


def test_zeros_at_the_end_of_a_shard_are_one_finding_and_not_bad_scales(shards):
    data = bytearray((shards / TWO).read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (shards / TWO).write_bytes(data)
    assert alarms(read_checkpoint(shards)) == ["file-zeros"]
    assert f"{TWO}: model.layers.1" in text_of(first(shards))


def test_a_zero_matrix_of_zero_scales_inside_a_file_is_no_cut_file(toy):
    """Only what stands at the end counts: the norm after it is whole."""
    settings(toy, modules_to_not_convert=["lm_head"])
    edit(toy, lambda t: t["model.layers.0.mlp.up_proj.scales"].zero_())
    assert alarms(read_checkpoint(toy)) == ["scale-zero"]
