"""Text from tokens: wherever tokens are cut, the pieces are the text, and come as soon as sure."""

import os
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from helpers.tokenizers import TOKENIZERS, random_text, wrapped
from salient.runtime.detokenizer import MOST_PENDING, TextStream

BROKEN = "\N{REPLACEMENT CHARACTER}"
PROMPTS = ["", "Hello", "a ", " ", "你", "The cat\n", "😀😀", "e\u0301", " \u0301"]


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="module")
def byte_level():
    return TOKENIZERS["byte-level"]()


@pytest.fixture(scope="module")
def llama():
    return TOKENIZERS["llama"]()


def tokens(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def decoded(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def pieces(tokenizer, ids, prompt=(), stop=()) -> list[str]:
    """What each token gives, and what the end gives."""
    stream = TextStream(tokenizer, prompt_ids=prompt, stop=stop)
    actual = [*map(stream.push, ids), stream.finish()]
    assert stream.text == "".join(actual)
    return actual


def byte_ids(tokenizer, data: bytes) -> list[int]:
    """One token a byte, of a SentencePiece tokenizer."""
    return [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in data]


# The pieces are the text


def test_the_pieces_joined_are_the_decoding_of_all_the_tokens(tokenizer):
    for seed in range(40):
        ids = tokens(tokenizer, random_text(seed))
        assert "".join(pieces(tokenizer, ids)) == decoded(tokenizer, ids), seed


@pytest.mark.parametrize("text", PROMPTS)
def test_after_a_prompt_the_pieces_are_what_the_tokens_add_to_it(tokenizer, text):
    prompt = [tokenizer.bos_token_id, *tokens(tokenizer, text)]
    for seed in range(15):
        ids = tokens(tokenizer, random_text(seed))
        whole = decoded(tokenizer, prompt + ids)
        assert whole.startswith(decoded(tokenizer, prompt))
        expected = whole[len(decoded(tokenizer, prompt)) :]
        assert "".join(pieces(tokenizer, ids, prompt)) == expected


def test_the_first_word_after_a_prompt_keeps_its_space(llama):
    world = tokens(llama, "cat")
    assert llama.convert_ids_to_tokens(world)[0] == "▁cat"
    assert pieces(llama, world, prompt=tokens(llama, "The")) == [" cat", ""]
    assert pieces(llama, world, prompt=[llama.bos_token_id]) == ["cat", ""]


def test_a_prompt_that_ends_in_special_tokens_is_read_before_them(llama):
    prompt = [*tokens(llama, "The"), llama.eos_token_id, *[llama.bos_token_id] * 20]
    assert pieces(llama, tokens(llama, "cat"), prompt) == [" cat", ""]


def test_a_prompt_is_read_from_the_border_of_a_character(llama):
    # Bytes of characters for which there is no token; any cut of the prompt's end falls into them
    for seed in range(20):
        text = "é😀" * random.Random(seed).randint(1, 5) + "你" * (seed % 4)
        prompt = byte_ids(llama, text.encode())
        assert "".join(pieces(llama, byte_ids(llama, "你😀".encode()), prompt)) == "你😀", seed


def test_the_demo_tokenizer_decodes_in_pieces_too():
    cache = Path(os.environ.get("SALIENT_CACHE", Path.home() / ".cache" / "salient"))
    if not (cache / "smollm2-135m" / "tokenizer.json").exists():
        pytest.skip("the demo model is not here")
    tokenizer = AutoTokenizer.from_pretrained(cache / "smollm2-135m")
    for seed in range(30):
        actual = pieces(tokenizer, tokens(tokenizer, random_text(seed)))
        assert "".join(actual) == random_text(seed)
        assert not any(BROKEN in piece for piece in actual)


# Characters


def test_no_piece_has_a_part_of_a_character(tokenizer):
    for seed in range(40):
        actual = pieces(tokenizer, tokens(tokenizer, random_text(seed)))
        assert not any(BROKEN in piece for piece in actual), seed
        assert actual[-1] == "", seed


def test_a_character_comes_with_its_last_byte(llama):
    ids = byte_ids(llama, "é你😀!".encode())
    assert pieces(llama, ids) == ["", "é", "", "", "你", "", "", "", "😀", "!", ""]


@pytest.mark.parametrize("count", [1, 2])
def test_a_character_that_is_never_whole_comes_as_broken_at_the_end(tokenizer, count):
    hello, emoji = (tokens(tokenizer, text) for text in ("Hello", "a\U0001fae8"))
    cut = [*hello, *emoji[: len(emoji) - count]]
    assert decoded(tokenizer, cut).endswith(BROKEN)
    actual = pieces(tokenizer, cut)
    assert "".join(actual) == decoded(tokenizer, cut)
    assert actual[-1].strip(BROKEN) == ""


def test_the_end_comes_once(llama):
    stream = TextStream(llama)
    assert stream.push(byte_ids(llama, b"\xf0")[0]) == ""
    assert (stream.finish(), stream.finish()) == (BROKEN, "")
    assert stream.text == BROKEN


def test_a_prompt_may_end_inside_a_character(tokenizer):
    ids = tokens(tokenizer, "The a\U0001fae8 cat")
    cut = next(i for i in range(len(ids)) if decoded(tokenizer, ids[:i]).endswith(BROKEN))
    for at in (cut, cut + 1):
        assert "".join(pieces(tokenizer, ids[at:], ids[:at])) == "\U0001fae8 cat"


def test_pieces_continue_after_the_last_whole_character_of_a_prompt(tokenizer):
    for seed in range(40):
        ids = tokens(tokenizer, random_text(seed, count=30))
        whole = decoded(tokenizer, ids)
        for cut in random.Random(seed).choices(range(len(ids)), k=10):
            # a SentencePiece decoder gives up a run of bytes for the one missing at its end
            read = (decoded(tokenizer, ids[: max(cut - n, 0)]).rstrip(BROKEN) for n in range(4))
            known = max((text for text in read if whole.startswith(text)), key=len)
            assert "".join(pieces(tokenizer, ids[cut:], ids[:cut])) == whole[len(known) :], seed


def test_a_replacement_character_of_the_model_itself_comes_through(tokenizer):
    for text in (f"a{BROKEN}b", f"{BROKEN}{BROKEN} c", f"a{BROKEN}"):
        assert "".join(pieces(tokenizer, tokens(tokenizer, text))) == text
        prompt = tokens(tokenizer, text)
        assert "".join(pieces(tokenizer, tokens(tokenizer, "x"), prompt)).strip() == "x"


def test_any_tokens_of_a_byte_level_tokenizer_decode_as_all_at_once(byte_level):
    for seed in range(40):
        ids = random.Random(seed).choices(range(len(byte_level)), k=200)
        assert "".join(pieces(byte_level, ids)) == decoded(byte_level, ids), seed


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, MOST_PENDING - 1, MOST_PENDING, 100])
def test_bytes_that_never_make_a_character_come_as_broken_ones(tokenizer, count):
    lead = tokens(tokenizer, "\U0001fae8")[-2]
    ids = [*tokens(tokenizer, "The"), *[lead] * count, *tokens(tokenizer, "cat")]
    assert decoded(tokenizer, ids).count(BROKEN) == count
    assert "".join(pieces(tokenizer, ids)) == decoded(tokenizer, ids)


