"""A rotation of heads is folded only where the block's output stays as it is."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from helpers.toy_models import save, tiny_model
from salient.formats.checkpoint import open_checkpoint
from salient.models.block_call import BlockCall, run_block
from salient.models.head_rotation import (
    NO_SLICES,
    HeadRotation,
    find_rotation,
    hadamard,
    rotate,
)
from salient.models.proof import TOLERANCE, ScaleGroup
from salient.models.row_matching import BlockProbe
from salient.models.scale_groups import find_groups
from salient.models.skeleton import Skeleton

HEADS = {  # kind: (absorber of the values, first rows of its heads); heads of 16 values
    "llama": ("self_attn.v_proj", [0, 16]),
    "qwen2": ("self_attn.v_proj", [0, 16]),
    "phi3": ("self_attn.qkv_proj", [96, 112]),
}


def setting(kind: str, folder) -> tuple[nn.Module, BlockProbe]:
    save(tiny_model(kind), folder)
    skeleton = Skeleton(open_checkpoint(folder), torch.float32, torch.device("cpu"))
    ids = torch.randint(3, 250, (2, 16), generator=torch.Generator().manual_seed(1))
    hidden, calls = skeleton.calls(ids)
    single = skeleton.calls(ids[0, :, None])[1]
    return skeleton.block(0), BlockProbe(hidden, calls[0], hidden[0, :, None], single[0])


def rotations(block: nn.Module, probe: BlockProbe) -> dict[str, HeadRotation]:
    """The rotation of each linear that another feeds, by its name."""
    pairs = ((g.readers[0], find_rotation(block, probe, g)) for g in find_groups(block, probe))
    return {name: rotation for name, rotation in pairs if rotation is not None}


@pytest.mark.parametrize("size", [1, 2, 16, 64])
def test_the_hadamard_matrix_is_orthonormal(size):
    matrix = hadamard(size, torch.ones(1, dtype=torch.float64))
    assert torch.allclose(matrix @ matrix.t(), torch.eye(size, dtype=torch.float64))
    assert torch.allclose(matrix.abs(), torch.full_like(matrix, size**-0.5))


@pytest.mark.parametrize("kind", HEADS)
def test_each_head_is_rotated_whole_and_the_output_stays(kind, tmp_path):
    """Behind grouped queries, in a fused linear, with a bias."""
    block, probe = setting(kind, tmp_path)
    expected = run_block(block, probe.sequences, probe.sequences_call)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    by_reader = rotations(block, probe)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    rotation = by_reader["self_attn.o_proj"]
    assert (rotation.absorber, rotation.starts.tolist()) == HEADS[kind]
    assert rotation.proven
    assert rotation.size == 16
    rotate(block, rotation)
    changed = {n for n, value in block.state_dict().items() if not torch.equal(value, before[n])}
    bias = {"self_attn.v_proj.bias"} if kind == "qwen2" else set()
    assert changed == {f"{rotation.absorber}.weight", "self_attn.o_proj.weight"} | bias
    output = run_block(block, probe.sequences, probe.sequences_call)
    assert (output - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert all(torch.equal(rotation.applied(n, before[n]), block.state_dict()[n]) for n in before)


def test_what_a_gate_bends_is_refused(tmp_path):
    rotation = rotations(*setting("llama", tmp_path))["mlp.down_proj"]
    assert not rotation.proven
    assert rotation.refusal.startswith(
        "rotating pairs of the rows of 'mlp.up_proj' changes the block's output by "
    )
    name = "mlp.down_proj.weight"
    value = torch.randn(4, 96)
    assert rotation.applied(name, value) is value


class Toy(nn.Module):
    """Two linears, and what lies between."""

    def __init__(self, between: Callable[[Tensor], Tensor]):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.between = nn.Linear(16, 24), nn.Linear(24, 16), between
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.between(self.first(x)))


def toy_rotation(between: Callable[[Tensor], Tensor], rows: Tensor) -> HeadRotation | None:
    x = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(1))
    call = BlockCall((), {})
    group = ScaleGroup((("last",),), "first", rows)
    return find_rotation(Toy(between), BlockProbe(x, call, x[0, :, None], call), group)


def test_a_block_as_wide_as_divides_the_channels_is_rotated():
    rotation = toy_rotation(lambda x: x, torch.arange(24))
    assert rotation is not None
    assert (rotation.size, rotation.starts.tolist()) == (8, [0, 8, 16])


def test_channels_out_of_order_are_refused():
    order = torch.arange(24).flip(0)
    rotation = toy_rotation(lambda x: x.flip(-1), order)
    assert rotation is not None
    assert not rotation.proven
    assert rotation.refusal == NO_SLICES


def test_a_group_that_a_norm_feeds_has_no_heads(tmp_path):
    assert "self_attn.q_proj" not in rotations(*setting("llama", tmp_path))
