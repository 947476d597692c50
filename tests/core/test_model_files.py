"""Laws of reading headers without torch: they say what safetensors itself says, or refuse."""

import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from helpers.checkpoints import sharded_of, tensors_of
from salient.core.errors import ModelError
from salient.core.model_files import read_header, stored_tensors

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
