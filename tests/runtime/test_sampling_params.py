"""Sampling values: what is said of one that does not fit."""

import math
import re

import pytest

from salient.core.errors import RequestError
from salient.runtime.sampler import Sampler
from salient.runtime.sampling_params import SamplingParams

WRONG = [
    ("max_new_tokens", (0, -1, 1.5, True, "9", None), "an integer of at least 1"),
    (
        "temperature",
        (-0.1, math.nan, math.inf, 101, True, "1", None, 10**400),
        "from 0 (greedy) to 100",
    ),
    ("top_p", (0, -0.5, 1.01, math.nan, "1", True), "above 0 and up to 1"),
    ("top_k", (-1, 2.0, math.nan, "5", False), "at least 1, or 0 for no limit"),
    ("min_p", (-0.1, 1.1, math.nan, "0", True), "from 0 (all tokens) to 1"),
    ("repetition_penalty", (0, -1, math.inf, math.nan, 1e-9, "1", True), "0.01 to 100: 1 is off"),
    ("presence_penalty", (-2.1, 2.1, math.nan, "0", True), "a number from -2 to 2; 0 is off"),
    ("frequency_penalty", (-2.1, 2.1, math.inf, "0", True), "a number from -2 to 2; 0 is off"),
    ("seed", (1.0, "1", True, 2**63, -(2**63) - 1), "a 64-bit integer, or None"),
    ("ignore_eos", (1, "yes", None), "True or False"),
    ("logprobs", (-1, 21, 1.0, True, "3"), "to 20, or None for none"),
]


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [(name, value, advice) for name, values, advice in WRONG for value in values],
)
def test_an_invalid_value_is_an_error_with_valid_values(name, value, advice):
    sampling = SamplingParams(**{name: value})
    message = re.escape(f"{name}={value!r} cannot be used. Give ") + ".*" + re.escape(advice)
    with pytest.raises(RequestError, match=message):
        sampling.check()
    with pytest.raises(RequestError, match=message):
        Sampler(sampling)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop": "END"}, r"stop='END' is not a list of strings\. Give a list, even of one"),
        ({"stop": None}, r"stop=None is not a list of strings"),
        ({"stop": ("a", "")}, r"stop contains ''\. Each stop string needs at least one character"),
        ({"stop": (1,)}, r"stop contains 1\. Each stop string"),
        ({"stop": ("a",) * 17}, r"17 stop strings are too many\. Give up to 16"),
        (
            {"stop_tokens": 2},
            r"stop_tokens=2 is not a list of token ids\. Give a list, even of one",
        ),
        ({"stop_tokens": (1, -1)}, r"stop_tokens contains -1\. Give token ids: integers from 0"),
        ({"stop_tokens": (True,)}, r"stop_tokens contains True\. Give token ids"),
        ({"stop_tokens": ("2",)}, r"stop_tokens contains '2'\. Give token ids"),
    ],
)
def test_invalid_stops_are_an_error_with_valid_values(fields, message):
    with pytest.raises(RequestError, match=message):
        SamplingParams(**fields).check()


def test_the_ends_of_every_range_are_valid():
    low = {"temperature": 0, "top_p": 1e-9, "min_p": 0, "repetition_penalty": 0.01, "logprobs": 0}
    SamplingParams(**low, presence_penalty=-2, frequency_penalty=-2, seed=-(2**63)).check()
    high = {"temperature": 100, "top_p": 1, "min_p": 1, "repetition_penalty": 100, "logprobs": 20}
    SamplingParams(
        **high, presence_penalty=2, frequency_penalty=2, seed=2**63 - 1, top_k=10**9
    ).check()
    SamplingParams(stop=("a",) * 16, stop_tokens=(0,), max_new_tokens=1, ignore_eos=True).check()