def test_invalid_bytes_do_not_change_the_text_around_them(llama):
    smile, bad, e = (byte_ids(llama, data) for data in ("😀".encode(), b"\xf0\x9f", "é".encode()))
    ids = [*smile, *bad, *tokens(llama, "cat"), *e]
    assert "".join(pieces(llama, ids)) == f"😀{BROKEN}{BROKEN} caté"


# Tokens without text


def test_special_tokens_have_no_text_even_inside_a_character(llama):
    smile = byte_ids(llama, "😀".encode())
    ids = [llama.eos_token_id, *smile[:2], llama.pad_token_id, *smile[2:], llama.bos_token_id]
    assert pieces(llama, ids) == ["", "", "", "", "", "😀", "", ""]


def test_ids_beyond_the_tokenizer_have_no_text(tokenizer):
    the, cat = tokens(tokenizer, "The"), tokens(tokenizer, " cat")
    actual = pieces(tokenizer, [*the, len(tokenizer) + 5, *cat])
    assert "".join(actual) == decoded(tokenizer, the + cat)


# Cost


class Watched:
    """A tokenizer, and the length of every list that it decoded."""

    def __init__(self, tokenizer):
        self.tokenizer, self.lengths = tokenizer, []

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def decode(self, ids, **options):
        self.lengths.append(len(ids))
        return self.tokenizer.decode(ids, **options)


@pytest.mark.parametrize("kind", ["text", "broken", "special", "spaces", "random", "unknown"])
def test_the_cost_of_a_token_does_not_grow(tokenizer, kind):
    lead = tokens(tokenizer, "\U0001fae8")[-2]
    ids = {
        "text": tokens(tokenizer, random_text(0, count=400)),
        "broken": [lead] * 600,
        "special": [tokenizer.eos_token_id] * 600,
        "spaces": tokens(tokenizer, " ")[:1] * 600,
        "random": random.Random(0).choices(range(len(tokenizer)), k=600),
        "unknown": [10**6] * 600,
    }[kind]
    watched = Watched(tokenizer)
    pieces(watched, ids, prompt=tokens(tokenizer, random_text(1, count=400)))
    assert len(watched.lengths) < 3 * len(ids) + 10
    assert max(watched.lengths) <= 2 * MOST_PENDING


def test_tokens_that_all_cut_characters_decode_as_all_at_once():
    # 你 is E4 BD A0; a token that ends one and begins the next never ends in a whole one
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    across = "½łä"
    vocabulary = {token: i for i, token in enumerate([*letters, across])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.decoder = decoders.ByteLevel()
    tokenizer = wrapped(backend)
    ids = [vocabulary["ä"], *[vocabulary[across]] * 200]
    actual = pieces(tokenizer, ids)
    assert "".join(actual) == "你" * 200 + BROKEN == decoded(tokenizer, ids)
    assert not any(BROKEN in piece for piece in actual[:-1])
    assert len("".join(actual[:-1])) > 200 - MOST_PENDING
