"""Log-probabilities of given continuations: those of the whole model, however they are computed."""

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.engines import never_dense, opened, prompt
from helpers.rtn_checkpoints import rounded_toy
from helpers.tokenizers import TOKENIZERS
from helpers.tolerance import logits_rounding
from helpers.toy_models import byte_tokenizer
from salient.core.errors import ModelError, RequestError
from salient.models.model_folder import load_dequantized
from salient.runtime import loglikelihood as asking
from salient.runtime.engine import Engine
from salient.runtime.loglikelihood import ChoiceRequest, Continuations, encode, encode_choices
from salient.runtime.sampling_params import SamplingParams

# Nats of a token: the C++ kernels round activations, and PyTorch's sums have another order.
CODES, EXACT = 2 * logits_rounding(coded=True), 2 * logits_rounding()


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4-bit checkpoint, which runs as C++ calls where there is a compiler."""
    return rounded_toy(tmp_path_factory.mktemp("continuations"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dense products; and garbage waits, whose collection takes longer than the toys do."""
    never_dense(monkeypatch)
    monkeypatch.setattr("salient.runtime.load_engine.release_memory", lambda: None)


def examples() -> list[ChoiceRequest]:
    """Contexts of many lengths, some of which begin alike; one token and many to continue."""
    stem = prompt(30, seed=9)
    contexts = [prompt(n, seed=n) for n in (1, 4, 17, 33)]
    contexts += [stem[:20] + prompt(6, seed=5), stem + prompt(2, seed=6), stem + prompt(3, seed=7)]
    return [
        ChoiceRequest(context, [prompt(length, seed=100 * n + length) for length in lengths])
        for n, (context, lengths) in enumerate(
            zip(
                contexts,
                [(1, 2, 7), (3,), (1, 1), (5, 4, 3, 2, 1), (2, 6), (2,), (9, 1)],
                strict=True,
            )
        )
    ]


@cache
def engine_of(folder: Path, **options: Any) -> Engine:
    """An engine that tests share."""
    return opened(folder, **options).engine


@cache
def whole_model(folder: Path) -> Any:
    return load_dequantized(str(folder))[0]


def directly(model: Any, asked: ChoiceRequest) -> list[tuple[float, bool]]:
    """Each continuation with its context through the whole model."""
    found = []
    for tokens in asked.continuations:
        with torch.no_grad():
            logits = model(torch.tensor([asked.context + tokens])).logits[0]
        rows = logits[len(asked.context) - 1 : -1].float()
        each = rows.log_softmax(-1)[range(len(tokens)), tokens]
        found.append((each.sum().item(), rows.argmax(-1).tolist() == tokens))
    return found


def assert_as_directly(
    folder: Path, engine: Any, within: float, asked: list[ChoiceRequest]
) -> None:
    model = whole_model(folder)
    for one, likelihoods in zip(asked, Continuations(engine).score(asked), strict=True):
        wanted = directly(model, one)
        for found, (logprob, _), tokens in zip(likelihoods, wanted, one.continuations, strict=True):
            assert abs(found.logprob - logprob) <= within * len(tokens) ** 0.5


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_codes_give_the_models_own_log_probabilities_in_any_number_of_slots(coded, slots):
    engine = engine_of(coded, slots=slots)
    assert_as_directly(coded, engine, CODES, examples())


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_16_bit_weights_give_them_exactly(toy, slots):
    engine = engine_of(toy, slots=slots)
    assert "PyTorch" in engine.runner.how
    assert_as_directly(toy, engine, EXACT, examples())


def test_without_fused_blocks_they_are_the_same(toy):
    engine = engine_of(toy, fuse=False)
    assert not engine.runner.reuses_prefixes
    assert_as_directly(toy, engine, EXACT, examples())


@pytest.mark.parametrize("kind", ["gemma2", "gpt2"])
def test_windows_and_other_families_are_the_same(kind, tmp_path):
    """Gemma 2 looks back 8 tokens in one block and caps its logits; GPT-2 is never fused."""
    folder = rounded_toy(tmp_path, kind)
    assert_as_directly(folder, opened(folder, slots=4).engine, CODES, examples())


def test_a_model_that_takes_no_pieces_is_asked_in_one(toy, monkeypatch):
    monkeypatch.setattr("salient.runtime.runner.LOGIT_ROWS", 5)
    engine = engine_of(toy, fuse=False)
    for chunked_prefill in (False, True):
        monkeypatch.setattr(engine.runner, "chunked_prefill", chunked_prefill)
        assert_as_directly(toy, engine, EXACT, examples())


def test_long_ones_in_pieces_are_the_same(toy, monkeypatch):
    monkeypatch.setattr(asking, "CHUNK", 8)
    monkeypatch.setattr("salient.runtime.runner.LOGIT_ROWS", 3)
    long = [*examples(), ChoiceRequest(prompt(2), [prompt(40, seed=1), prompt(3, seed=2)])]
    assert_as_directly(toy, engine_of(toy, slots=3), EXACT, long)


