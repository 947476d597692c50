"""A folder with one thing changed is refused before the run, or becomes the right checkpoint.

A sample of the 2,000 of benchmarks/mutations.py; --dry-run is held to the same message.
"""

import random
import shutil

import pytest

from helpers.source_mutations import KINDS, base_folder, mutate, outcome

SAMPLE = 168  # 14 for each family


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("families")
    return {kind: base_folder(kind, home) for kind in KINDS}


@pytest.mark.usefixtures("short_search")
@pytest.mark.parametrize("kind", KINDS)
def test_one_change_is_refused_or_harmless(kind, folders, text, tmp_path):
    runs = 0
    for number in range(SAMPLE // len(KINDS)):
        folder, out = tmp_path / f"changed-{number}", tmp_path / f"out-{number}"
        shutil.copytree(folders[kind], folder)
        change = mutate(folder, random.Random(f"{kind}:{number}"))
        # A run takes ten times as long as a refusal: one for each family.
        result = outcome(folder, change, out, text, full=runs < 1)
        runs += result.own > 0
        assert not result.fault, f"{change}: {result.fault}"
        assert result.kl < 1
