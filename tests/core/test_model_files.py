"""Laws of reading headers without torch: they say what safetensors itself says, or refuse."""

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from helpers.checkpoints import sharded_of, tensors_of
from salient.core.errors import ModelError
from salient.core.model_files import INDEX, SINGLE, read_header, stored_tensors

KINDS = (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.uint8)


def test_a_header_says_what_safetensors_says(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({f"t{i}": torch.ones(i + 1, 3, dtype=kind) for i, kind in enumerate(KINDS)}, path)
    result = read_header(path)
    with safe_open(path, framework="pt") as file:
        assert set(result) == set(file.keys())
        for name, stored in result.items():
            piece = file.get_slice(name)
            assert (stored.dtype, list(stored.shape)) == (piece.get_dtype(), piece.get_shape())
            data = path.read_bytes()[stored.start : stored.end]
            assert data == file.get_tensor(name).view(torch.uint8).numpy().tobytes()


def test_a_sharded_folder_is_one_table_of_tensors(tmp_path):
    result = stored_tensors(sharded_of(tmp_path))
    assert {name: stored.shape for name, stored in result.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors_of().items()
    }
    assert all(s.elements == tensors_of()[name].numel() for name, s in result.items())


def written(tmp_path, header, data=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def row(dtype="F16", shape=(2, 2), offsets=(0, 8)):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (row(shape=(2, 3)), r"'a' is F16 \[2, 3\] in 8 bytes"),
        (row(offsets=(0, 80)), "'a' ends at byte"),
        (row(shape=(2, -2)), "'a' has a shape or place that is no count"),
        (row(offsets=(8, 0)), "'a' ends at byte"),
        ({"a": {"dtype": "F16"}}, "cannot be read"),
        ({"a": 3}, "cannot be read"),
        ([1, 2], "cannot be read"),
        (b"not json", "truncated or damaged: fetch it again"),
        (b"[" * 100_000, "no header of safetensors|cannot be read"),
    ],
)
def test_a_header_that_contradicts_its_file_is_refused(header, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        read_header(written(tmp_path, header))


@pytest.mark.parametrize("data", [b"", b"\1\2", struct.pack("<Q", 2**62) + b"{}", b"\0" * 8])
def test_a_file_that_is_no_safetensors_is_refused(data, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.safetensors in .* cannot be read"):
        read_header(path)


OTHERS = {
    "shards without an index": (["model-00001-of-00002.safetensors"], r"index\.json, which names"),
    "consolidated": (["consolidated.safetensors"], r"'consolidated\.safetensors' is in Mistral's"),
    "variant": (["model.fp16.safetensors"], r"'model\.fp16\.safetensors' is a variant: rename"),
    "other name": (["weights.safetensors"], r"under another name: rename it to model\.safetensors"),
    "adapter": (["adapter_model.safetensors"], r"of an adapter: .* --adapter FOLDER"),
    "pth": (["consolidated.00.pth", "consolidated.01.pth"], r"00\.pth' and 1 more are a pickle"),
    "gguf": (["model-q4.gguf"], r"'model-q4\.gguf' is for llama\.cpp \(GGUF\): give"),
    "download": (["x.safetensors.incomplete"], r"of an unfinished download: finish it"),
    "flax": (["flax_model.msgpack"], r"of another framework: convert it to safetensors"),
    "two": (["a.gguf", "b.bin"], r"'a\.gguf' is .*; 'b\.bin' is a pickle"),
    "deeper": (["model/config.json"], r"its folder 'model' has a config\.json: give that"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_a_folder_of_other_weights_says_what_is_there(case, tmp_path):
    files, message = OTHERS[case]
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"weights")
    with pytest.raises(ModelError, match=rf"has neither model\.safetensors nor .*{message}"):
        stored_tensors(tmp_path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            POINTER,
            r"git-lfs pointer \(to 4976698672 bytes\), not the file: .*`git lfs pull`",
        ),
        ("<!DOCTYPE html><title>Sign in</title>", r"is a web page, not the file"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_what_stands_in_for_a_file_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=message):
        stored_tensors(tmp_path)


def test_a_single_file_that_repeats_the_shards_is_accepted(tmp_path):
    save_file(tensors_of(), sharded_of(tmp_path) / SINGLE)
    assert set(stored_tensors(tmp_path)) == set(tensors_of())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(a=t["a"] + 1), r"stores 'a' twice: 1\.safetensors .* in its values"),
        (lambda t: t.update(a=t["a"].half()), r"F32 \[4, 8\]\) and model\.safetensors \(F16"),
        (lambda t: t.pop("a"), r"only the indexed files have 'a'"),
        (lambda t: t.update(z=t["a"] + 1), r"only the single file has 'z'"),
    ],
)
def test_a_single_file_that_is_another_model_than_the_shards_is_refused(change, message, tmp_path):
    tensors = {name: tensor.clone() for name, tensor in tensors_of().items()}
    change(tensors)
    save_file(tensors, sharded_of(tmp_path) / SINGLE)
    with pytest.raises(ModelError, match=message):
        stored_tensors(tmp_path)


def test_tensors_that_the_index_omits_are_read_as_every_reader_does(tmp_path):
    index = json.loads((sharded_of(tmp_path) / INDEX).read_text())
    del index["weight_map"]["b"]
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert set(stored_tensors(tmp_path)) == set(tensors_of())


def test_a_tensor_that_two_shards_store_differently_is_refused(tmp_path):
    sharded_of(tmp_path)
    last = tensors_of()["model.c.weight"]
    save_file({"model.c.weight": last, "a": torch.zeros(4, 8)}, tmp_path / "2.safetensors")
    with pytest.raises(ModelError, match=r"stores 'a' twice: 1\.safetensors .* 2\.safetensors"):
        stored_tensors(tmp_path)
