"""salient.json: what was changed in it after it was written is noticed."""

import random
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from helpers.evidence_files import sample_evidence, write_evidence
from salient.core.content_digest import folder_digests, short_digests
from salient.core.errors import CheckpointError
from salient.core.evidence import EVIDENCE_FILE, evidence_text, find_changed, read_evidence, sealed
from salient.core.model_files import read_header

DIGESTS = {"model.safetensors": "0" * 64, "tokenizer.json": "1" * 64}


def evidence(**changes):
    sample = sample_evidence(source_files={"config.json": "2" * 64})
    return sealed(replace(sample, files=DIGESTS, model="modèle", **changes))


def test_sealed_evidence_is_read_as_it_was_written(tmp_path):
    (tmp_path / EVIDENCE_FILE).write_text(evidence_text(evidence()))
    assert read_evidence(tmp_path) == evidence()
    assert evidence().source_files == {"config.json": "2" * 64}


def test_any_flipped_bit_of_salient_json_is_noticed(tmp_path):
    path, whole, chance = (
        tmp_path / EVIDENCE_FILE,
        evidence_text(evidence()).encode(),
        random.Random(0),
    )
    for _ in range(500):
        changed = bytearray(whole)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=EVIDENCE_FILE):
            read_evidence(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"model": "another"}, {"files": {}}, {"seal": ""}, {"seal": "0" * 64}, {"bits_per_weight": 4}],
    ids=str,
)
def test_another_value_does_not_fit_the_seal(change, tmp_path):
    (tmp_path / EVIDENCE_FILE).write_text(evidence_text(replace(evidence(), **change)))
    message = "salient.json was changed after Salient wrote it: its seal does not match its content"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_evidence(tmp_path)


def test_an_older_file_without_digests_is_read(tmp_path):
    write_evidence(tmp_path)
    older = read_evidence(tmp_path)
    assert older is not None
    assert not older.files
    assert not older.seal


@pytest.mark.parametrize(
    ("name", "measured"),
    [("model.safetensors", True), ("config.json", True), ("tokenizer.json", False)],
)
def test_a_changed_file_is_named_with_what_to_do(name, measured, tmp_path):
    for file in (*DIGESTS, "config.json"):
        (tmp_path / file).write_text(file)
    digests = folder_digests(tmp_path, [*DIGESTS, "config.json"])
    text = evidence_text(sealed(replace(sample_evidence(), files=digests)))
    (tmp_path / EVIDENCE_FILE).write_text(text)
    assert not find_changed(tmp_path).note
    (tmp_path / name).write_text("another")
    changed = find_changed(tmp_path)
    assert changed.measured is measured
    message = f"is not as Salient wrote it: {name} has changed. Fetch it again; or, if that is on"
    assert message in changed.note
    (tmp_path / EVIDENCE_FILE).write_text(text.replace("toy", "joy"))
    assert "salient.json was changed after" in find_changed(tmp_path).note


def test_a_changed_weight_file_names_its_changed_tensors(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {f"layers.{i}.weight": torch.full((4, 4), float(i)) for i in range(8)}
    save_file(tensors, path)
    files = folder_digests(tmp_path, [path.name])
    digests = short_digests(read_header(path).values())
    written = sealed(replace(sample_evidence(), files=files, tensors=digests))
    (tmp_path / EVIDENCE_FILE).write_text(evidence_text(written))
    assert not find_changed(tmp_path).tensors
    tensors["layers.3.weight"][0, 0] += 1
    save_file(tensors, path)
    changed = find_changed(tmp_path)
    assert changed.tensors == ("layers.3.weight",)
    assert "model.safetensors has changed in layers.3.weight." in changed.note


def test_a_changed_file_that_is_no_safetensors_file_is_named_alone(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"whole")
    digests = folder_digests(tmp_path, [path.name])
    written = sealed(replace(sample_evidence(), files=digests, tensors={"a": "0" * 16}))
    (tmp_path / EVIDENCE_FILE).write_text(evidence_text(written))
    path.write_bytes(b"another")
    assert find_changed(tmp_path).files == {path.name: "has changed"}
