"""Texts -> tokens: every token is used or counted as dropped, and too little text is said so."""

import re
from collections import Counter

import pytest
import torch

from helpers.toy_models import byte_tokenizer
from salient.awq.heldout import split_heldout
from salient.core.corpus import Document
from salient.core.errors import CalibrationError
from salient.models.tokens import (
    FEWEST_TOKENS,
    TokenBatch,
    check_vocabulary,
    pack_tokens,
    token_ids,
)

CHAT = Document(
    messages=({"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}),
    kind="chat",
)
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def letters(count: int, kind: str = "text") -> Document:
    """A text of `count` tokens: the byte tokenizer gives one a letter, and one more ends it."""
    return Document(("abcdefghij" * count)[: count - 1], kind=kind)


def test_documents_are_joined_with_the_end_of_text_between_them(tokenizer):
    batch = pack_tokens([Document("a" * 40), Document("b" * 40)], tokenizer, 1, 64, "texts")
    text = tokenizer.decode(batch.ids[0])
    assert text == "a" * 40 + "</s>" + "b" * 23


def test_a_tokenizer_without_an_end_of_text_joins_them_bare():
    bare = byte_tokenizer()
    bare.eos_token = None
    batch = pack_tokens([Document("a" * 40), Document("b" * 40)], bare, 1, 64, "texts")
    assert bare.decode(batch.ids[0]) == "a" * 40 + "b" * 24


def test_short_documents_are_packed_and_long_ones_cut(tokenizer):
    documents = [letters(10) for _ in range(20)] + [letters(200)]
    batch = pack_tokens(documents, tokenizer, 3, 100, "texts")
    assert batch.ids.shape == (3, 100)
    assert batch.ids.dtype == torch.int64
    assert batch.documents == 21
    assert batch.dropped_tokens == 100


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_every_token_is_used_or_counted_as_dropped(samples, tokenizer):
    documents = [letters(n, kind) for n in (33, 70, 128, 251) for kind in ("prose", "code")]
    total = sum(len(tokenizer(d.text).input_ids) + 1 for d in documents)
    batch = pack_tokens(documents, tokenizer, samples, 128, "texts")
    assert sum(batch.kinds.values()) == samples * 128
    assert batch.dropped_tokens == total - samples * 128


def test_tokens_are_counted_by_the_kind_of_their_text(tokenizer):
    documents = [letters(50, "prose"), letters(30, "code"), letters(40, "prose")]
    batch = pack_tokens(documents, tokenizer, 1, 100, "texts")
    assert batch.kinds == {"prose": 70, "code": 30}


def test_text_that_just_suffices_drops_nothing(tokenizer):
    batch = pack_tokens([letters(128)], tokenizer, 2, 64, "texts")
    assert batch.dropped_tokens == 0


def test_more_text_after_enough_changes_no_token(tokenizer):
    documents = [letters(100), letters(200)]
    one = pack_tokens(documents, tokenizer, 2, 64, "texts")
    other = pack_tokens([*documents, letters(500)], tokenizer, 2, 64, "texts")
    assert torch.equal(one.ids, other.ids)
    assert one.digest == other.digest


@pytest.mark.parametrize(
    ("samples", "length"), [(0, 512), (-1, 512), (1, FEWEST_TOKENS - 1), (1, 0)]
)
def test_too_few_samples_or_tokens_say_the_fewest(samples, length, tokenizer):
    words = rf"--samples {samples} of --sequence-length {length}: use at least 1 of 64 tokens"
    with pytest.raises(CalibrationError, match=words):
        pack_tokens([letters(1000)], tokenizer, samples, length, "texts")


def test_too_little_text_says_how_many_samples_it_makes(tokenizer):
    words = (
        r"my\.txt has 300 tokens, but 3 samples of 128 need 384\. "
        r"Use --samples 2, or more text"
    )
    with pytest.raises(CalibrationError, match=words):
        pack_tokens([letters(300)], tokenizer, 3, 128, "my.txt")


def test_too_little_text_speaks_in_the_options_of_its_command(tokenizer):
    options = ("--windows", "--window-length")
    with pytest.raises(CalibrationError, match=r"Use --windows 2, or more text"):
        pack_tokens([letters(300)], tokenizer, 3, 128, "my.txt", options)
    with pytest.raises(CalibrationError, match=r"shorter --window-length .*, or more text"):
        pack_tokens([letters(300)], tokenizer, 1, 512, "my.txt", options)


@pytest.mark.parametrize(
    ("tokens", "samples", "length"),
    [(300, 3, 128), (300, 128, 128), (300, 1, 512), (300, 3, 512), (64, 128, 512), (100, 1, 101)],
)
def test_the_advice_on_too_little_text_works_when_it_is_followed(
    tokens, samples, length, tokenizer
):
    with pytest.raises(CalibrationError, match="or more text") as raised:
        pack_tokens([letters(tokens)], tokenizer, samples, length, "my.txt")
    words = str(raised.value)
    if fewer := re.search(r"--samples (\d+)", words):
        samples = int(fewer[1])
    if shorter := re.search(r"--sequence-length \D*(\d+)", words):
        length = int(shorter[1])
    pack_tokens([letters(tokens)], tokenizer, samples, length, "my.txt")


def test_text_shorter_than_the_shortest_sample_is_not_told_to_shorten_it(tokenizer):
    with pytest.raises(CalibrationError, match="more text") as raised:
        pack_tokens([letters(40)], tokenizer, 1, 512, "my.txt")
    assert "--sequence-length" not in str(raised.value)


def test_no_documents_are_too_little_text(tokenizer):
    with pytest.raises(CalibrationError, match=r"my\.txt has 0 tokens, .* more text"):
        pack_tokens([], tokenizer, 1, 64, "my.txt")


# Conversations


def test_a_conversation_goes_through_the_chat_template():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    assert tokenizer.decode(token_ids(CHAT, tokenizer)) == "<user>Why?<assistant>So."


def test_without_a_chat_template_a_conversation_is_plain_text(tokenizer):
    assert tokenizer.decode(token_ids(CHAT, tokenizer)) == "User: Why?\n\nAssistant: So."


def test_a_text_is_never_put_through_the_chat_template():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    assert tokenizer.decode(token_ids(Document("Why?"), tokenizer)) == "Why?"


# Batches


def test_a_digest_is_of_the_ids_and_their_shape():
    ids = torch.arange(128)
    one = TokenBatch(ids.reshape(1, 128), documents=1, dropped_tokens=0)
    assert one.digest == TokenBatch(ids.reshape(1, 128), documents=9, dropped_tokens=9).digest
    assert one.digest != TokenBatch(ids.reshape(2, 64), documents=1, dropped_tokens=0).digest
    assert one.digest != TokenBatch(ids.flip(0).reshape(1, 128), 1, 0).digest


@pytest.mark.parametrize(("largest", "vocabulary"), [(320, 320), (400, 320)])
def test_a_token_without_a_row_in_the_embedding_blames_the_tokenizer(largest, vocabulary):
    batch = TokenBatch(torch.tensor([[1, largest]]), 1, 0)
    words = (
        rf"turned my\.txt into token ids up to {largest}, but the model's vocabulary has "
        rf"{vocabulary}\. .* belong to another model: fetch the folder again"
    )
    with pytest.raises(CalibrationError, match=words):
        check_vocabulary(batch, vocabulary, "my.txt")


def test_the_last_row_of_the_embedding_may_be_used():
    check_vocabulary(TokenBatch(torch.tensor([[0, 319]]), 1, 0), 320, "my.txt")


@pytest.mark.parametrize(
    ("samples", "held"), [(2, 1), (16, 1), (31, 1), (32, 2), (64, 4), (128, 4)]
)
def test_one_sample_in_sixteen_at_least_one_and_at_most_four_are_held_out(samples, held):
    ids = torch.arange(samples * 2).reshape(samples, 2)
    calibration, heldout = split_heldout(ids)
    assert len(heldout) == held
    assert torch.equal(torch.cat([calibration, heldout]), ids)
    counted = Counter(calibration.flatten().tolist() + heldout.flatten().tolist())
    assert set(counted.values()) == {1}


def test_a_single_sample_serves_as_both():
    ids = torch.arange(64).reshape(1, 64)
    calibration, heldout = split_heldout(ids)
    assert torch.equal(calibration, ids)
    assert torch.equal(heldout, ids)
