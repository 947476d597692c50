"""The model's own text: seeded, stored by batch, refused where it cannot be sampled."""

import json

import pytest
import torch

from helpers.chat_templates import CHATML
from helpers.toy_models import byte_tokenizer, toy_folder
from salient.core.errors import CalibrationError, ResourceError
from salient.core.progress import silent
from salient.formats.checkpoint import open_checkpoint
from salient.models import self_text
from salient.models.self_text import SELF_TEXT, own_text, self_samples
from salient.models.skeleton import Skeleton


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Few short answers, and a cache of its own."""
    for name, value in {"REQUESTS": 4, "ANSWER_TOKENS": 24, "MOST_REQUESTS": 8}.items():
        monkeypatch.setattr(self_text, name, value)
    monkeypatch.setenv("SALIENT_CACHE", str(tmp_path))
    return tmp_path


def sampled(folder, samples=4, template=CHATML):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    skeleton = Skeleton(open_checkpoint(folder), torch.float32, torch.device("cpu"))
    return own_text(skeleton, tokenizer, "toy", (samples, 64), silent)


def test_the_same_model_gives_the_same_text_and_stored_batches_are_not_sampled_again(
    folder, small, monkeypatch
):
    batch = sampled(folder)
    stored = sorted(small.rglob("*.json"))
    assert batch.ids.shape == (4, 64)
    assert (batch.kinds, batch.heldout) == ({SELF_TEXT: 256}, 1)
    stored[-1].unlink()  # as after a kill
    assert torch.equal(sampled(folder).ids, batch.ids)
    monkeypatch.setattr(self_text._Conversations, "_loaded", lambda _: pytest.fail("loaded"))
    assert torch.equal(sampled(folder).ids, batch.ids)


def test_a_conversation_is_the_request_by_the_template_and_an_answer(folder, small):
    sampled(folder)
    for ids in json.loads(min(small.rglob("0.json")).read_text()):
        text = byte_tokenizer().decode(ids)
        assert text.startswith("<|im_start|>user")
        assert "<|im_start|>assistant\n" in text


@pytest.mark.parametrize(("samples", "own"), [(1, 0), (2, 1), (16, 4), (256, 64)])
def test_a_quarter_of_the_samples_is_the_models_own(samples, own):
    assert self_samples(samples) == own


def test_a_model_without_a_chat_template_is_refused(folder, small):
    with pytest.raises(CalibrationError, match=r"--self-text .* has no chat template .* Omit"):
        sampled(folder, template=None)


def test_what_does_not_fit_or_takes_too_long_is_refused_with_its_cost(folder, small, monkeypatch):
    monkeypatch.setattr(self_text, "MOST_SECONDS", 0.0)
    with pytest.raises(ResourceError, match=r"would take about \d+ minutes for 256 tokens"):
        sampled(folder)
    monkeypatch.setattr(self_text, "free_memory", lambda _: 0)
    with pytest.raises(ResourceError, match=r"needs the whole model in memory, .* 0\.0 GiB are"):
        sampled(folder, samples=99)
