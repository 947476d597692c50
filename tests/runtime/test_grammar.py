"""Constraints: only what the grammar allows can be chosen, and each answer has its own."""

import json
import sys

import pytest
import torch

from helpers.engines import never_dense, opened
from helpers.rtn_checkpoints import rounded_toy
from salient.core.errors import MissingExtra, RequestError
from salient.runtime.grammar import Grammars
from salient.runtime.sampler import Sampler
from salient.runtime.sampling_params import SamplingParams

SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
CLOSED = {**SCHEMA, "additionalProperties": False}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        never_dense(patch)
        return opened(rounded_toy(tmp_path_factory.mktemp("constrained"))).engine


def test_a_constrained_answer_is_of_the_schema_and_ends(engine):
    ids = engine.tokenizer("one two").input_ids
    constrained = engine.grammars.json(CLOSED)
    for seed in range(5):
        sampling = SamplingParams(60, temperature=3.0, seed=seed, ignore_eos=True)
        answer = engine.submit(ids, sampling, constrained.fresh())
        while not answer.finished:
            engine.step()
        assert isinstance(json.loads(answer.text)["a"], bool)
        assert answer.finished == "stop"


def test_forbidden_tokens_are_never_sampled_however_likely(engine):
    constrained = engine.grammars.json(CLOSED)
    logits = torch.zeros(engine.runner.vocabulary)
    forbidden = engine.tokenizer("x", add_special_tokens=False).input_ids[0]
    logits[forbidden] = 100.0
    sampler = Sampler(SamplingParams(), (), constrained.fresh())
    assert not sampler.plain
    assert sampler.pick(logits).token != forbidden
    assert logits[forbidden] == 100.0


def test_ids_beyond_the_grammars_own_are_forbidden(engine):
    scores = torch.zeros(engine.runner.vocabulary + 100)
    allowed = engine.grammars.json(CLOSED).allowed(scores)
    assert allowed[-100:].max() == float("-inf")
    assert allowed.max() == 0


def test_a_fresh_constraint_does_not_follow_another(engine):
    constrained = engine.grammars.json(CLOSED)
    first, second = constrained.fresh(), constrained.fresh()
    scores = torch.zeros(engine.runner.vocabulary)
    opening = int(first.allowed(scores).argmax())
    first.accept(opening)
    assert not torch.equal(first.allowed(scores), second.allowed(scores))
    assert torch.equal(second.allowed(scores), constrained.allowed(scores))


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingExtra, match=r"need the library llguidance. Install it with: pip"):
        Grammars(None, 10, [1])


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "Invalid type: objekt"),
        ({"type": "string", "pattern": "("}, "cannot be followed"),
        ({"$ref": "http://example.org/schema"}, "cannot be followed"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_an_error_with_the_reason(schema, message, engine):
    with pytest.raises(RequestError, match=rf"{message}(.|\n)*ask for type json_object"):
        engine.grammars.json(schema)
