"""The calibration of a run: the built-in corpus in fixed shares, through the chat template."""

import pytest
import torch

from helpers.chat_templates import CHATML, SMOLVLM, with_template
from helpers.toy_models import byte_tokenizer
from salient.core.corpus import BUILTIN, Document, builtin
from salient.core.errors import CalibrationError
from salient.models.calibration_texts import SHARES, as_conversation, calibration_tokens
from salient.models.token_packing import pack_tokens


@pytest.fixture(scope="module")
def plain():
    return byte_tokenizer()


@pytest.fixture(scope="module", params=[CHATML, SMOLVLM])
def chatty(request):
    return with_template(request.param)


def test_the_shares_are_of_all_kinds_and_one_in_all():
    assert set(SHARES) == {document.kind for document in builtin("calibration")}
    assert sum(SHARES.values()) == pytest.approx(1)


@pytest.fixture(scope="module")
def raw(plain):
    """The calibration of a model without a chat template."""
    return calibration_tokens(BUILTIN, plain, 64, 512)


@pytest.mark.parametrize(("samples", "length"), [(16, 512), (128, 512), (256, 512)])
def test_any_number_of_samples_has_the_same_mixture(samples, length, plain):
    batch = calibration_tokens(BUILTIN, plain, samples, length)
    for kind, share in SHARES.items():
        assert batch.kinds[kind] / batch.ids.numel() == pytest.approx(share, abs=0.08)


def test_the_same_options_give_the_same_tokens(plain, raw):
    assert torch.equal(calibration_tokens(BUILTIN, plain, 64, 512).ids, raw.ids)


def test_even_few_samples_have_every_large_kind(plain):
    assert set(SHARES) == calibration_tokens(BUILTIN, plain, 8, 256).kinds.keys()


def test_texts_for_a_chat_model_go_through_its_template(chatty, plain, raw):
    batch = calibration_tokens(BUILTIN, chatty, 64, 512)
    assert batch.notes == ()
    text = chatty.decode(batch.ids.flatten())
    mark = "assistant"
    assert text.count(mark) > plain.decode(raw.ids.flatten()).count(mark) + 20


def test_a_model_without_a_template_gets_the_texts_as_they_are(plain, raw):
    text = plain.decode(raw.ids.flatten())
    assert "<|im_start|>" not in text
    assert "User: " in text


def test_a_text_as_a_conversation_loses_no_word():
    for document in [d for d in builtin("calibration") if d.text]:
        turns = as_conversation(document).messages
        assert [turn["role"] for turn in turns] == ["user", "assistant"]
        assert " ".join(turn["content"] for turn in turns).split() == document.text.split()


def test_a_text_too_short_to_cut_stays_a_text():
    assert as_conversation(Document("a")) == Document("a")


def test_a_file_keeps_its_order_and_form(tmp_path, chatty):
    (tmp_path / "a.txt").write_text("The cat sat on the mat, and the dog ran after it.\n\n" * 9)
    batch = calibration_tokens(str(tmp_path / "a.txt"), chatty, 2, 64)
    assert chatty.decode(batch.ids.flatten()).startswith("The cat sat on the mat")


@pytest.mark.parametrize("template", ["{{ messages[0].content }}", "{{ raise_exception('no') }}"])
def test_the_built_in_texts_serve_as_plain_text_where_a_template_cannot_write_them(
    template, monkeypatch
):
    few = builtin("calibration")[:60]
    monkeypatch.setattr("salient.models.calibration_texts.builtin", lambda _: few)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    batch = calibration_tokens("builtin", tokenizer, 4, 64)
    assert batch.ids.shape == (4, 64)


SENTENCE = "The quick brown fox jumps over the lazy dog and runs away into the forest at night. "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a" * 9000, "1 of 1 documents have no token of their own"),
        ("\0" * 9000, "1 of 1 documents have no token of their own"),
        ("".join(map(chr, range(256))) * 40, "control characters"),
        (SENTENCE + "a" * 9000, r"is one token in \d+ of 4096 places: it repeats itself"),
        ("abc " * 3000, "has only . different tokens in 4096: it repeats itself"),
    ],
)
def test_texts_that_mean_nothing_are_refused(text, message):
    with pytest.raises(CalibrationError, match=message):
        pack_tokens([Document(text)], byte_tokenizer(), 8, 512, "own.txt")


# The user's text, mixed with the built-in corpus


def own_text(folder, tokens: int) -> str:
    path = folder / "own.txt"
    lines = (f"{SENTENCE}{number}\n\n" for number in range(tokens // len(SENTENCE) + 1))
    path.write_text("".join(lines))
    return str(path)


@pytest.mark.parametrize(("mix", "share"), [(0.5, 0.5), (0.25, 0.25), (0.01, 1 / 16), (1.0, 1.0)])
def test_a_file_has_its_share_of_the_samples(mix, share, tmp_path, plain):
    batch = calibration_tokens(own_text(tmp_path, 3000), plain, 16, 64, mix=mix)
    assert batch.ids.shape == (16, 64)
    own = batch.kinds.get("own.txt", batch.kinds.get("text", 0))
    assert own / batch.ids.numel() == share
    assert batch.notes == ()


def test_calibration_and_heldout_samples_are_of_both_texts(tmp_path, plain):
    batch = calibration_tokens(own_text(tmp_path, 5000), plain, 32, 128, mix=0.5)
    for ids in batch.split():
        own = ["lazy dog" in plain.decode(row) for row in ids]
        assert sum(own) == len(own) / 2


def test_a_file_with_too_little_text_for_its_share_is_filled_up_with_a_note(tmp_path, plain):
    batch = calibration_tokens(own_text(tmp_path, 300), plain, 16, 64, mix=0.5)
    assert batch.ids.shape == (16, 64)
    (note,) = batch.notes
    assert note.startswith("own.txt fills 5 of 16 samples, 31% of the calibration instead of 50%")
    with pytest.raises(CalibrationError, match=r"own.txt has \d+ tokens, but 16 samples of 64"):
        calibration_tokens(own_text(tmp_path, 300), plain, 16, 64, mix=1)
