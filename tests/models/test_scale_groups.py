"""A scale group that is wrong in any way is refused, and proving leaves the block as it was."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from helpers.toy_models import save, tiny_model
from salient.formats.checkpoint import open_checkpoint
from salient.models.block_call import BlockCall, run_block
from salient.models.proof import TOLERANCE, FoldProof, ScaleGroup, fold
from salient.models.row_matching import BlockProbe, feeding_rows
from salient.models.scale_groups import find_groups
from salient.models.skeleton import Skeleton

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
VALUES = (("self_attn.o_proj",), "self_attn.v_proj")
IN, POST = "input_layernorm", "post_attention_layernorm"
GEMMA2 = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
EVERY = torch.arange(64)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Callable[[str], tuple[nn.Module, BlockProbe]]:
    """The first block of a tiny model of a family, and a probe with real hidden states."""
    built = {}

    def setting(kind: str) -> tuple[nn.Module, BlockProbe]:
        if kind not in built:
            folder = tmp_path_factory.mktemp(kind)
            save(tiny_model(kind, **(GEMMA2 if kind == "gemma2" else {})), folder)
            skeleton = Skeleton(open_checkpoint(folder), torch.float32, torch.device("cpu"))
            ids = torch.randint(3, 250, (2, 16), generator=torch.Generator().manual_seed(1))
            hidden, calls = skeleton.calls(ids)
            single = skeleton.calls(ids[0, :, None])[1]
            probe = BlockProbe(hidden, calls[0], hidden[0, :, None], single[0])
            built[kind] = skeleton.block(0), probe
        return built[kind]

    return setting


def check_refused(group: ScaleGroup) -> None:
    assert not group.proven
    assert group.proof_error is not None
    assert group.proof_error > 100 * TOLERANCE  # by far: a wrong group is no matter of rounding
    message = f"folding a scale into {group.absorber!r} changes the block's output by "
    assert group.refusal.startswith(message)
    reason = group.refusal.removeprefix(message).partition(": ")[2]
    assert reason.startswith(("it is also read by '", "something else reads it, or an activation "))


def proposed_group(block: nn.Module, probe: BlockProbe, readers: tuple[str, ...]) -> ScaleGroup:
    return next(g for g in find_groups(block, probe) if g.readers == readers)


def test_the_right_group_is_proven_by_far(settings):
    for kind, offset in (("llama", 0.0), ("gemma2", 1.0)):
        group = FoldProof(*settings(kind)).of(ScaleGroup((QKV,), IN, EVERY, offset))
        assert group.proven
        assert group.proof_error is not None
        assert group.proof_error < TOLERANCE / 10
        assert group.refusal == ""


@pytest.mark.parametrize("left_out", QKV)
def test_a_group_with_a_reader_left_out_is_refused(left_out, settings):
    readers = tuple(name for name in QKV if name != left_out)
    block, probe = settings("llama")
    check_refused(FoldProof(block, probe).of(ScaleGroup((readers,), IN, EVERY)))


def test_a_group_with_a_reader_too_many_is_refused(settings):
    block, probe = settings("llama")
    check_refused(FoldProof(block, probe).of(ScaleGroup(((*QKV, "mlp.up_proj"),), IN, EVERY)))


@pytest.mark.parametrize("absorber", [POST, "self_attn.o_proj", "mlp.down_proj"])
def test_a_group_with_another_absorber_is_refused(absorber, settings):
    block, probe = settings("llama")
    check_refused(FoldProof(block, probe).of(ScaleGroup((QKV,), absorber, EVERY)))


def test_values_that_feed_the_output_by_other_rows_are_refused(settings):
    """Four query heads read two value heads: each row of v feeds two channels of o."""
    block, probe = settings("llama")
    right = torch.arange(32).reshape(2, 1, 16).expand(2, 2, 16).flatten()
    assert FoldProof(block, probe).of(ScaleGroup((VALUES[0],), VALUES[1], right)).proven
    assert torch.equal(feeding_rows(block, VALUES[1], *VALUES[0], probe), right)
    for wrong in (torch.arange(64) % 32, right.flip(0), right.roll(1)):
        check_refused(FoldProof(block, probe).of(ScaleGroup((VALUES[0],), VALUES[1], wrong)))


@pytest.mark.parametrize(("kind", "wrong"), [("gemma2", 0.0), ("llama", 1.0)])
def test_a_norm_with_the_other_offset_is_refused(kind, wrong, settings):
    block, probe = settings(kind)
    check_refused(FoldProof(block, probe).of(ScaleGroup((QKV,), IN, EVERY, wrong)))
    assert proposed_group(block, probe, QKV).offset == 1.0 - wrong


@pytest.mark.parametrize("kind", ["llama", "gemma2", "phi3"])
def test_proving_leaves_every_bit_of_the_block_as_it_was(kind, settings):
    block, probe = settings(kind)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    groups = find_groups(block, probe)
    assert sum(g.proven for g in groups) == 4
    for group in groups:
        FoldProof(block, probe).of(group)
        FoldProof(block, probe).of(replace(group, inputs=(group.readers[:1],)))
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())


def test_a_block_that_fails_while_it_is_folded_is_put_back(settings, monkeypatch):
    block, probe = settings("llama")
    before = {name: value.clone() for name, value in block.state_dict().items()}
    proof = FoldProof(block, probe)

    def failing(*_: object) -> Tensor:
        assert not torch.equal(block.get_parameter(f"{IN}.weight"), before[f"{IN}.weight"])
        raise RuntimeError("out of memory")

    monkeypatch.setattr("salient.models.proof.run_block", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        proof.of(ScaleGroup((QKV,), IN, EVERY))
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


class Toy(nn.Module):
    """norm -> reader, and what `other` does with the norm's output."""

    def __init__(self, other: Callable[[Tensor], Tensor], bend: Callable[[Tensor], Tensor]):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.reader = nn.RMSNorm(16), nn.Linear(16, 16)
        self.middle, self.last = nn.Linear(16, 24), nn.Linear(24, 16)
        self.other, self.bend = other, bend
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x)
        return x + self.reader(hidden) + self.other(hidden) + self.last(self.bend(self.middle(x)))


