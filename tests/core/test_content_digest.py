"""Digests of whole files: the cache remembers them, and never answers for another content."""

import hashlib
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from salient.core import content_digest
from salient.core.content_digest import changed_files, file_digest, file_digests, folder_digests
from salient.core.errors import ModelError


@pytest.fixture
def remembered(tmp_path, monkeypatch):
    """The folder of remembered digests; every file counts as settled."""
    monkeypatch.setattr(content_digest, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(content_digest, "SETTLED", -1)
    forget(monkeypatch)
    return tmp_path / "cache" / "digests"


def forget(monkeypatch):
    """What a new process knows."""
    monkeypatch.setattr(content_digest, "_remembered", {})


def refuse_to_hash(*args):
    raise AssertionError("the file is read again")


def write(path, content=b"some content"):
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def test_a_digest_is_the_files_sha256(tmp_path):
    path, digest = write(tmp_path / "a", os.urandom(10**6))
    assert file_digest(path) == digest
    assert file_digests([path, path]) == {path: digest}
    assert folder_digests(tmp_path, ["a"]) == {"a": digest}


def test_an_unchanged_file_is_not_read_again(tmp_path, remembered, monkeypatch):
    path, digest = write(tmp_path / "a")
    file_digest(path)
    monkeypatch.setattr(hashlib, "file_digest", refuse_to_hash)
    assert file_digest(path) == digest
    forget(monkeypatch)
    assert file_digest(path) == digest  # by the cache
    (tmp_path / "link").symlink_to(path)
    assert file_digest(tmp_path / "link") == digest


def test_a_flipped_bit_changes_the_digest_though_the_time_is_set_back(tmp_path, remembered):
    path, digest = write(tmp_path / "a", bytes(2**20))
    file_digest(path)
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(2**19 + 7)
        file.write(b"\1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_digest(path) != digest


def test_a_file_that_changed_a_moment_ago_is_read_at_every_use(tmp_path, monkeypatch):
    path, _ = write(tmp_path / "a")
    file_digest(path)
    monkeypatch.setattr(hashlib, "file_digest", refuse_to_hash)
    with pytest.raises(AssertionError, match="read again"):
        file_digest(path)


def test_a_damaged_entry_of_the_cache_is_not_used(tmp_path, remembered, monkeypatch):
    path, digest = write(tmp_path / "a")
    file_digest(path)
    (entry,) = remembered.iterdir()
    whole, chance = entry.read_bytes(), random.Random(0)
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        entry.write_bytes(damaged)
        forget(monkeypatch)
        assert file_digest(path) == digest


def test_the_cache_is_bounded(tmp_path, remembered, monkeypatch):
    monkeypatch.setattr(content_digest, "MOST_ENTRIES", 16)
    for number in range(40):
        file_digest(write(tmp_path / str(number))[0])
    assert 8 < len(list(remembered.iterdir())) <= 16


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, remembered):
    remembered.parent.write_text("no folder")
    path, digest = write(tmp_path / "a")
    assert file_digest(path) == digest


def test_writers_at_once_leave_whole_entries(tmp_path, remembered, monkeypatch):
    paths = [write(tmp_path / str(number), str(number).encode())[0] for number in range(20)]
    monkeypatch.setattr(content_digest, "_recall", lambda state: "")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(file_digest, paths * 10))
    monkeypatch.undo()
    assert len(list(remembered.iterdir())) == 20
    assert all(len(entry.read_text()) == 195 for entry in remembered.iterdir())


def test_changed_files_are_named_with_what_they_are(tmp_path):
    names = ["same", "changed", "missing", "pipe"]
    digests = {name: write(tmp_path / name)[1] for name in names}
    (tmp_path / "changed").write_bytes(b"some contenu")
    for name in ("missing", "pipe"):
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / "pipe")
    outside = {"../secret": "0" * 64, "/etc/passwd": "0" * 64, "a\0b": "0" * 64}
    assert changed_files(tmp_path, digests | outside) == {
        "changed": "has changed",
        "missing": "is missing",
        "pipe": "cannot be read",
        **dict.fromkeys(outside, "is outside the folder"),
    }


def test_a_file_that_is_none_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"pipe is a pipe \(FIFO\), not a regular file\. Put"):
        file_digest(tmp_path / "pipe")
    with pytest.raises(ModelError, match=r"absent cannot be read \(No such file"):
        file_digest(tmp_path / "absent")
    assert time.monotonic() - started < 1
