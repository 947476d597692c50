"""Laws of --require: units are read, and what does not fit is named."""

import pytest

from salient.core.errors import RequestError
from salient.plan.requirements import Requirements, parse_requirements


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Requirements()),
        ("ttft=1s,decode=30", Requirements(ttft=1.0, decode=30.0)),
        (" ttft = 250ms , memory=20GB ", Requirements(ttft=0.25, memory=20e9)),
        ("memory=1.5gib,tune", Requirements(memory=1.5 * 2**30, tune=True)),
        ("throughput=500tok/s,", Requirements(throughput=500.0)),
    ],
)
def test_requirements_are_read_with_their_units(text, expected):
    assert parse_requirements(text) == expected


@pytest.mark.parametrize(
    "text",
    ["speed=3", "ttft", "ttft=fast", "ttft=-1s", "ttft=0", "decode=30GB", "memory=1e400", "tune=no",
     "=", "ttft==1", "ttft=nan", "x" * 10_000],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_what_does(text):
    with pytest.raises(RequestError, match=r"--require .*") as refused:
        parse_requirements(text)
    assert len(str(refused.value)) < 400


def test_a_repeated_requirement_is_refused():
    with pytest.raises(RequestError, match="--require names 'ttft' twice"):
        parse_requirements("ttft=1s,ttft=2s")
