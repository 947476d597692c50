"""Log-probabilities of continuations equal those of the whole model, however they are computed."""

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
from salient.runtime import loglikelihood as scoring
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


def directly(model: Any, requested: ChoiceRequest) -> list[tuple[float, bool]]:
    """Each continuation with its context through the whole model."""
    actual = []
    for tokens in requested.continuations:
        with torch.no_grad():
            logits = model(torch.tensor([requested.context + tokens])).logits[0]
        rows = logits[len(requested.context) - 1 : -1].float()
        each = rows.log_softmax(-1)[range(len(tokens)), tokens]
        actual.append((each.sum().item(), rows.argmax(-1).tolist() == tokens))
    return actual


def assert_as_directly(
    folder: Path, engine: Any, within: float, requested: list[ChoiceRequest]
) -> None:
    model = whole_model(folder)
    for one, likelihoods in zip(requested, Continuations(engine).score(requested), strict=True):
        wanted = directly(model, one)
        for actual, (logprob, _), tokens in zip(
            likelihoods, wanted, one.continuations, strict=True
        ):
            assert abs(actual.logprob - logprob) <= within * len(tokens) ** 0.5


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_codes_give_the_models_own_log_probabilities_in_any_number_of_slots(coded, slots):
    engine = engine_of(coded, slots=slots)
    assert_as_directly(coded, engine, CODES, examples())


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_16_bit_weights_give_exact_log_probabilities(toy, slots):
    engine = engine_of(toy, slots=slots)
    assert "PyTorch" in engine.runner.how
    assert_as_directly(toy, engine, EXACT, examples())


def test_log_probabilities_are_the_same_without_fused_blocks(toy):
    engine = engine_of(toy, fuse=False)
    assert not engine.runner.reuses_prefixes
    assert_as_directly(toy, engine, EXACT, examples())


@pytest.mark.parametrize("kind", ["gemma2", "gpt2"])
def test_log_probabilities_are_the_same_with_windows_and_other_families(kind, tmp_path):
    """Gemma 2 looks back 8 tokens in one block and caps its logits; GPT-2 is never fused."""
    folder = rounded_toy(tmp_path, kind)
    assert_as_directly(folder, opened(folder, slots=4).engine, CODES, examples())


def test_a_model_without_chunked_prefill_scores_in_one_piece(toy, monkeypatch):
    monkeypatch.setattr("salient.runtime.runner.LOGIT_ROWS", 5)
    engine = engine_of(toy, fuse=False)
    for chunked_prefill in (False, True):
        monkeypatch.setattr(engine.runner, "chunked_prefill", chunked_prefill)
        assert_as_directly(toy, engine, EXACT, examples())


def test_long_continuations_score_the_same_in_pieces(toy, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK", 8)
    monkeypatch.setattr("salient.runtime.runner.LOGIT_ROWS", 3)
    long = [*examples(), ChoiceRequest(prompt(2), [prompt(40, seed=1), prompt(3, seed=2)])]
    assert_as_directly(toy, engine_of(toy, slots=3), EXACT, long)


def test_greedy_marks_the_models_own_continuation(toy):
    engine = engine_of(toy, slots=3)
    likeliest = engine.generate([prompt(12)], SamplingParams(4, ignore_eos=True))[0].tokens
    other = [*likeliest[:-1], likeliest[-1] + 1 if likeliest[-1] < 200 else 3]
    (actual,) = Continuations(engine).score(
        [ChoiceRequest(prompt(12), [likeliest, likeliest[:1], other, likeliest[1:]])]
    )
    assert [each.greedy for each in actual] == [True, True, False, False]
    assert actual[0].logprob < actual[1].logprob < 0


def test_a_context_is_computed_once_for_all_its_continuations(toy):
    continuations = Continuations(engine_of(toy, slots=16))
    continuations.score([ChoiceRequest(prompt(20), [prompt(3, seed=n) for n in range(5)])])
    assert continuations.computed == 20 + 5 * 2
    continuations.score([ChoiceRequest(prompt(20), [[5], [6], [7]])])
    assert continuations.computed == 30 + 20


@pytest.mark.parametrize("slots", [1, 3])
def test_a_shared_beginning_is_computed_once(toy, slots):
    stem = prompt(40, seed=3)
    requested = [ChoiceRequest([*stem, 100 + n], [[5], [6]]) for n in range(6)]
    continuations = Continuations(engine_of(toy, slots=slots))
    continuations.score(requested)
    assert continuations.computed == 41 + 5
    assert_as_directly(toy, engine_of(toy, slots=slots), EXACT, requested)


def test_the_engine_answers_as_before(coded):
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
    ("requested", "message"),
    [
        (ChoiceRequest([], [[5]]), "has no tokens"),
        (ChoiceRequest([5], [[6], []]), "has no tokens"),
        (ChoiceRequest([5], [[6, 320]]), r"There is the token 320, but the model knows 0 to 319"),
        (ChoiceRequest([-1], [[6]]), r"There is the token -1"),
    ],
)
def test_an_invalid_request_is_refused_with_a_message(toy, requested, message):
    with pytest.raises(RequestError, match=message):
        Continuations(engine_of(toy, slots=3)).score([ChoiceRequest([5], [[6]]), requested])


def test_a_busy_engine_is_refused(toy):
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
    requested = encode_choices(tokenizer, context + space, texts)
    assert requested.context == encode(tokenizer, context)
    for text, tokens in zip(texts, requested.continuations, strict=True):
        assert tokens == encode(tokenizer, context + space + text)[len(requested.context) :]


def test_a_spelled_beginning_of_text_is_not_doubled():
    tokenizer = byte_tokenizer()
    tokenizer.add_bos_token = True
    plain, spelled = encode(tokenizer, "cat"), encode(tokenizer, "<s>cat")
    assert spelled.count(tokenizer.bos_token_id) == 1
    assert plain[-3:] == spelled[-3:]


@pytest.mark.parametrize(("context", "text"), [("", "cat"), ("   ", "cat"), ("cat", "")])
def test_continuations_without_tokens_are_refused(context, text):
    with pytest.raises(RequestError, match="has no tokens of its own"):
        encode_choices(byte_tokenizer(), context, [text])


def test_the_examples_begin_alike_and_not():
    contexts = sorted(each.context for each in examples())
    shared = [scoring.common_start(a, b) for a, b in itertools.pairwise(contexts)]
    assert max(shared) >= 30
    assert 20 in shared
    assert 0 in shared
