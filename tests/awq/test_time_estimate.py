"""The time estimate grows with what a run does, and efforts cost in their order."""

import torch

from helpers.toy_models import toy_folder
from salient.awq.effort import EFFORTS
from salient.awq.run_report import about
from salient.awq.time_estimate import estimate_seconds, operations
from salient.formats.checkpoint import open_checkpoint
from salient.models.skeleton import Skeleton


def skeleton_of(folder) -> Skeleton:
    return Skeleton(open_checkpoint(folder), torch.float32, torch.device("cpu"))


def test_more_effort_more_tokens_and_more_blocks_take_longer(toy, tmp_path):
    skeleton, deeper = skeleton_of(toy), skeleton_of(toy_folder(tmp_path, num_hidden_layers=6))
    efforts = [EFFORTS[name] for name in ("fast", "balanced", "best")]
    costs = [operations(skeleton, 1000, effort) for effort in efforts]
    assert costs == sorted(costs)
    for effort, cost in zip(efforts, costs, strict=True):
        assert cost < operations(skeleton, 2000, effort) < 2 * cost + 1
        assert operations(deeper, 1000, effort) > 2 * cost
    seconds = estimate_seconds(skeleton, torch.zeros(4, 64))
    assert seconds.keys() == EFFORTS.keys()
    assert all(value > 0 for value in seconds.values())


def test_estimates_have_a_figure_or_two():
    assert [about(s) for s in (3, 44, 600, 9000)] == ["10 s", "40 s", "10 min", "2.5 h"]
