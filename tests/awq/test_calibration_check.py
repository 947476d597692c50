"""Too little calibration for a model is a warning before the run, with a number that suffices."""

import re

import pytest
import torch

from helpers.families import FAMILIES
from helpers.runs import run
from helpers.toy_models import save, tiny_model, toy_folder
from salient.awq.calibration_check import token_warnings
from salient.core.devices import find_device
from salient.formats.checkpoint import open_checkpoint
from salient.models.skeleton import Skeleton
from salient.models.token_packing import TokenBatch, heldout_samples


def skeleton_of(folder) -> tuple[Skeleton, frozenset[str]]:
    skeleton = Skeleton(open_checkpoint(folder), torch.float32, find_device("cpu"))
    names = [f"{b}.{n}" for i, b in enumerate(skeleton.blocks) for n in skeleton.linears(i)]
    return skeleton, frozenset(names)


def warnings(folder, samples: int, length: int) -> list[str]:
    ids = torch.zeros(samples, length, dtype=torch.int64)
    batch = TokenBatch(ids, 1, 0, heldout=heldout_samples(samples))
    return token_warnings(batch, *skeleton_of(folder))


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("dense"), intermediate_size=960)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    model = tiny_model("qwen3_moe", **FAMILIES["qwen3_moe"].changes)
    return save(model, tmp_path_factory.mktemp("mixture"))


def test_fewer_tokens_than_the_widest_input_are_a_warning_that_names_it(dense):
    (warning,) = warnings(dense, 8, 64)
    assert warning.startswith(
        "448 calibration tokens are fewer than the 960 inputs of model.layers.0.mlp.down_proj: "
    )
    assert warnings(dense, 32, 64) == []


def test_experts_that_few_tokens_reach_are_a_warning_with_the_samples_that_suffice(mixture):
    (warning,) = warnings(mixture, 4, 64)
    assert re.search(r"A token passes 2 of 8 experts: an expert gets about 48 of the 192", warning)
    assert "with fewer than 64 it borrows the block's" in warning
    samples = re.search(r"--samples (\d+) or more", warning)
    assert samples is not None
    assert warnings(mixture, int(samples[1]), 64) == []


@pytest.mark.parametrize("kind", ["dense", "mixture"])
def test_the_advised_number_of_samples_silences_the_warning(kind, request):
    folder = request.getfixturevalue(kind)
    for samples, length in ((1, 64), (2, 64), (3, 128)):
        for warning in warnings(folder, samples, length):
            advised = re.search(r"--samples (\d+)", warning)
            assert advised is not None
            assert warning not in warnings(folder, int(advised[1]), length)
            assert not warnings(folder, int(advised[1]) * 8, length)


def test_a_dry_run_warns_too(dense, text, tmp_path):
    report = run(dense, tmp_path / "out", text, samples=4, sequence_length=64, dry_run=True)
    assert any("inputs of model.layers.0.mlp.down_proj" in w for w in report.data["warnings"])


def test_rows_left_out_are_a_warning_of_the_run(dense, tmp_path):
    rows = ['{"text": "' + "abc def ghi jkl mno " * 20 + '"}'] * 20 + ['{"text": ""}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    report = run(dense, tmp_path / "out", tmp_path / "a.jsonl", dry_run=True)
    assert any("1 of 21 documents have no token of their own" in w for w in report.data["warnings"])
