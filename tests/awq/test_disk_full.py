"""A disk that fills up during a run: it says so, and the same command goes on to the same bytes."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import save_file

from salient import api
from salient.core.errors import ResourceError

MESSAGE = (
    r"^The disk of .*out\.partial.* is full \(\d+ MiB free\)\. Free some space and run the same "
    r"command again: it resumes\.$"
)


def run(model: Path, out: Path, text: Path):
    options = {"scheme": "w4-g32", "samples": 6, "sequence_length": 64, "effort": "fast"}
    return api.quantize(model, out, calibration=str(text), **options).report


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def undisturbed(toy, text, tmp_path_factory) -> dict[str, bytes]:
    """What the run writes when nothing fails."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run(toy, out, text)
    return contents(out)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A real file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount a tmpfs to fill")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this container may not mount a tmpfs to fill")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# room as a share of the output's size: for nothing, for no block, for one, for both but not for the
# checkpoint that is strung together from them, for all but the last files
@pytest.mark.parametrize(
    ("share", "blocks"), [(0, None), (0.05, 0), (0.2, 1), (1.3, 2), (1.9, 2)], ids=str
)
def test_a_run_that_fills_a_real_disk_goes_on_when_there_is_room(
    share, blocks, disk, undisturbed, toy, text
):
    size = sum(map(len, undisturbed.values()))
    assert size < 2**19 - 2**16  # the disk holds the run once nothing else is on it
    (disk / "ballast").write_bytes(b"0" * int(2**20 - share * size))
    with pytest.raises(ResourceError, match=MESSAGE):
        run(toy, disk / "out", text)
    assert not (disk / "out").exists()
    journal = disk / "out.partial" / "journal.jsonl"
    assert journal.exists() is (blocks is not None)
    if blocks is not None:
        assert journal.read_text().count('{"evidence": {') == blocks
    (disk / "ballast").unlink()
    assert run(toy, disk / "out", text).data["resumed"] is bool(blocks)
    assert contents(disk / "out") == undisturbed
    assert [p.name for p in disk.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_run_whose_second_block_does_not_fit_goes_on_with_it(
    number, undisturbed, toy, text, tmp_path, monkeypatch
):
    calls = []

    def full(tensors, path, metadata):
        calls.append(path.name)
        if len(calls) == 2:
            path.write_bytes(b"half a file")
            raise OSError(number, os.strerror(number))
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("salient.formats.writer.save_file", full)
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    with pytest.raises(ResourceError, match=MESSAGE):
        run(toy, out, text)
    assert not out.exists()
    pieces = {p.name for p in partial.iterdir() if p.name.startswith("block")}
    assert pieces == {"block-00000.safetensors"}
    assert run(toy, out, text).data["resumed"]
    assert sorted(set(calls)) == ["block-00000.tmp", "block-00001.tmp", "outer.tmp"]
    assert calls.count("block-00000.tmp") == 1  # what was done is not done again
    assert contents(out) == undisturbed
    assert not partial.exists()


def test_a_run_whose_journal_line_does_not_fit_does_that_block_again(
    undisturbed, toy, text, tmp_path, monkeypatch
):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("salient.awq.journal.os", SimpleNamespace(fsync=full))
        with pytest.raises(ResourceError, match=MESSAGE):
            run(toy, out, text)
    assert not out.exists()
    run(toy, out, text)
    assert contents(out) == undisturbed
