"""What this machine has: bounds that hold on every machine."""

import os

import pytest

from salient.core import system


def limits(monkeypatch, folder, limit: str, use: str):
    (folder / "limit").write_text(limit)
    (folder / "use").write_text(use)
    monkeypatch.setattr(system, "CGROUP_LIMITS", (str(folder / "limit"),))
    monkeypatch.setattr(system, "CGROUP_USES", (str(folder / "use"),))


def test_available_memory_is_some_and_no_more_than_the_machine_has():
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < system.available_memory() <= physical


def test_a_container_leaves_its_limit_less_its_use(monkeypatch, tmp_path):
    limits(monkeypatch, tmp_path, "3000000\n", "1000000\n")
    assert system.available_memory() == 2_000_000


def test_a_container_over_its_limit_leaves_nothing(monkeypatch, tmp_path):
    limits(monkeypatch, tmp_path, "1000\n", "2000\n")
    assert system.available_memory() == 0


@pytest.mark.parametrize("limit", ["max\n", "", "9223372036854771712\n"])
def test_a_container_without_a_limit_leaves_the_systems_memory(limit, monkeypatch, tmp_path):
    limits(monkeypatch, tmp_path, limit, "1000\n")
    assert system.available_memory() > 2**20


def test_a_machine_without_containers_leaves_the_systems_memory(monkeypatch, tmp_path):
    missing = (str(tmp_path / "missing"),)
    monkeypatch.setattr(system, "CGROUP_LIMITS", missing)
    monkeypatch.setattr(system, "CGROUP_USES", missing)
    assert system.available_memory() > 2**20


def test_the_peak_is_no_less_than_what_is_resident_now():
    resident = system.resident_memory()
    assert 2**20 < resident <= system.peak_memory() + 2**24  # the kernel counts in batches


def test_resident_memory_grows_with_live_objects():
    before = system.resident_memory()
    stored = b"\1" * 2**26
    assert system.resident_memory() - before > 2**25
    del stored
