"""What a load test takes, and when and with which prompts it sends."""

import statistics
from itertools import islice, pairwise

import pytest

from salient.core.errors import RequestError
from salient.evals.load.arrivals import arrivals
from salient.evals.load.plans import LoadPlan, Step, Target, base_url, check_plan, find_endpoint
from salient.evals.load.prompts import numbered, windows

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
def test_an_address_is_taken_with_and_without_its_api(url, base):
    assert base_url(Target(url, "m")) == base


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000", "no http or https address"),
        ("file:///etc/passwd", "no http or https address"),
        ("ftp://a.example", "no http or https address"),
        ("http://", "no http or https address"),
        ("", "no http or https address"),
        ("http://a:notaport", "is no address"),
        ("http://a:99999", "is no address"),
        ("http://[::1", "is no address"),
        ("http://user:secret@a.example", "api_key"),
        ("http://a.example/?key=1", "a query"),
        ("http://a.example/#x", "a fragment"),
        ("http://a.example/x y", "characters that no address has"),
        ("http://ä.example", "characters that no address has"),
    ],
)
def test_what_is_no_address_is_refused_with_one_that_fits(url, words):
    with pytest.raises(RequestError, match=words) as caught:
        base_url(Target(url, "m"))
    assert "http://localhost:8000" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"url": "http://no-such-machine.invalid"}, "No machine is called"),
        ({"url": f"http://{'a' * 64}.example"}, "No machine is called"),
        ({"api_key": "k\r\nX-Evil: 1"}, "The API key"),
        ({"api": "embeddings"}, "'completions' or 'chat', not 'embeddings'"),
        ({"timeout": 0}, "timeout=0 seconds"),
        ({"timeout": float("nan")}, "timeout=nan seconds"),
        ({"model": ""}, "No model is named"),
    ],
)
def test_a_target_that_cannot_be_asked_says_why(given, words):
    with pytest.raises(RequestError, match=words):
        find_endpoint(Target(**{"url": "http://127.0.0.1:1", "model": "m", **given}))


def test_an_endpoint_has_path_port_and_host_header():
    found = find_endpoint(Target("http://127.0.0.1/llm", "m", api="chat"))
    assert (found.path, found.port) == ("/llm/v1/chat/completions", 80)
    assert found.authority == "127.0.0.1:80"
    assert found.addresses == ("127.0.0.1",)
    assert find_endpoint(Target("http://[::1]:8000", "m")).authority == "[::1]:8000"


def test_a_key_is_not_in_a_targets_words():
    assert "hush" not in repr(Target("http://a", "m", api_key="hush"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": ()}, "no step"),
        ({"requests": None}, "never end"),
        ({"requests": 0}, "requests=0"),
        ({"seconds": -1.0}, "seconds=-1.0"),
        ({"warmups": -1}, "warmups=-1"),
        ({"prompt_tokens": 0}, "prompt_tokens=0"),
        ({"output_tokens": 10**9}, "output_tokens=1000000000"),
        ({"steps": (Step(0),)}, "concurrency=0"),
        ({"steps": (Step(1), Step(5000))}, "concurrency=5000"),
        ({"steps": (Step(rate=0),)}, "rate=0"),
        ({"steps": (Step(rate=float("inf")),)}, "rate=inf"),
        ({"steps": (Step(rate=1, arrivals="bursts"),)}, "'poisson' or 'constant', not 'bursts'"),
    ],
)
def test_a_plan_that_does_not_fit_names_the_number(given, words):
    with pytest.raises(RequestError, match=words):
        check_plan(LoadPlan(**given))


def test_a_poisson_process_has_exponential_gaps_of_the_right_mean():
    gaps = [b - a for a, b in pairwise(islice(arrivals(Step(rate=8), 3), 20_001))]
    assert statistics.mean(gaps) == pytest.approx(1 / 8, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 8, rel=0.03)  # exponential: as the mean
    assert statistics.median(gaps) == pytest.approx(0.693147 / 8, rel=0.03)  # ln 2 of it


def test_arrivals_follow_their_seed():
    first, again, other = (list(islice(arrivals(Step(rate=8), n), 9)) for n in (1, 1, 2))
    assert first == again != other


def test_even_arrivals_are_even_and_without_a_rate_all_are_due_at_once():
    even = list(islice(arrivals(Step(rate=4, arrivals="constant"), 0), 5))
    assert even == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert set(islice(arrivals(Step(4), 0), 5)) == {0.0}


@pytest.mark.parametrize("tokens", [1, 2, 9, 50])
def test_without_a_tokenizer_a_prompt_has_as_many_words_as_tokens(tokens):
    for window in windows(TEXT, tokens, 0):
        assert len(numbered(window, 7).split()) == tokens


@pytest.mark.parametrize("tokens", [16, 40, 300])
def test_with_a_tokenizer_a_prompt_is_as_long_as_words_allow(tokens):
    # a letter a token: the longest word has 5, and a space before it
    for window in windows(TEXT, tokens, 0, len):
        assert tokens - 6 < len(numbered(window, 123)) <= tokens


def test_prompts_begin_differently_and_follow_their_seed():
    pieces = windows("", 32, 5)
    assert pieces == windows("", 32, 5) != windows("", 32, 6)
    assert len({numbered(pieces[0], n).split()[0] for n in range(50)}) == 50
    assert len({numbered(pieces[0], 1_000_003 + n)[0] for n in range(10)}) == 10


def test_a_text_without_words_is_refused():
    with pytest.raises(RequestError, match="has no words"):
        windows("  \n", 8, 0)
