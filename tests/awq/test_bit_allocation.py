"""Laws of the knapsack over formats: within the budget, near the best, no change left that pays."""

from itertools import pairwise, product

import pytest
import torch

from salient.awq.bit_allocation import Choice, allocate, hull

FORMATS = {"g64": 4.3125, "g32": 4.625, "w8": 8.25, "16bit": 16.0}
LEFT = {"g64": 1.0, "g32": 0.7, "w8": 0.004, "16bit": 0.0}  # of the damage


def toy_sets(seed: int, count: int = 6) -> list[list[Choice]]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 9, (count,), generator=generator).tolist()
    damages = torch.randn(count, generator=generator).exp().tolist()
    return [
        [Choice(name, bits * size, damage * LEFT[name]) for name, bits in FORMATS.items()]
        for size, damage in zip(sizes, damages, strict=True)
    ]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("per_weight", [4.3125, 4.4, 4.5, 5.0, 8.0, 16.0])
def test_the_allocation_is_within_a_step_of_the_best_of_all_in_the_budget(seed, per_weight):
    sets = toy_sets(seed)
    budget = sum(choices[0].bits for choices in sets) / FORMATS["g64"] * per_weight
    allocation = allocate(sets, budget)
    assert allocation.bits <= budget + 1e-9
    fitting = [c for c in product(*sets) if sum(one.bits for one in c) <= budget + 1e-9]
    best = min(sum(one.damage for one in choices) for choices in fitting)
    steps = [a.damage - b.damage for c in map(hull, sets) for a, b in pairwise(c)]
    assert best - 1e-12 <= allocation.damage <= best + max(steps)


@pytest.mark.parametrize("seed", range(4))
def test_no_single_change_that_fits_would_lower_the_damage(seed):
    sets = toy_sets(seed, 40)
    budget = sum(choices[0].bits for choices in sets) * 1.06
    allocation = allocate(sets, budget)
    free = budget - allocation.bits
    for now, choices in zip(allocation.choices, sets, strict=True):
        assert not [c for c in choices if c.bits - now.bits <= free and c.damage < now.damage]


def test_the_curve_falls_from_the_fewest_bits_to_no_damage_and_flattens():
    curve = allocate(toy_sets(0), 0.0).curve
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(curve)]
    assert curve[0][0] == pytest.approx(sum(choices[0].bits for choices in toy_sets(0)))
    assert curve[-1][1] == pytest.approx(0.0, abs=1e-12)
    assert all(slope < 0 for slope in slopes)
    assert slopes == sorted(slopes)


def test_a_budget_below_the_fewest_bits_takes_those():
    allocation = allocate(toy_sets(1), 0.0)
    assert {choice.format for choice in allocation.choices} == {"g64"}


def test_a_choice_with_more_bits_and_no_less_damage_is_never_taken():
    choices = [Choice("g64", 4, 1.0), Choice("g32", 5, 1.0), Choice("w8", 8, 0.1)]
    assert [choice.format for choice in hull(choices)] == ["g64", "w8"]
    above = [Choice("g64", 4, 1.0), Choice("g32", 7, 0.9), Choice("w8", 8, 0.1)]
    assert [choice.format for choice in hull(above)] == ["g64", "w8"]
