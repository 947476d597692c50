"""The options of a load test, its arrival times and its prompts."""

import statistics
from itertools import islice, pairwise

import pytest

from salient.core.errors import RequestError
from salient.loadtest.client import LoadClient
from salient.loadtest.plan import (
    LoadPlan,
    LoadStep,
    LoadTarget,
    base_url,
    check_plan,
    cut_excerpts,
    numbered,
)

TEXT = "the quick brown fox jumps over the lazy dog"


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/v1", "http://localhost:8000"),
        (" https://a.example/llm/v1/ ", "https://a.example/llm"),
        ("http://[::1]:80/v1/chat/completions", "http://[::1]:80"),
        ("http://a.example/v1beta", "http://a.example/v1beta"),
    ],
)
def test_an_address_may_have_the_path_of_its_api(url, base):
    assert base_url(LoadTarget(url, "m")) == base


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000", "not an http or https address"),
        ("file:///etc/passwd", "not an http or https address"),
        ("ftp://a.example", "not an http or https address"),
        ("http://", "not an http or https address"),
        ("", "not an http or https address"),
        ("http://a:notaport", "is not an address"),
        ("http://a:99999", "is not an address"),
        ("http://[::1", "is not an address"),
        ("http://user:secret@a.example", "api_key"),
        ("http://a.example/?key=1", "a query"),
        ("http://a.example/#x", "a fragment"),
        ("http://a.example/x y", "not an http or https address"),
        ("http://ä.example", "not an http or https address"),
    ],
)
def test_an_invalid_address_is_refused_with_a_valid_example(url, message):
    with pytest.raises(RequestError, match=message) as caught:
        base_url(LoadTarget(url, "m"))
    assert "http://localhost:8000" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://no-such-machine.invalid"}, "is unknown"),
        ({"url": f"http://{'a' * 64}.example"}, "is unknown"),
        ({"api_key": "k\r\nX-Evil: 1"}, "The API key"),
        ({"timeout": 0}, "timeout=0 seconds"),
        ({"timeout": float("nan")}, "timeout=nan seconds"),
    ],
)
def test_an_invalid_target_names_its_fault(options, message):
    with pytest.raises(RequestError, match=message):
        LoadClient(LoadTarget(**{"url": "http://127.0.0.1:1", "model": "m", **options}), LoadPlan())


@pytest.mark.parametrize(
    ("url", "api", "requested"),
    [
        ("http://127.0.0.1:1/llm", "chat", "http://127.0.0.1:1/llm/v1/chat/completions"),
        ("http://[::1]:8000/v1", "completions", "http://[::1]:8000/v1/completions"),
        ("https://127.0.0.1", "completions", "https://127.0.0.1/v1/completions"),
    ],
)
def test_requests_go_to_the_path_of_the_api(url, api, requested):
    assert LoadClient(LoadTarget(url, "m", api), LoadPlan()).url == requested


def test_a_key_is_not_in_the_repr_of_a_target():
    assert "hush" not in repr(LoadTarget("http://a", "m", api_key="hush"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": ()}, "no step"),
        ({"requests": None}, "never end"),
        ({"requests": 0}, "requests=0"),
        ({"seconds": -1.0}, "seconds=-1.0"),
        ({"warmups": -1}, "warmups=-1"),
        ({"prompt_tokens": 0}, "prompt_tokens=0"),
        ({"output_tokens": 10**9}, "output_tokens=1000000000"),
        ({"steps": (LoadStep(0),)}, "concurrency=0"),
        ({"steps": (LoadStep(1), LoadStep(5000))}, "concurrency=5000"),
        ({"steps": (LoadStep(rate=0),)}, "rate=0"),
        ({"steps": (LoadStep(rate=float("inf")),)}, "rate=inf"),
    ],
)
def test_an_invalid_plan_names_the_number(options, message):
    with pytest.raises(RequestError, match=message):
        check_plan(LoadPlan(**options))


def test_a_poisson_process_has_exponential_gaps_of_the_right_mean():
    gaps = [b - a for a, b in pairwise(islice(LoadStep(rate=8).arrivals(3), 20_001))]
    assert statistics.mean(gaps) == pytest.approx(1 / 8, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 8, rel=0.03)  # exponential: as the mean
    assert statistics.median(gaps) == pytest.approx(0.693147 / 8, rel=0.03)  # ln 2 of it


def test_arrivals_follow_their_seed():
    first, same, other = (list(islice(LoadStep(rate=8).arrivals(n), 9)) for n in (1, 1, 2))
    assert first == same != other


def test_without_a_rate_all_requests_are_due_at_once():
    assert set(islice(LoadStep(4).arrivals(0), 5)) == {0.0}


@pytest.mark.parametrize("tokens", [1, 2, 9, 50])
def test_without_a_tokenizer_a_token_is_counted_as_one_word(tokens):
    for excerpt in cut_excerpts(TEXT, tokens, 0):
        assert len(numbered(excerpt, 7).split()) == tokens


@pytest.mark.parametrize("tokens", [16, 40, 300])
def test_with_a_tokenizer_a_prompt_ends_at_a_whole_word(tokens):
    # a letter a token: the longest word has 5, and a space before it
    for excerpt in cut_excerpts(TEXT, tokens, 0, len):
        assert tokens - 6 < len(numbered(excerpt, 123)) <= tokens


def test_prompts_begin_differently_and_follow_their_seed():
    excerpts = cut_excerpts("", 32, 5)
    assert excerpts == cut_excerpts("", 32, 5) != cut_excerpts("", 32, 6)
    assert len({numbered(excerpts[0], n).split()[0] for n in range(50)}) == 50
    assert len({numbered(excerpts[0], 1_000_003 + n)[0] for n in range(10)}) == 10


def test_a_text_of_spaces_is_refused():
    with pytest.raises(RequestError, match="has no words"):
        cut_excerpts("  \n", 8, 0)
