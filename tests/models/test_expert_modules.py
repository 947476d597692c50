"""Fused experts one by one give what the fused module gives, or stay as they are."""

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.families import FAMILIES
from helpers.tolerance import assert_within, model_rounding
from helpers.toy_models import SIZES, tiny_model
from salient.core.system import resident_memory
from salient.models.expert_modules import UnfusedExperts, unfused

FUSED = [kind for kind, family in FAMILIES.items() if "num_experts" in family.changes]


def fused_modules(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if any(p.ndim == 3 for p in m.parameters(recurse=False))]


def whole(kind: str) -> nn.Module:
    model = tiny_model(kind, **FAMILIES[kind].changes)
    model.set_experts_implementation("eager") if kind != "llama4_text" else None
    return next(m for m in fused_modules(model) if not isinstance(m, nn.Conv1d))


def filled(fused: nn.Module) -> UnfusedExperts:
    experts = unfused(fused)
    assert experts is not None
    experts.to_empty(device="cpu")
    for name, parameter in experts.named_parameters():
        home, part = experts.layout.part(name)
        parameter.data.copy_(part.of(fused.get_parameter(home)))
    return experts.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("kind", FUSED)
def test_experts_one_by_one_give_what_the_fused_module_gives(kind):
    fused = whole(kind)
    experts = filled(fused)
    random = torch.Generator().manual_seed(1)
    x = torch.randn(40, experts.layout.width, generator=random)
    with torch.no_grad():
        if kind == "llama4_text":
            routed = torch.rand(len(experts), 40, 1, generator=random).sub_(0.7).relu_()
            args = ((routed * x).flatten(0, 1),)
        else:
            weights, index = torch.rand(40, len(experts), generator=random).topk(2)
            args = (x, index, weights)
        expected = fused(*args)
        assert_within(experts(*args), expected, model_rounding(1) * expected.abs().max())


@pytest.mark.parametrize("kind", FUSED)
def test_every_weight_is_in_one_expert_once(kind):
    fused = whole(kind)
    experts = unfused(fused)
    assert experts is not None
    counted = {name: torch.zeros_like(p) for name, p in fused.named_parameters(recurse=False)}
    for name, parameter in experts.named_parameters():
        home, part = experts.layout.part(name)
        view = part.of(counted[home])
        assert view.shape == parameter.shape
        view.add_(1)
    assert all(bool((count == 1).all()) for count in counted.values())


def test_layouts_are_distinguished():
    layouts = {kind: unfused(whole(kind)).layout for kind in ("mixtral", "llama4_text", "gpt_oss")}
    assert not layouts["mixtral"].transposed
    assert layouts["llama4_text"].transposed
    assert not layouts["llama4_text"].interleaved
    assert layouts["gpt_oss"].transposed
    assert layouts["gpt_oss"].interleaved
    assert layouts["gpt_oss"].biased


class Odd(nn.Module):
    """Named like experts, but with a step that no layout knows."""

    def __init__(self, bend: bool = True):  # noqa: FBT001, FBT002
        super().__init__()
        self.num_experts, self.bend, self.act_fn = 3, bend, nn.SiLU()
        self.gate_up_proj = nn.Parameter(torch.randn(3, 20, 16))
        self.down_proj = nn.Parameter(torch.randn(3, 16, 10))

    def forward(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number in range(self.num_experts):
            token, slot = torch.where(index == number)
            gate, up = (x[token] @ self.gate_up_proj[number].t()).chunk(2, -1)
            inner = self.act_fn(gate) * (up + 1 if self.bend else up)
            result = (inner @ self.down_proj[number].t()) * weights[token, slot, None]
            out.index_add_(0, token, result)
        return out


def test_a_module_that_no_layout_reproduces_stays_fused():
    assert unfused(Odd()) is None
    assert unfused(Odd(bend=False)) is not None


@pytest.mark.parametrize(
    "module", [nn.Linear(4, 4), nn.Conv1d(8, 8, 3), nn.Embedding(4, 4)], ids=str
)
def test_what_holds_no_experts_is_left_alone(module):
    assert unfused(module) is None


def test_an_expert_that_no_token_reaches_does_not_run():
    experts = filled(whole("mixtral"))
    ran = []
    for number, expert in enumerate(experts):
        expert.register_forward_hook(lambda *_, number=number: ran.append(number))
    index = torch.tensor([[1, 3], [3, 8]])  # 8 is none of the eight
    experts(torch.randn(2, 64), index, torch.ones(2, 2))
    assert ran == [1, 3]


def test_a_model_without_weights_is_unfused_too():
    config = AutoConfig.for_model("mixtral", **SIZES | {"num_local_experts": 8})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    experts = unfused(fused_modules(model)[0])
    assert experts is not None
    assert all(p.is_meta for p in experts.parameters())


def test_unfusing_a_large_model_takes_no_memory():
    """DeepSeek-V3's sizes: 45 GB in float32, a block."""
    with torch.device("meta"):
        large = Odd(bend=False)
        large.gate_up_proj = nn.Parameter(torch.empty(256, 4096, 7168))
        large.down_proj = nn.Parameter(torch.empty(256, 7168, 2048))
    large.num_experts = 256
    before = resident_memory()
    experts = unfused(large)
    assert experts is not None
    assert (experts.layout.experts, experts.layout.inner) == (256, 2048)
    assert resident_memory() - before < 2**28
