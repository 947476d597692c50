"""Schemes: a name says all, and a width that does not fit says what does."""

import re

import pytest

from salient.core.errors import ShapeError
from salient.core.scheme import (
    GROUP_SIZES,
    KNOWN,
    Scheme,
    check_width,
    largest_scheme,
    parse_scheme,
)


@pytest.mark.parametrize("scheme", KNOWN, ids=str)
def test_a_scheme_is_known_by_its_printed_name(scheme):
    assert parse_scheme(str(scheme)) == scheme


def test_a_name_says_bits_group_size_and_symmetry():
    assert parse_scheme("w4-g64") == Scheme(group_size=64, symmetric=False, bits=4)
    assert parse_scheme("w4-g128-sym") == Scheme(group_size=128, symmetric=True, bits=4)


@pytest.mark.parametrize("name", ["w8-g128", "w4-g16", "w4-g128-SYM", "W4-g128", "w4", "", "auto"])
def test_an_unknown_scheme_lists_the_known_ones(name):
    known = ", ".join(map(str, KNOWN))
    message = re.escape(f"Unknown scheme {name!r}. Known schemes: {known}, or 'auto'.")
    with pytest.raises(ShapeError, match=message):
        parse_scheme(name)


def test_four_bits_have_sixteen_codes_and_the_middle_is_eight():
    assert (Scheme().max_code, Scheme().middle) == (15, 8)


@pytest.mark.parametrize(("group_size", "bits"), [(128, 4.15625), (64, 4.3125), (32, 4.625)])
def test_bits_per_weight_are_four_and_twenty_over_the_group_size(group_size, bits):
    assert Scheme(group_size).bits_per_weight == bits == 4 + 20 / group_size


def test_a_symmetric_scheme_saves_the_zeros():
    assert Scheme(128, symmetric=True).bits_per_weight == 4 + 16 / 128


@pytest.mark.parametrize("width", [128, 384, 4096])
def test_a_width_that_divides_is_let_through(width):
    check_width("w", width, Scheme(128))


@pytest.mark.parametrize("width", [32, 64, 96, 100, 192, 160, 1, 127])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_the_group_sizes_advised_divide_the_width_and_no_other_does(width, group_size):
    name = "model.layers.0.mlp.down_proj"
    if width % group_size == 0:
        check_width(name, width, Scheme(group_size))
        return
    with pytest.raises(ShapeError, match=rf"'{name}' has {width} input features") as raised:
        check_width(name, width, Scheme(group_size))
    message = str(raised.value)
    assert f"not a multiple of the group size {group_size}." in message
    assert f"unquantized with --skip '{name}'" in message
    advised = re.search(r"Use group size ([\d or]+), or leave", message)
    sizes = [int(s) for s in advised[1].split(" or ")] if advised else []
    assert sizes == [g for g in GROUP_SIZES if width % g == 0]


def test_the_largest_group_size_is_taken_that_divides_every_layer():
    assert largest_scheme({"a": 256, "b": 128})[0] == Scheme(128)
    assert largest_scheme({"a": 256, "b": 192})[0] == Scheme(64)
    assert largest_scheme({"a": 256, "b": 192, "c": 96})[0] == Scheme(32)


def test_the_reason_names_a_layer_that_the_next_larger_size_does_not_divide():
    assert largest_scheme({"a": 128})[1] == "group size 128 is the largest and divides every layer"
    reason = largest_scheme({"a": 256, "b": 192, "c": 96})[1]
    assert reason == "64 does not divide the 96 inputs of 'c'; 32 divides all"


def test_a_layer_that_no_size_divides_is_named_and_may_be_skipped():
    with pytest.raises(ShapeError, match=r"'b' has 100 .* size 32\. Leave it .* --skip 'b'"):
        largest_scheme({"a": 96, "b": 100})
