"""Logits of given tokens, beside whatever an engine runs."""

import pytest
import torch

from helpers.engines import GREEDY, never_dense, opened, prompt
from helpers.rtn_checkpoints import rounded_toy
from helpers.tolerance import assert_within, coded_rounding
from helpers.toy_models import toy_folder
from salient.core.errors import RequestError, ResourceError
from salient.runtime import engine as engines
from salient.runtime.sampling_params import SamplingParams


@pytest.fixture(scope="module", params=["fused", "Transformers"])
def engine(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        never_dense(patch)
        folder = rounded_toy(tmp_path_factory.mktemp("logits"))
        return opened(folder, fuse=request.param == "fused").engine


def model_logits(engine, ids):
    with torch.no_grad():
        return engine.runner.model.module(torch.tensor([ids]), use_cache=False).logits[0].float()


def test_logits_equal_the_models_at_each_of_the_last_tokens(engine):
    ids = prompt(40)
    wanted = model_logits(engine, ids)
    for last in (40, 7, 1):
        actual = engine.logits(ids, last)
        assert actual.shape == (last, engine.runner.vocabulary)
        assert_within(actual, wanted[-last:], coded_rounding() * wanted[-last:].abs().max())


def test_prompts_in_pieces_give_the_same(engine, monkeypatch):
    ids = prompt(40, seed=5)
    whole = engine.logits(ids, 30).clone()
    engine.clear_cache()
    monkeypatch.setattr(engines, "CHUNK", 16)
    assert_within(engine.logits(ids, 30), whole, coded_rounding() * whole.abs().max())


def test_running_and_later_answers_are_unaffected(engine):
    first, second = prompt(20, seed=7), prompt(24, seed=8)
    engine.clear_cache()
    (alone,) = engine.generate([first], GREEDY)
    engine.clear_cache()
    answer = engine.submit(first, GREEDY)
    while not answer.finished:
        engine.step()
        engine.logits([*second, *answer.tokens[:1]], 3)
    assert answer.tokens == alone.tokens
    (later,) = engine.generate([second], GREEDY)  # begins with what the logits left there
    engine.clear_cache()
    (fresh,) = engine.generate([second], GREEDY)
    assert later.tokens == fresh.tokens


def test_logits_need_a_free_slot(engine):
    engine.clear_cache()
    answers = [engine.submit(prompt(9, seed), GREEDY) for seed in (1, 2)]
    engine.step(), engine.step()
    with pytest.raises(ResourceError, match=r"slot is taken by an answer under way. Try again"):
        engine.logits(prompt(9), 1)
    for answer in answers:
        engine.cancel(answer)
    assert len(engine.logits(prompt(9), 1)) == 1


def test_too_many_or_no_tokens_are_refused(engine):
    for ids, last in ((prompt(65), 1), (prompt(5), 6), (prompt(5), 0), ([], 1)):
        with pytest.raises(RequestError, match=r"tokens: give 1 to 64"):
            engine.logits(ids, last)
    with pytest.raises(RequestError, match="the token 100000, but the model knows 0 to 319"):
        engine.logits([1, 100000], 1)


def test_a_slots_tokens_are_counted(tmp_path):
    engine = opened(toy_folder(tmp_path / "model")).engine
    assert engine.cached_tokens == 0
    engine.logits(prompt(12), 2)
    assert engine.cached_tokens == 12
    engine.generate([prompt(12)], SamplingParams(4, ignore_eos=True))
    assert engine.cached_tokens == 15
