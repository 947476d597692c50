"""Stop strings: found wherever the text is cut, never let out, and no text withheld for nothing."""

import random

import pytest

from helpers.tokenizers import TOKENIZERS
from salient.runtime.detokenizer import StopStrings, TextStream


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def tokens(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def streamed(tokenizer, text: str, *stop: str) -> tuple[str, str | None]:
    """(text let out, what stopped it) of an answer, after a prompt."""
    stream = TextStream(tokenizer, prompt_ids=tokens(tokenizer, "The"), stop=stop)
    out = "".join([*map(stream.push, tokens(tokenizer, text)), stream.finish()])
    assert out == stream.text
    return out.lstrip(), stream.stopped_by


def read_letter_by_letter(text: str, stop: list[str]) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        ended = [s for s in stop if text[:end].endswith(s)]
        if ended:
            longest = max(ended, key=len)
            return text[: end - len(longest)], longest
    return text, None


def cut(text: str, chance: random.Random) -> list[str]:
    """`text` in pieces of 0 to 4 letters."""
    actual = []
    while text:
        size = chance.randint(0, 4)
        actual.append(text[:size])
        text = text[size:]
    return actual


def test_however_the_text_is_cut_it_stops_as_if_read_letter_by_letter():
    for seed in range(300):
        chance = random.Random(seed)
        text = "".join(chance.choices("aab", k=chance.randint(0, 30)))
        stop = ["".join(chance.choices("aab", k=chance.randint(1, 6))) for _ in range(seed % 4)]
        stops, out, fed = StopStrings(stop), "", ""
        for piece in cut(text, chance):
            out, fed = out + stops.push(piece), fed + piece
            if stops.match is None:
                tail = fed.removeprefix(out)
                assert fed.startswith(out), seed
                assert not tail or any(s.startswith(tail) and s != tail for s in stop), seed
        assert (out + stops.finish(), stops.match) == read_letter_by_letter(text, stop), seed


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("The cat sat", ("at s",), ("The c", "at s")),
        ("The cat sat", ("sat",), ("The cat ", "sat")),
        ("The cat sat", ("The",), ("", "The")),
        ("The cat sat", ("satt", "dog"), ("The cat sat", None)),
        ("The cat sat", (), ("The cat sat", None)),
        ("aaab", ("aab",), ("a", "aab")),
        ("a\n\n\nb", ("\n\nb",), ("a\n", "\n\nb")),
        ("xabcdx", ("abcde", "bc"), ("xa", "bc")),
        ("xabcdx", ("d", "bcd"), ("xa", "bcd")),
        ("你好😀公园", ("😀公",), ("你好", "😀公")),
        ("e\u0301a", ("\u0301",), ("e", "\u0301")),
        ("User: x\nUser: y", ("\nUser:", "END"), ("User: x", "\nUser:")),
    ],
)
def test_an_answer_ends_before_its_first_stop_string(tokenizer, text, stop, expected):
    assert streamed(tokenizer, text, *stop) == expected


def test_text_that_could_begin_a_stop_string_waits_and_then_comes(tokenizer):
    stream = TextStream(tokenizer, stop=["###END"])
    actual = [stream.push(token) for token in tokens(tokenizer, "a###")]
    assert "".join(actual) == "a"
    actual = [stream.push(token) for token in tokens(tokenizer, "!")]
    assert "".join(actual).replace(" ", "") == "###!"


def test_what_waits_at_the_end_comes_then(tokenizer):
    stream = TextStream(tokenizer, stop=["###END"])
    assert "".join(map(stream.push, tokens(tokenizer, "a##"))) == "a"
    assert (stream.finish(), stream.finish()) == ("##", "")
    assert stream.text == "a##"
    assert stream.stopped_by is None


def test_after_a_stop_string_nothing_comes(tokenizer):
    stream = TextStream(tokenizer, stop=["cat"])
    ids = tokens(tokenizer, "The cat sat on the mat, and the cat 😀")
    assert "".join(map(stream.push, ids)) == "The "
    assert stream.finish() == ""
    assert (stream.text, stream.stopped_by) == ("The ", "cat")


def test_a_stop_string_before_a_broken_character_at_the_end_still_stops(tokenizer):
    ids = tokens(tokenizer, "The cat\U0001fae8")[:-1]
    stream = TextStream(tokenizer, stop=["cat"])
    assert "".join([*map(stream.push, ids), stream.finish()]) == "The "
    assert stream.stopped_by == "cat"
