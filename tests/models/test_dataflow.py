"""What else reads a module's output is found and named by its module and operation."""

import pytest
import torch
from torch import Tensor, nn

from salient.models.block_call import BlockCall
from salient.models.dataflow import other_readers
from salient.models.row_matching import BlockProbe


class Block(nn.Module):
    """norm -> reader, and `other` reads the norm, too."""

    def __init__(self, other: nn.Module):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.reader, self.other = nn.RMSNorm(8), nn.Linear(8, 8), other
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x)
        return x + self.reader(hidden) + self.other(hidden)


class Weighted(nn.Module):
    """A bare parameter behind a view and a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 8)[torch.arange(16)].view_as(x) * self.vector


class Shape(nn.Module):
    """Looks at nothing but the shape."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def others(other: nn.Module) -> list[str]:
    x = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1))
    probe = BlockProbe(x, BlockCall((), {}), x[0, :, None], BlockCall((), {}))
    return other_readers(Block(other), "norm", ("reader",), probe)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (nn.Linear(8, 8, bias=False), ["'other' (mm)"]),
        (nn.Identity(), ["'the block itself' (add)"]),
        (nn.Sigmoid(), ["'other' (sigmoid)"]),
        (Weighted(), ["'other' (mul)"]),
        (Shape(), []),
    ],
    ids=["linear", "residual", "gate", "through a view and a copy", "shape"],
)
def test_a_reader_is_named_by_module_and_operation(other, named):
    assert others(other) == named


def test_following_leaves_no_hooks():
    block = Block(nn.Identity())
    x = torch.randn(2, 8, 8)
    other_readers(
        block,
        "norm",
        ("reader",),
        BlockProbe(x, BlockCall((), {}), x[0, :, None], BlockCall((), {})),
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())
