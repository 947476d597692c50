"""Patterns of --skip: as few as name all linears that do not fit, and no other."""

import random

from salient.core.skip_patterns import EXPERTS, covering, matches, skip_options

LAYERS = 80
PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
NAMES = [f"model.layers.{layer}.{part}" for layer in range(LAYERS) for part in PARTS]


def test_one_pattern_means_one_kind_in_all_layers():
    narrow = [name for name in NAMES if name.endswith("down_proj")]
    assert covering(narrow, set(NAMES) - set(narrow)) == ["down_proj"]
    both = [name for name in NAMES if "mlp" in name]
    assert covering(both, set(NAMES) - set(both)) == ["up_proj", "down_proj"]


def test_a_pattern_is_as_long_as_the_others_demand():
    names = ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    others = {"model.layers.0.shared.down_proj", "model.layers.2.mlp.down_proj"}
    assert covering(names[:1], {names[1]}) == names[:1]
    assert covering(names, {"model.layers.0.shared.down_proj"}) == ["mlp.down_proj"]
    assert covering(names, others) == names


def test_experts_are_one_stack():
    names = [f"model.layers.0.mlp.experts.{n}.up_proj" for n in range(8)]
    assert covering(names[:3], set(names[3:])) == [EXPERTS]
    assert skip_options([EXPERTS, "a"]) == "--skip '*.experts.*' --skip 'a'"


def test_any_linears_are_covered_and_no_other():
    chance = random.Random(0)
    for _ in range(50):
        narrow = chance.sample(NAMES, chance.randint(1, 40))
        others = set(NAMES) - set(narrow)
        patterns = covering(narrow, others)
        assert {n for n in NAMES if any(matches(n, p) for p in patterns)} == set(narrow)
