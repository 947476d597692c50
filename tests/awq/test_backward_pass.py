"""The backward pass: gradients of the end loss as autograd has them for the whole model."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from helpers.families import FAMILIES
from helpers.runs import contents, run
from helpers.tolerance import assert_product
from helpers.toy_models import save, tiny_model, toy_folder
from salient.awq.activation_store import ActivationStore
from salient.awq.effort import EFFORTS
from salient.awq.fisher import (
    GradientGatherer,
    LinearGradients,
    clipped,
    gradient_fault,
    run_backward,
    token_weights,
)
from salient.awq.token_streams import GradientStream
from salient.core.errors import RequestError, ResourceError
from salient.core.progress import Progress
from salient.formats.checkpoint import open_checkpoint
from salient.models import label_gradient as labels
from salient.models.block_call import BlockCall
from salient.models.skeleton import Skeleton

CPU = torch.device("cpu")


def test_gradients_of_streamed_blocks_are_those_of_the_whole_model(toy):
    skeleton = Skeleton(open_checkpoint(toy), torch.float32, CPU)
    ids = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    hidden, calls = skeleton.calls(ids)
    states = [hidden]
    for index in range(len(skeleton.blocks)):
        states.append(run_backward_free(skeleton.block(index), states[-1], calls[index]))
    gradient = labels.label_gradient(skeleton, ids, states[-1], seed=5)
    streamed = {}
    for index in reversed(range(len(skeleton.blocks))):
        name = f"{skeleton.blocks[index]}.mlp.down_proj"
        observers = {"mlp.down_proj": lambda x, d, name=name: streamed.update({name: (x, d)})}
        block = skeleton.block(index)
        _, gradient = run_backward(block, states[index], calls[index], gradient, observers)

    whole = AutoModelForCausalLM.from_pretrained(toy, dtype=torch.float32)
    direct = {}
    for name in streamed:
        whole.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: direct.update({name: (args[0], out)})
        )
    logits = whole(ids, use_cache=False).logits
    outer = torch.cat([answer_gradient(row[None], 5, n) for n, row in enumerate(logits)])
    outs = [out for _, out in direct.values()]
    for name, d in zip(direct, torch.autograd.grad(logits, outs, outer), strict=True):
        x = direct[name][0].flatten(0, 1)
        torch.testing.assert_close(streamed[name][0], x.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(streamed[name][1], d.flatten(0, 1), rtol=1e-3, atol=1e-5)


def run_backward_free(block, hidden, call):
    return run_backward(block, hidden, call, torch.zeros_like(hidden), {})[0]


def answer_gradient(logits, seed, row):
    """That of one row, with the labels that a run of several rows draws for it."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(row):
        torch.rand((1, logits.shape[1], 1), generator=generator)
    return labels._answer_gradient(logits.detach(), "tokens", generator)


def test_labels_are_drawn_with_their_probabilities():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2]).expand(20_000, 4)
    drawn = labels.sample_labels(probabilities, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn.flatten(), minlength=4) / 20_000
    torch.testing.assert_close(shares, probabilities[0], atol=0.015, rtol=0)
    assert shares[1] == 0


def test_the_sums_of_parts_are_the_gram_matrices_of_all_tokens(monkeypatch):
    monkeypatch.setattr("salient.awq.fisher.OUTPUT_BAND", 8)
    torch.manual_seed(0)
    x, d = torch.randn(50, 6), torch.randn(50, 12)
    sums = LinearGradients(12, 6)
    sums.add(x, d)
    stats = sums.stats
    assert_product(stats.gram, (x * token_weights(d)).t(), x)
    for gram, part in zip(stats.output_grams, clipped(d).split(8, 1), strict=True):
        assert_product(gram, part.t(), part)


def test_a_token_with_a_huge_gradient_does_not_own_the_sums():
    d = torch.ones(400, 3)
    d[7] = 1e4
    weights, rest = token_weights(d), clipped(d)
    assert float(weights[7] / weights.sum()) == pytest.approx(0.5, abs=1 / 400)
    assert torch.equal(rest, torch.ones(400, 3))


def test_gradients_within_the_quantile_count_in_full():
    d = torch.ones(400, 3)
    d[7] = 3.0
    assert torch.equal(token_weights(d), d[:, :1] ** 2)
    assert torch.equal(clipped(d[:1]), d[:1])
    assert len(token_weights(d[:0])) == len(clipped(d[:0])) == 0


