"""Laws of a shape's counts, whatever family it came from."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from salient.shapes.model_shape import BlockShape, CacheShape, LinearShape, ModelShape


def shape_of(*blocks: BlockShape, **changes) -> ModelShape:
    fields = {"embedding": 40 * 8, "head": 40 * 8, "other": 8}
    return ModelShape("llama", 8, 40, blocks, **{**fields, **changes})


DENSE = BlockShape(
    "full attention",
    (LinearShape("q_proj", 8, 8, bias=True), LinearShape("down_proj", 8, 16, "mlp", "in")),
    CacheShape(values=8, heads=2),
    other=16,
)
EXPERTS = BlockShape(
    "experts",
    (
        LinearShape("gate", 4, 8, "router", "none", unquantized=True),
        LinearShape("experts.*.up_proj", 16, 8, "experts", bias=True, copies=4, active=2),
    ),
    CacheShape(values=8, heads=2, window=10),
)


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_counts_as_torch_does(bias):
    linear = LinearShape("up_proj", 48, 32, bias=bias)
    module = nn.Linear(32, 48, bias=bias, device=torch.device("meta"))
    assert linear.weights + linear.biases == sum(p.numel() for p in module.parameters())


def test_experts_count_as_often_as_there_are_and_are_active_as_often_as_chosen():
    one, eight = (
        LinearShape("up", 16, 8, bias=True),
        LinearShape("up", 16, 8, bias=True, copies=8, active=2),
    )
    assert (eight.weights, eight.biases) == (8 * one.weights, 8 * one.biases)
    assert eight.active_weights == 2 * one.weights


def test_a_model_is_the_sum_of_its_parts():
    shape = shape_of(DENSE, EXPERTS, towers={"vision tower": 100})
    parts = (40 * 8, 40 * 8, 8, DENSE.parameters, EXPERTS.parameters, 100)
    assert shape.parameters == sum(parts)


def test_idle_experts_and_towers_are_not_active_and_all_else_is():
    shape = shape_of(DENSE, EXPERTS, towers={"vision tower": 100})
    idle = 2 * (16 * 8 + 16)
    assert shape.active_parameters == shape.parameters - 100 - idle
    assert shape_of(DENSE).active_parameters == shape_of(DENSE).parameters


def test_a_tied_head_counts_once_but_is_multiplied_all_the_same():
    own, tied = shape_of(DENSE), shape_of(DENSE, head=0)
    assert tied.tied
    assert not own.tied
    assert own.parameters - tied.parameters == own.head_weights == tied.head_weights


@pytest.mark.parametrize("context", [0, 1, 9, 10, 11, 1000])
def test_a_window_caches_no_more_than_its_tokens(context):
    cache = CacheShape(values=4, window=10)
    assert cache.tokens(context) == min(context, 10)
    assert replace(cache, window=None).tokens(context) == context


@pytest.mark.parametrize("context", [0, 5, 10, 50])
def test_a_sequence_caches_the_sum_of_its_blocks(context):
    state = BlockShape("Mamba", (), CacheShape(state=7))
    shape = shape_of(DENSE, EXPERTS, state)
    assert shape.cache_values(context) == 8 * context + 8 * min(context, 10) + 7


def test_one_more_token_is_cached_by_every_block():
    shape = shape_of(DENSE, EXPERTS)
    assert shape.values_per_token == shape.cache_values(5) - shape.cache_values(4) == 16
    assert shape.cache_values(101) - shape.cache_values(100) == shape.values_per_late_token == 8


def test_an_entry_of_several_tokens_is_cached_once_for_them():
    cache = CacheShape(values=4, window=10, entry_values=12, entry_tokens=4)
    shape = shape_of(BlockShape("compressed attention", (), cache))
    assert shape.cache_values(100) == 4 * 10 + 12 * 25
    assert (shape.values_per_token, shape.values_per_late_token) == (4 + 3, 3)


def test_counting_by_part_adds_up_to_all_matrices():
    shape = shape_of(DENSE, EXPERTS)
    parts = {linear.part for linear in shape.linears}
    by_part = sum(shape.count(lambda linear, part=part: linear.part == part) for part in parts)
    assert by_part == shape.count(lambda _: True) == sum(linear.weights for linear in shape.linears)