def test_greedy_is_what_the_model_itself_would_say(toy):
    engine = engine_of(toy, slots=3)
    said = engine.generate([prompt(12)], SamplingParams(4, ignore_eos=True))[0].tokens
    other = [*said[:-1], said[-1] + 1 if said[-1] < 200 else 3]
    (found,) = Continuations(engine).score(
        [ChoiceRequest(prompt(12), [said, said[:1], other, said[1:]])]
    )
    assert [each.greedy for each in found] == [True, True, False, False]
    assert found[0].logprob < found[1].logprob < 0


def test_a_context_is_computed_once_for_all_its_continuations(toy):
    continuations = Continuations(engine_of(toy, slots=16))
    continuations.score([ChoiceRequest(prompt(20), [prompt(3, seed=n) for n in range(5)])])
    assert continuations.computed == 20 + 5 * 2
    continuations.score([ChoiceRequest(prompt(20), [[5], [6], [7]])])
    assert continuations.computed == 30 + 20


@pytest.mark.parametrize("slots", [1, 3])
def test_what_contexts_begin_with_is_computed_once(toy, slots):
    stem = prompt(40, seed=3)
    asked = [ChoiceRequest([*stem, 100 + n], [[5], [6]]) for n in range(6)]
    continuations = Continuations(engine_of(toy, slots=slots))
    continuations.score(asked)
    assert continuations.computed == 41 + 5
    assert_as_directly(toy, engine_of(toy, slots=slots), EXACT, asked)


def test_the_engine_goes_on_as_before(coded):
    """Its slots held other tokens meanwhile: nothing of them is taken for a prompt's."""
    engine, sampling = engine_of(coded, slots=3), SamplingParams(6, ignore_eos=True)
    first = engine.generate([prompt(20)], sampling)[0]
    assert Continuations(engine).score([]) == []
    assert engine.generate([prompt(20)], sampling)[0].reused == 19
    Continuations(engine).score(examples())
    again = engine.generate([prompt(20)], sampling)[0]
    assert again.reused == 0
    assert again.tokens == first.tokens


def test_a_context_is_used_to_its_last_position(toy):
    engine = opened(toy, context_length=16).engine
    assert_as_directly(toy, engine, EXACT, [ChoiceRequest(prompt(13), [prompt(4, seed=1)])])
    with pytest.raises(RequestError, match=r"runs with 16. Shorten the context by 1 or more"):
        Continuations(engine).score([ChoiceRequest(prompt(13), [[5], prompt(5, seed=1)])])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (ChoiceRequest([], [[5]]), "has no tokens"),
        (ChoiceRequest([5], [[6], []]), "has no tokens"),
        (ChoiceRequest([5], [[6, 320]]), r"There is the token 320, but the model knows 0 to 319"),
        (ChoiceRequest([-1], [[6]]), r"There is the token -1"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(toy, asked, words):
    with pytest.raises(RequestError, match=words):
        Continuations(engine_of(toy, slots=3)).score([ChoiceRequest([5], [[6]]), asked])


def test_a_busy_engine_is_not_asked(toy):
    engine = engine_of(toy, slots=3)
    answer = engine.submit(prompt(3), SamplingParams(4))
    with pytest.raises(RequestError, match="The engine is busy with answers"):
        Continuations(engine).score([ChoiceRequest([5], [[6]])])
    engine.cancel(answer)


def test_a_broken_model_has_no_likelihoods(toy):
    broken = opened(toy)
    with torch.no_grad():
        broken.model.module.model.norm.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite numbers"):
        Continuations(broken.engine).score([ChoiceRequest([5, 6], [[6, 7]])])


# Words to tokens


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("space", ["", " ", "\n", "  "])
def test_pairs_are_encoded_whole_and_cut_after_the_context(name, space):
    tokenizer = TOKENIZERS[name]()
    context, texts = "The cat sat on 1,0", ("00.5", "the dog", "the cat")
    asked = encode_choices(tokenizer, context + space, texts)
    assert asked.context == encode(tokenizer, context)
    for text, tokens in zip(texts, asked.continuations, strict=True):
        assert tokens == encode(tokenizer, context + space + text)[len(asked.context) :]


def test_a_spelled_beginning_of_text_is_not_doubled():
    tokenizer = byte_tokenizer()
    tokenizer.add_bos_token = True
    plain, spelled = encode(tokenizer, "cat"), encode(tokenizer, "<s>cat")
    assert spelled.count(tokenizer.bos_token_id) == 1
    assert plain[-3:] == spelled[-3:]


@pytest.mark.parametrize(("context", "text"), [("", "cat"), ("   ", "cat"), ("cat", "")])
def test_words_without_tokens_are_refused(context, text):
    with pytest.raises(RequestError, match="has no tokens of its own"):
        encode_choices(byte_tokenizer(), context, [text])


def test_the_examples_begin_alike_and_not():
    contexts = sorted(each.context for each in examples())
    shared = [asking.common_start(a, b) for a, b in itertools.pairwise(contexts)]
    assert max(shared) >= 30
    assert 20 in shared
    assert 0 in shared