def test_each_draw_has_labels_of_its_own_and_counts_every_token_once(toy, tmp_path):
    skeleton = Skeleton(open_checkpoint(toy), torch.float32, CPU)
    ids = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    block, blocks = skeleton.block(1), len(skeleton.blocks)
    weights, stats = {}, {}
    for draws in (1, 4):
        store = ActivationStore(tmp_path, blocks, [(2, 12, skeleton.width)], torch.bfloat16)
        stream = GradientStream(skeleton, ids, store, draws)
        stream.record(1)
        stream.turn(seed=3)
        assert len(stream.states) == draws
        gatherer = GradientGatherer(block, frozenset(["mlp.down_proj"]), draws)
        weights[draws] = stream.token_weights()
        own = {"mlp.down_proj": gatherer.create(("mlp.down_proj",))}
        stream.advance(1, lambda *args, g=gatherer, own=own: g.run(*args, own)[1])
        stats[draws] = own["mlp.down_proj"]
        store.close()
    assert weights[1].shape == weights[4].shape == (2, 12)
    assert not torch.equal(weights[1], weights[4])
    assert stats[1].tokens == stats[4].tokens == 24
    torch.testing.assert_close(stats[1].mean_abs, stats[4].mean_abs)


def test_few_tokens_have_several_labels_each_and_many_have_one():
    assert [EFFORTS["best"].draws(tokens) for tokens in (1, 2**13, 2**15, 2**17)] == [4, 4, 2, 1]
    assert EFFORTS["balanced"].draws(1) == 1


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x.detach()).detach()


def test_a_block_without_gradients_is_named_and_rounds_without_them(
    toy, text, tmp_path, monkeypatch
):
    hidden = torch.randn(1, 3, 4)
    assert gradient_fault(nn.Sequential(nn.Linear(4, 4)), hidden, BlockCall((), {})) == ""
    assert "does not require grad" in gradient_fault(Detached(), hidden, BlockCall((), {}))
    for module in ("block_step", "backward_pass"):
        monkeypatch.setattr(f"salient.awq.{module}.gradient_fault", lambda *_: "it is odd")
    report = run(toy, tmp_path / "out", text, effort="balanced")
    assert all(block["no_gradients"] == "it is odd" for block in report.data["blocks"])
    assert any("without gradients" in line and "it is odd" in line for line in report.lines)


@pytest.mark.parametrize(
    ("kind", "effort"), [("llama", "best"), ("qwen2_moe", "best"), ("gemma2", "balanced")]
)
def test_a_run_with_gradients_that_stops_anywhere_ends_byte_equal(kind, effort, text, tmp_path):
    folder = save(tiny_model(kind, **FAMILIES[kind].changes), tmp_path / "model")
    run(folder, tmp_path / "whole/out", text, effort=effort)
    moments = ["layers.1: passing", "layers.1: statistics", "layers.0: reading", "measuring"]
    if effort == "best":
        moments[3:3] = ["layers.0: learning", "layers.1: learning"]

    def stop(done, total, doing, note):
        if moments and moments[0] in doing:
            moments.pop(0)
            raise KeyboardInterrupt

    while moments:
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "out", text, effort=effort, progress=Progress(stop))
    report = run(folder, tmp_path / "out", text, effort=effort)
    assert report.data["resumed"]
    learned = [block["reconstruction"] for block in report.data["blocks"]]
    assert all(bool(each) == (effort == "best") for each in learned)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole/out")


def test_efforts_are_different_runs_and_unknown_ones_are_refused(toy, text, tmp_path):
    with pytest.raises(RequestError, match=r"Unknown --effort 'much'\. Known efforts: fast, bal"):
        run(toy, tmp_path / "out", text, effort="much")


def test_the_store_returns_what_was_written_and_leaves_no_file(tmp_path):
    store = ActivationStore(tmp_path, 2, [(2, 3), (1, 3)], torch.bfloat16)
    values = {(p, n): torch.randn(2 - n, 3).bfloat16() for p in range(2) for n in range(2)}
    for (place, number), value in values.items():
        store.write(place, number, value)
    assert all(torch.equal(store.read(*at), value) for at, value in values.items())
    assert not list(tmp_path.iterdir())
    store.close()


def test_a_disk_without_room_is_named_with_what_the_run_needs(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    message = r"between the blocks need 2 MiB of disk in .* \(No space left on device\)"
    with pytest.raises(ResourceError, match=message):
        ActivationStore(tmp_path, 2, [(2**19,)], torch.bfloat16)


def test_every_block_of_a_model_of_one_sample_is_quantized(text, tmp_path):
    folder = toy_folder(tmp_path / "model")
    report = run(folder, tmp_path / "out", text, effort="balanced", samples=1)
    assert len(report.data["blocks"]) == 2