def nothing(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def same(x: Tensor) -> Tensor:
    return x


def toy_groups(other: Callable[[Tensor], Tensor], bend: Callable[[Tensor], Tensor] = same):
    x = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(1))
    call = BlockCall((), {})
    groups = find_groups(Toy(other, bend), BlockProbe(x, call, x[0, :, None], call))
    return {g.readers[0]: g for g in groups}


OTHERS = {
    "added to the output": same,
    "a gate": torch.sigmoid,
    "routes by its largest channel": lambda x: x.argmax(-1, keepdim=True) * torch.ones_like(x),
    "a little of it": lambda x: 1e-3 * x,
}


def test_a_norm_that_feeds_only_a_linear_is_proven():
    assert toy_groups(nothing)["reader"].proven


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_norm_that_feeds_something_that_takes_no_scale_is_refused(other):
    group = toy_groups(other)["reader"]
    assert not group.proven
    assert group.absorber == "norm"
    assert group.proof_error is not None
    assert group.proof_error > TOLERANCE
    assert "folding a scale into 'norm' changes the block's output by" in group.refusal


@pytest.mark.parametrize(
    ("bend", "proven"),
    [(same, True), (torch.relu, True), (nn.functional.gelu, False), (torch.square, False)],
)
def test_a_linear_behind_an_activation_is_proven_only_if_the_scale_passes_it(bend, proven):
    group = toy_groups(nothing, bend)["last"]
    assert group.proven is proven
    if proven:
        assert (group.absorber, group.rows.tolist()) == ("middle", list(range(24)))
    else:
        assert group.refusal.endswith("an activation between bends it")


def test_folding_a_scale_and_its_inverse_restores_the_block(settings):
    block, probe = settings("llama")
    before = {name: value.clone() for name, value in block.state_dict().items()}
    expected = run_block(block, probe.sequences, probe.sequences_call)
    scale, group = 2.0 ** (EVERY % 5 - 2), ScaleGroup((QKV,), IN, EVERY)
    fold(block, group, scale)
    assert not torch.equal(block.get_parameter(f"{IN}.weight"), before[f"{IN}.weight"])
    # powers of two round nothing
    assert torch.equal(run_block(block, probe.sequences, probe.sequences_call), expected)
    fold(block, group, 1 / scale)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


def test_groups_of_a_block_are_proven_again_in_the_next_of_its_shape(settings):
    """What was right there may be wrong here: a wrong proposal is searched anew."""
    block, probe = settings("llama")
    right = find_groups(block, probe)
    wrong = [replace(g, absorber=POST) if g.readers == QKV else g for g in right]
    result = find_groups(block, probe, wrong)
    assert [(g.readers, g.absorber, g.proven) for g in result] == [
        (g.readers, g.absorber, True) for g in right
    ]


def test_groups_that_fail_together_with_the_others_are_refused(settings, monkeypatch):
    block, probe = settings("llama")
    alone = FoldProof.error
    monkeypatch.setattr(FoldProof, "error", lambda p, gs: 1.0 if len(gs) == 4 else alone(p, gs))
    groups = find_groups(block, probe)
    assert [g.proven for g in groups] == [True, True, True, False]
    assert groups[-1].refusal == "it fails in combination with the block's other groups"
