"""Packing: fixed shares of the kinds at any size, no document twice, held-out samples apart."""

import re
from collections import Counter

import pytest
import torch

from helpers.toy_models import byte_tokenizer
from salient.core.corpus import Document
from salient.core.errors import CalibrationError
from salient.models.token_packing import (
    TokenBatch,
    heldout_samples,
    merge_batches,
    pack_kinds,
    pack_tokens,
)

SHARES = {"prose": 0.5, "code": 0.3, "maths": 0.2}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def numbered(number: int, count: int, kind: str = "text") -> Document:
    """A text of `count` tokens that has its number in each of its words."""
    return Document((f"<{number}> abcdef " * count)[: count - 1], kind=kind)


def mixture(count: int, size: int = 80) -> list[Document]:
    """`count` documents of each kind, with numbers of their own."""
    kinds = list(SHARES)
    return [numbered(n, size + n % 7, kinds[n % len(kinds)]) for n in range(len(kinds) * count)]


def numbers_in(tokenizer, ids) -> Counter[str]:
    return Counter(re.findall(r"<(\d+)>", tokenizer.decode(ids.flatten())))


@pytest.mark.parametrize("samples", [4, 16, 64])
def test_any_number_of_samples_has_the_shares_of_the_kinds(samples, tokenizer):
    batch = pack_kinds(mixture(200), tokenizer, samples, 128, "texts", shares=SHARES)
    total = samples * 128
    assert sum(batch.kinds.values()) == total
    for kind, share in SHARES.items():
        assert abs(batch.kinds[kind] / total - share) < 0.02 + 80 / total


def test_no_document_is_used_again_while_another_of_its_kind_is_unused(tokenizer):
    documents = mixture(12, size=140)
    batch = pack_kinds(documents, tokenizer, 24, 128, "texts", shares=SHARES)
    parts = Counter(
        number
        for text in tokenizer.decode(batch.ids.flatten()).split("</s>")
        for number in set(re.findall(r"<(\d+)>", text))
    )
    assert len(parts) > len(documents) / 2
    assert parts.most_common(1)[0][1] == 1


def test_the_rests_of_long_documents_follow_when_all_are_used(tokenizer):
    documents = mixture(2, size=700)
    batch = pack_kinds(documents, tokenizer, 16, 128, "texts", shares=SHARES)
    assert batch.ids.shape == (16, 128)
    with pytest.raises(CalibrationError, match=r"texts has \d+ tokens, but 99 samples of 128 need"):
        pack_kinds(documents, tokenizer, 99, 128, "texts", shares=SHARES)


def test_a_kind_that_runs_out_leaves_no_gap(tokenizer):
    documents = [numbered(0, 64, "rare"), *(numbered(n, 64, "prose") for n in range(1, 9))]
    batch = pack_kinds(documents, tokenizer, 6, 64, "a", shares={"rare": 0.9, "prose": 0.1})
    assert batch.kinds == {"rare": 64, "prose": 320}


@pytest.mark.parametrize("samples", [4, 16, 64])
def test_the_heldout_samples_have_all_kinds_and_no_document_of_the_others(samples, tokenizer):
    documents = mixture(100)
    batch = pack_kinds(documents, tokenizer, samples, 256, "texts", shares=SHARES)
    calibration, heldout = (numbers_in(tokenizer, ids) for ids in batch.split())
    kinds = {documents[int(number)].kind for number in heldout if int(number) < len(documents)}
    assert kinds == set(SHARES)
    assert not {n for n, count in heldout.items() if count > 2} & set(calibration)


@pytest.mark.parametrize(
    ("samples", "count"), [(1, 0), (2, 1), (16, 1), (31, 1), (32, 2), (64, 4), (128, 4)]
)
def test_one_sample_in_sixteen_at_least_one_and_at_most_four_is_heldout(samples, count):
    assert heldout_samples(samples) == count
    batch = TokenBatch(torch.arange(samples * 2).reshape(samples, 2), 1, 0, heldout=count)
    calibration, heldout = batch.split()
    assert torch.equal(calibration, batch.ids[: samples - count])
    assert torch.equal(heldout, batch.ids[samples - count :] if count else batch.ids)


def test_the_heldout_samples_of_a_file_are_of_its_last_documents(tokenizer):
    documents = [numbered(n, 100) for n in range(40)]
    batch = pack_tokens(documents, tokenizer, 16, 128, "texts", hold_out=True)
    calibration, heldout = (numbers_in(tokenizer, ids) for ids in batch.split())
    assert heldout.keys() == {"38", "39"}
    assert not heldout.keys() & calibration.keys()


def test_a_text_of_just_enough_tokens_is_used_whole(tokenizer):
    document = numbered(0, 512)
    batch = pack_tokens([document], tokenizer, 8, 64, "texts", hold_out=True)
    assert tokenizer.decode(batch.ids.flatten()) == document.text + "</s>"
    assert (batch.dropped_tokens, batch.heldout) == (0, 1)


def test_too_little_text_gives_fewer_samples_where_that_is_allowed(tokenizer):
    batch = pack_tokens([numbered(0, 300)], tokenizer, 16, 64, "texts", fewer=True)
    assert batch.ids.shape == (4, 64)
    with pytest.raises(CalibrationError, match="texts has 30 tokens, but 1 samples of 64 need 64"):
        pack_tokens([numbered(0, 30)], tokenizer, 16, 64, "texts", fewer=True)


def test_merged_batches_alternate_and_their_heldout_samples_are_last():
    def batch(first: int, count: int, heldout: int) -> TokenBatch:
        ids = torch.arange(first, first + count)[:, None]
        return TokenBatch(ids, 2, 3, {"text": count}, (f"from {first}",), heldout)

    merged = merge_batches([batch(0, 5, 1), batch(10, 4, 2)])
    assert merged.ids.flatten().tolist() == [0, 10, 1, 2, 11, 3, 4, 12, 13]
    assert (merged.documents, merged.dropped_tokens, merged.heldout) == (4, 6, 3)
    assert merged.kinds == {"text": 9}
    assert merged.notes == ("from 0", "from 10")
