"""The memory estimate: a sum of parts that grows with what it names, and a check to the byte."""

from pathlib import Path

import pytest
import torch

from helpers.toy_models import toy_folder
from salient.awq.memory_estimate import MemoryEstimate, check_memory, estimate_memory
from salient.core.errors import ResourceError
from salient.formats.checkpoint import open_checkpoint
from salient.models.skeleton import Skeleton

CPU = torch.device("cpu")
MIB = 2**20
HIDDEN, HELDOUT = "hidden states between blocks (16 bits)", "held-out tokens"


def skeleton_of(folder: Path, dtype: torch.dtype = torch.float32) -> Skeleton:
    return Skeleton(open_checkpoint(folder), dtype, CPU)


def estimate(
    skeleton: Skeleton, samples: int = 6, heldout: int = 1, length: int = 64
) -> MemoryEstimate:
    ids = torch.zeros(samples + heldout, length, dtype=torch.int64)
    return estimate_memory(skeleton, ids[:samples], ids[samples:])


def part(estimated: MemoryEstimate, prefix: str) -> int:
    return next(size for name, size in estimated.main.items() if name.startswith(prefix))


def test_the_total_is_the_sum_of_its_parts(toy):
    result = estimate(skeleton_of(toy))
    parts = {**result.device, **result.main}
    assert result.total == sum(parts.values())
    assert len(parts) == len(result.device) + len(result.main)  # no name hides another
    assert all(size > 0 for size in parts.values())


def test_hidden_states_are_two_bytes_a_token_and_channel(toy):
    skeleton = skeleton_of(toy)
    assert part(estimate(skeleton, samples=6), HIDDEN) == 6 * 64 * 64 * 2
    assert part(estimate(skeleton, samples=60), HIDDEN) == 60 * 64 * 64 * 2
    more, less = estimate(skeleton, heldout=4), estimate(skeleton, heldout=1)
    assert part(more, HELDOUT) == 4 * part(less, HELDOUT)


def test_a_deeper_model_needs_no_more_memory(toy, tmp_path):
    deeper = skeleton_of(toy_folder(tmp_path, num_hidden_layers=6))
    assert estimate(deeper).device == estimate(skeleton_of(toy)).device


@pytest.mark.parametrize(
    "changes", [{"intermediate_size": 512}, {"hidden_size": 128}, {"vocab_size": 2**16}], ids=str
)
def test_a_wider_model_or_a_larger_vocabulary_needs_more(changes, toy, tmp_path):
    larger, before = skeleton_of(toy_folder(tmp_path, **changes)), skeleton_of(toy)
    assert sum(estimate(larger).device.values()) > 1.1 * sum(estimate(before).device.values())


def estimate_of(device: int, main: int, resident: int = 0) -> MemoryEstimate:
    return MemoryEstimate({"block": device}, {"hidden": main}, resident)


def test_a_run_that_fits_to_the_byte_is_let_through(monkeypatch):
    monkeypatch.setattr("salient.awq.memory_estimate.available_memory", lambda: 100 * MIB)
    check_memory(estimate_of(60 * MIB, 40 * MIB), CPU)
    with pytest.raises(ResourceError):
        check_memory(estimate_of(60 * MIB, 40 * MIB + 1), CPU)


def test_what_the_process_holds_already_counts_as_there(monkeypatch):
    monkeypatch.setattr("salient.awq.memory_estimate.available_memory", lambda: 100 * MIB)
    check_memory(estimate_of(60 * MIB, 70 * MIB, resident=30 * MIB), CPU)
    with pytest.raises(ResourceError):
        check_memory(estimate_of(60 * MIB, 71 * MIB, resident=30 * MIB), CPU)


def test_too_little_memory_says_how_much_is_needed_and_there_and_what_to_lower(monkeypatch):
    monkeypatch.setattr("salient.awq.memory_estimate.available_memory", lambda: 1536 * MIB)
    message = (
        r"^The run needs about 5\.0 GiB of main memory, and 1\.5 GiB are free\. Lower --samples or "
        r"--sequence-length \(hidden states\), free memory, or use a machine with more\.$"
    )
    with pytest.raises(ResourceError, match=message):
        check_memory(estimate_of(4 * 1024 * MIB, 1024 * MIB), CPU)


def test_a_gpu_is_checked_apart_from_main_memory(monkeypatch):
    monkeypatch.setattr("salient.awq.memory_estimate.available_memory", lambda: 100 * MIB)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (50 * MIB, 80 * MIB))
    cuda = torch.device("cuda:1")
    check_memory(estimate_of(50 * MIB, 100 * MIB), cuda)
    with pytest.raises(ResourceError, match=r"of main memory, and 0\.1 GiB"):
        check_memory(estimate_of(50 * MIB, 101 * MIB), cuda)
    with pytest.raises(ResourceError, match=r"of memory of cuda:1, and 0\.0 GiB"):
        check_memory(estimate_of(51 * MIB, 100 * MIB), cuda)


MOE = {"num_local_experts": 8, "num_experts_per_tok": 2, "hidden_size": 64}


def test_gram_matrices_of_experts_are_bounded(tmp_path, monkeypatch):
    few = skeleton_of(toy_folder(tmp_path / "few", "mixtral", **MOE))
    many = skeleton_of(toy_folder(tmp_path / "many", "mixtral", **{**MOE, "num_local_experts": 32}))
    grams = [estimate(s).device["Gram matrices"] for s in (few, many)]
    each = (64**2 + 96**2) * 4
    assert grams[1] - grams[0] == 24 * each
    monkeypatch.setattr("salient.awq.memory_estimate.GRAM_BYTES", 10 * each)
    assert estimate(many).device["Gram matrices"] == 10 * each
    assert part(estimate(many), HIDDEN) == 6 * 64 * 64 * 4  # what comes out waits for the last pass


def test_tokens_are_counted_for_the_experts_they_reach(tmp_path):
    two = skeleton_of(toy_folder(tmp_path / "two", "mixtral", **MOE))
    four = skeleton_of(toy_folder(tmp_path / "four", "mixtral", **MOE | {"num_experts_per_tok": 4}))
    sizes = [part(estimate(s), HELDOUT) for s in (two, four)]
    assert sizes[1] - sizes[0] == 64 * 2 * (64 + 96) * 4
