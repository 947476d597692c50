"""Statistics: every token is counted once, whatever portion of the experts fits in memory."""

import pytest
import torch
from torch import Tensor, nn

from helpers.tolerance import assert_product, assert_within, worst
from salient.awq import block_statistics
from salient.awq.block_statistics import FEWEST_TOKENS, BlockStatistics, portions
from salient.awq.statistics import PlainGatherer
from salient.core.errors import ModelError
from salient.models.block_call import BlockCall
from salient.models.proof import ScaleGroup

WIDTH, INNER, COUNT = 8, 6, 4


class Experts(nn.Module):
    """A router that sends a token where its first channels point, and experts of two linears."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate = nn.Linear(WIDTH, COUNT, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)) for _ in range(COUNT)
        )
        self.gate.weight.data.copy_(torch.eye(COUNT, WIDTH))
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        chosen = self.gate(x).argmax(-1)
        for number, expert in enumerate(self.experts):
            own = chosen == number
            if bool(own.any()):
                out[own] = expert(x[own])
        return out


ENTRIES = tuple((f"experts.{e}.0",) for e in range(COUNT))
ENTRY = ScaleGroup((("gate",), *ENTRIES), "norm")
GROUPS = [ENTRY, *(ScaleGroup(((f"experts.{e}.1",),)) for e in range(COUNT))]


def inputs(counts: tuple[int, ...]) -> Tensor:
    """Tokens of which the router sends `counts` to each expert."""
    x = torch.randn(sum(counts), WIDTH, generator=torch.Generator().manual_seed(1))
    numbers = torch.repeat_interleave(torch.arange(COUNT), torch.tensor(counts))
    x[torch.arange(len(x)), numbers] += 9
    return x.unsqueeze(0)


def gather(x: Tensor, passes: list[bool]) -> BlockStatistics:
    block = Experts()

    def pass_(through, again):
        passes.append(again)
        for part in x.split(100, dim=1):
            through(part, BlockCall((), {}), None)

    return BlockStatistics("blocks.0", block, GROUPS, pass_, PlainGatherer(block))


def grams(stats: BlockStatistics) -> dict[str, Tensor]:
    return {name: stats.of(name).gram.clone() for name in stats.inputs}


def test_each_expert_is_measured_on_its_own_tokens_in_one_pass():
    counts = (100, 200, 80, 70)
    x, passes = inputs(counts), []
    stats = gather(x, passes)
    result = grams(stats)
    assert passes == [False]
    rows = x[0].split(counts)
    assert_product(result["gate"], x[0].t(), x[0])
    for number, own in enumerate(rows):
        assert stats.of(f"experts.{number}.0").tokens == counts[number]
        assert_product(result[f"experts.{number}.0"], own.t(), own)
    assert stats.borrowed == {}


def test_experts_that_do_not_fit_in_memory_are_gathered_in_more_passes(monkeypatch):
    x, once, often = inputs((100, 100, 100, 100)), [], []
    expected = grams(gather(x, once))
    monkeypatch.setattr(block_statistics, "GRAM_BYTES", 4 * (3 * WIDTH**2 + 10))
    result = grams(gather(x, often))
    assert len(often) > len(once) == 1
    assert often[0]
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_a_portion_holds_at_least_one_expert_however_large():
    names = ["e.0", "e.1", "e.2"]
    assert portions(names, "e.1", 3 * 2**31, lambda _: 2**31) == (["e.1"], True)
    assert portions(names, "e.2", 12, lambda _: 4) == (names, False)


def test_an_expert_that_saw_too_few_tokens_borrows_all_of_them_and_is_named():
    few = FEWEST_TOKENS - 1
    x, passes = inputs((100, few, 0, FEWEST_TOKENS)), []
    stats = gather(x, passes)
    result = grams(stats)
    assert stats.borrowed == {"experts.1": few, "experts.2": 0}
    first = x[0, :100]  # the first batch is what is borrowed
    assert_product(result["experts.2.0"], first.t(), first)
    linear = stats.block.get_submodule("experts.2.0")
    hidden = linear(first)
    # each hidden value is itself a sum, of WIDTH products and a bias
    size = first.abs() @ linear.weight.abs().t() + linear.bias.abs()
    bound = worst(100 + 2 * (WIDTH + 1)) * (size.t() @ size)
    assert_within(result["experts.2.1"], hidden.double().t() @ hidden.double(), bound)
    own = x[0, -FEWEST_TOKENS:]
    assert_product(result["experts.3.0"], own.t(), own)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_an_input_that_overflows_is_an_error_that_names_the_linear(value):
    x = inputs((100, 100, 100, 100))
    x[0, 0, 7] = value
    with pytest.raises(ModelError, match=r"The input of 'blocks\.0\.gate' overflows or is NaN"):
        gather(x, []).of("gate")
