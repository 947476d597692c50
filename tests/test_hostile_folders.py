"""Hostile folders and files through the verbs: no traceback, no code run, exit codes as documented.

benchmarks/hostile_folders.py runs thousands of the same, with the limits of time and memory.
"""

import os
import random
import shutil

import pytest

from helpers.forked_verbs import run_verb
from helpers.hostile_folders import CANARY, base_folders, mutate, own_code, place
from helpers.hostile_inputs import PAIRS, hostile_commands

VERBS = ("inspect {f}", "plan {f} --gpu rtx4090", "doctor {f}",
         "quantize {f} --dry-run -o {f}-out --scheme w4-g32 --samples 2 --sequence-length 64"
         " --device cpu")  # fmt: skip
SPECIAL = ("fifo", "socket", "folder", "/dev/zero", "/proc/kmsg", "loop", "outside", "line", "deep",
           "surrogates", "invalid")  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return base_folders(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Run a command line in a fork, and look for a fault."""
    monkeypatch.setenv(CANARY, str(tmp_path / "canary"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(argv, label):
        result = run_verb(argv, tmp_path)
        assert not (tmp_path / "canary").exists(), f"{label}: code ran in {argv}"
        assert not result.fault, f"{label}: {' '.join(argv)}: {result.fault}"
        return result

    return run


def run_all(check, folder, label, verbs=VERBS):
    return [check(verb.format(f=folder).split(), label) for verb in verbs]


@pytest.mark.parametrize("number", range(12))
def test_a_mutated_folder_ends_as_documented(bases, tmp_path, check, number):
    kind = list(bases)[number % len(bases)]
    folder = tmp_path / kind
    shutil.copytree(bases[kind], folder)
    label = mutate(folder, random.Random(f"tests:{number}"))
    run_all(check, folder, label, [VERBS[number % 4], VERBS[(number + 1) % 4]])


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_special_file_in_place_of_the_config_ends_with_2(bases, tmp_path, check, kind):
    folder = tmp_path / "model"
    shutil.copytree(bases["llama"], folder)
    before = (folder / "config.json").read_bytes()
    (folder / "config.json").unlink()
    place(folder / "config.json", kind, before)
    assert {result.code for result in run_all(check, folder, kind)} == {2}


def test_no_code_of_a_folder_runs(bases, tmp_path, check):
    folder = tmp_path / "model"
    shutil.copytree(bases["llama"], folder)
    for seed in range(2):
        label = own_code(folder, random.Random(seed))
        run_all(check, folder, label, VERBS[-1:])


def test_a_hostile_file_of_an_option_ends_with_2(bases, tmp_path, check):
    pairs = random.Random(7).sample(PAIRS, 10)
    for argv in hostile_commands(tmp_path, bases, pairs):
        result = check(argv, argv[-1])
        assert result.code in (0, 2)


def test_bytes_of_standard_input_that_are_no_text_are_refused(bases, tmp_path, check, monkeypatch):
    (tmp_path / "input").write_bytes(b"a\xff\xfe")
    handle = os.open(tmp_path / "input", os.O_RDONLY)
    monkeypatch.setattr("helpers.forked_verbs.STDIN", handle)
    result = check(["generate", str(bases["llama"]), "--prompt", "-", "--device", "cpu"], "stdin")
    os.close(handle)
    assert result.code == 2
    assert "holds half a character at position 1" in result.output
