"""Writing: whole or not at all, and byte for byte what was given."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from salient.core.errors import ResourceError
from salient.core.model_files import INDEX, SINGLE
from salient.formats.checkpoint import open_checkpoint
from salient.formats.writer import (
    SHARD_BYTES,
    disk_full_errors,
    merge,
    write_json,
    write_tensors,
    write_text,
)


def pieces_of(folder, count: int = 4):
    """Files of a block each, of mixed types and sizes, odd ones among them."""
    generator = torch.Generator().manual_seed(count)
    paths, tensors = [], {}
    for i in range(count):
        built = {
            f"blocks.{i}.codes": torch.randint(
                -9, 9, (3, 8), generator=generator, dtype=torch.int32
            ),
            f"blocks.{i}.scales": torch.randn(7, generator=generator).to(torch.bfloat16),
            f"blocks.{i}.bytes": torch.randint(9, (5,), generator=generator, dtype=torch.uint8),
            f"blocks.{i}.shape": torch.tensor([i, 2]),
            f"blocks.{i}.nothing": torch.zeros(0, 4),
            f"blocks.{i}.one": torch.tensor(float(i)),
        }
        paths.append(folder / f"piece-{i}.safetensors")
        write_tensors(paths[-1], built)
        tensors |= built
    return paths, tensors


def same(result: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return result.keys() == wanted.keys() and all(
        result[n].dtype == t.dtype and torch.equal(result[n], t) for n, t in wanted.items()
    )


def names(folder) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


# Single files


def test_what_is_written_is_read_back(out):
    tensors = pieces_of(out, 1)[1]
    write_tensors(out / "a.safetensors", tensors)
    assert same(load_file(out / "a.safetensors"), tensors)
    with safe_open(out / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_transposed_tensor_is_written_as_it_reads(out):
    tensor = torch.arange(12.0).reshape(3, 4).t()
    write_tensors(out / "a.safetensors", {"a": tensor})
    assert torch.equal(load_file(out / "a.safetensors")["a"], tensor)


def test_everyone_may_read_what_is_written(out):
    write_tensors(out / "a.safetensors", {"a": torch.ones(1)})
    assert (out / "a.safetensors").stat().st_mode & 0o444 == 0o444


def test_json_is_written_for_people_and_read_back(out):
    write_json(out / "a.json", {"who": "Zoë", "list": [1]})
    text = (out / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"who": "Zoë", "list": [1]}
    assert "Zoë" in text
    assert text.endswith("}\n")


def test_a_file_replaces_the_one_of_its_name_and_leaves_no_other(out):
    for content in ("first", "second"):
        write_text(out / "a.txt", content)
        write_tensors(out / "a.safetensors", {"a": torch.ones(1)})
    assert (out / "a.txt").read_text() == "second"
    assert names(out) == {"a.txt", "a.safetensors"}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(out):
    shared = torch.ones(4)
    write_tensors(out / "a.safetensors", {"a": shared})
    write_text(out / "a.txt", "first")
    before = (out / "a.safetensors").read_bytes()
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors(out / "a.safetensors", {"a": shared, "b": shared})
    with pytest.raises(UnicodeEncodeError):
        write_text(out / "a.txt", "\ud800")
    assert (out / "a.safetensors").read_bytes() == before
    assert (out / "a.txt").read_text() == "first"
    assert names(out) == {"a.txt", "a.safetensors"}


# Merging


def test_a_small_checkpoint_is_a_single_file_without_an_index(tmp_path, out):
    pieces, tensors = pieces_of(tmp_path)
    merge(pieces, out)
    assert names(out) == {SINGLE}
    assert same(load_file(out / SINGLE), tensors)


@pytest.mark.parametrize("shard_bytes", [1, 1500, 2500, SHARD_BYTES])
def test_merging_changes_no_byte_of_a_tensor(shard_bytes, tmp_path, out):
    pieces, tensors = pieces_of(tmp_path)
    merge(pieces, out, shard_bytes)
    result = {}
    for path in out.glob("*.safetensors"):
        result |= load_file(path)
    assert same(result, tensors)
    (out / "config.json").write_text("{}")
    checkpoint = open_checkpoint(out)
    assert same({name: checkpoint.tensor(name) for name in checkpoint.files}, tensors)


def test_pieces_fill_a_shard_in_order_until_the_next_does_not_fit(tmp_path, out):
    pieces, _ = pieces_of(tmp_path, 5)
    size = pieces[0].stat().st_size
    assert {p.stat().st_size for p in pieces} == {size}
    merge(pieces, out, 2 * size)
    blocks = [
        sorted({name.split(".")[1] for name in load_file(path)})
        for path in sorted(out.glob("*.safetensors"))
    ]
    assert blocks == [["0", "1"], ["2", "3"], ["4"]]
    assert names(out) == {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)} | {INDEX}


def test_a_piece_larger_than_a_shard_is_one_and_never_split(tmp_path, out):
    pieces, _ = pieces_of(tmp_path, 3)
    merge(pieces, out, shard_bytes=1)
    for i, path in enumerate(sorted(out.glob("*.safetensors"))):
        assert {name.split(".")[1] for name in load_file(path)} == {str(i)}


def test_the_index_names_every_tensors_shard_and_the_bytes_of_all(tmp_path, out):
    pieces, tensors = pieces_of(tmp_path)
    merge(pieces, out, shard_bytes=1)
    index = json.loads((out / INDEX).read_text())
    assert list(index["weight_map"]) == sorted(tensors)
    for name, shard in index["weight_map"].items():
        with safe_open(out / shard, "pt") as file:
            assert name in file.keys()  # noqa: SIM118 - no mapping
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())


def test_merging_leaves_the_pieces_as_they_were(tmp_path, out):
    pieces, _ = pieces_of(tmp_path)
    before = [p.read_bytes() for p in pieces]
    merge(pieces, out, shard_bytes=1)
    assert [p.read_bytes() for p in pieces] == before


def test_a_merged_file_says_that_it_is_pytorchs(tmp_path, out):
    # Transformers 4 refuses files without it
    merge(pieces_of(tmp_path)[0], out)
    with safe_open(out / SINGLE, "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("letters", range(1, 9))
def test_the_data_of_a_merged_file_starts_at_a_multiple_of_eight(letters, tmp_path, out):
    write_tensors(tmp_path / "a.safetensors", {"n" * letters: torch.ones(3)})
    merge([tmp_path / "a.safetensors"], out)
    assert int.from_bytes((out / SINGLE).read_bytes()[:8], "little") % 8 == 0


def test_a_merge_that_fails_leaves_no_half_of_a_file(tmp_path, out):
    pieces, _ = pieces_of(tmp_path)
    pieces[-1].unlink()
    with pytest.raises(FileNotFoundError):
        merge(pieces, out, shard_bytes=10**6)
    assert names(out) == set()


# A full disk


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount a tmpfs to fill")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this container may not mount a tmpfs to fill")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


MESSAGE = (
    r"The disk of .* is full \(\d+ MiB free\)\. Free some space and run the same command again"
)


def test_tensors_that_do_not_fit_the_disk_are_an_error_and_leave_nothing(tiny_disk):
    with pytest.raises(ResourceError, match=MESSAGE):
        write_tensors(tiny_disk / "a.safetensors", {"a": torch.ones(2**20)})
    assert names(tiny_disk) == set()


def test_text_that_does_not_fit_the_disk_says_so_and_leaves_the_old(tiny_disk):
    write_text(tiny_disk / "a.txt", "first")
    with pytest.raises(ResourceError, match=MESSAGE):
        write_text(tiny_disk / "a.txt", "x" * 2**21)
    assert names(tiny_disk) == {"a.txt"}
    assert (tiny_disk / "a.txt").read_text() == "first"


def test_a_merge_that_does_not_fit_the_disk_says_so_and_leaves_no_index(tmp_path, tiny_disk):
    pieces = []
    for i in range(3):
        pieces.append(tmp_path / f"{i}.safetensors")
        save_file({f"t{i}": torch.ones(2**17)}, pieces[-1])  # half a MiB each
    with pytest.raises(ResourceError, match=MESSAGE):
        merge(pieces, tiny_disk, shard_bytes=1)
    assert not [n for n in names(tiny_disk) if n.endswith(".tmp") or n == INDEX]
    assert all(load_file(path) for path in tiny_disk.glob("*.safetensors"))


def test_a_freed_disk_takes_the_same_write(tiny_disk):
    (tiny_disk / "ballast").write_bytes(b"0" * 900_000)
    tensors = {"a": torch.ones(2**16)}
    with pytest.raises(ResourceError, match="resumes"):
        write_tensors(tiny_disk / "a.safetensors", tensors)
    (tiny_disk / "ballast").unlink()
    write_tensors(tiny_disk / "a.safetensors", tensors)
    assert same(load_file(tiny_disk / "a.safetensors"), tensors)


def test_an_error_that_is_not_a_full_disk_stays_what_it_is(tmp_path):
    with pytest.raises(PermissionError, match="mine"), disk_full_errors(tmp_path):
        raise PermissionError("mine")
