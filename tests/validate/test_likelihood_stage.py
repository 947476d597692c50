"""The likelihood stage: streamed block by block, its figures are those of the whole models."""

import math
from pathlib import Path

import pytest
import torch

from helpers.tolerance import assert_figures, kl_rounding, logits_rounding
from helpers.toy_models import byte_tokenizer, toy_folder
from salient import api
from salient.core.errors import CalibrationError, CheckpointError, RequestError
from salient.core.metrics import LogitsComparison, compare_logits
from salient.core.progress import Progress, silent
from salient.validate.cache import ValidationCache
from salient.validate.likelihood.measure import LikelihoodRequest, measure_likelihood, windows_of
from salient.validate.likelihood.protocols import PROTOCOLS, EvaluationProtocol
from salient.validate.likelihood.result import MEASURES
from salient.validate.model_pair import open_pair
from salient.validate.render import render_stage

WINDOWS, LENGTH = 3, 96


@pytest.fixture(scope="module")
def checkpoint(toy, text, tmp_path_factory) -> Path:
    """The toy's checkpoint; do not change it."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    options = {"samples": 4, "sequence_length": 64, "calibration": str(text)}
    api.quantize(str(toy), str(out), scheme="w4-g32", **options)
    return out


@pytest.fixture
def other(tmp_path) -> Path:
    """A text unlike the session's."""
    path = tmp_path / "other.txt"
    path.write_text(
        "\n\n".join(f"{n} squared makes {n * n}; {n} cubed, {n**3}." for n in range(60))
    )
    return path


def ids_of(path: Path) -> torch.Tensor:
    """The first windows of a text: its paragraphs, each with an end-of-text token behind it."""
    tokenizer, stream = byte_tokenizer(), []
    for paragraph in path.read_text().split("\n\n"):
        stream += [*tokenizer(paragraph).input_ids, tokenizer.eos_token_id]
    return torch.tensor(stream[: WINDOWS * LENGTH]).reshape(WINDOWS, LENGTH)


def direct(reference: Path, checkpoint: Path, ids: torch.Tensor) -> LogitsComparison:
    """Both models whole, in float32, window by window."""
    models, sums = (
        [api.load(str(folder))[0] for folder in (reference, checkpoint)],
        LogitsComparison(),
    )
    for window in ids:
        with torch.no_grad():
            logits = [model(window[None], use_cache=False).logits[0] for model in models]
        sums.add(compare_logits(*logits, window))
    return sums


def evaluate(checkpoint: Path, reference: Path, *texts: Path, **changes):
    options = {"samples": WINDOWS, "sequence_length": LENGTH, "fresh": True, **changes}
    arguments = {"reference": str(reference), "text": [str(t) for t in texts]}
    return api.evaluate(str(checkpoint), **arguments, **options).report


def test_the_figures_are_those_of_the_whole_models_for_each_text(checkpoint, toy, text, other):
    report = evaluate(checkpoint, toy, text, other)
    assert list(report.data["likelihood"]["texts"]) == [str(text), str(other)]
    for path in (text, other):
        expected = direct(toy, checkpoint, ids_of(path)).figures()
        assert_figures(report.data["likelihood"]["texts"][str(path)], expected)
        assert expected["tokens"] == WINDOWS * LENGTH
    assert [row[0] for row in report.tables[0].rows] == [str(text), str(other)]
    first, second = report.data["likelihood"]["texts"].values()
    assert first["kl"] != second["kl"]


def test_a_stride_counts_the_same_tokens_with_more_before_them(checkpoint, toy, text):
    apart = evaluate(checkpoint, toy, text).data["likelihood"]
    sliding = evaluate(checkpoint, toy, text, stride=LENGTH // 2).data["likelihood"]
    assert (apart["stride"], sliding["stride"]) == (LENGTH, LENGTH // 2)
    ids, sums = ids_of(text).flatten(), LogitsComparison()
    models = [api.load(str(folder))[0] for folder in (toy, checkpoint)]
    for number, window in enumerate(ids.unfold(0, LENGTH, LENGTH // 2)):
        first = 0 if number == 0 else LENGTH - LENGTH // 2 - 1
        with torch.no_grad():
            logits = [m(window[None], use_cache=False).logits[0, first:] for m in models]
        sums.add(compare_logits(*logits, window[first:]))
    assert_figures(sliding["texts"][str(text)], sums.figures())
    assert sums.predicted == WINDOWS * LENGTH - 1


def test_enough_windows_have_intervals_and_too_few_a_note(checkpoint, toy, text):
    few = evaluate(checkpoint, toy, text, samples=2)
    assert few.data["likelihood"]["texts"][str(text)]["intervals"] == {}
    assert any("Too few windows for intervals" in line for line in few.lines)
    many = evaluate(checkpoint, toy, text, samples=6, sequence_length=64)
    figures = many.data["likelihood"]["texts"][str(text)]
    low, high = figures["intervals"]["kl"]
    assert low < figures["kl"] < high
    assert "[" in many.tables[0].rows[0][2]


def test_batches_of_windows_change_no_figure(checkpoint, toy, text, other, monkeypatch):
    together = evaluate(checkpoint, toy, text, other).data["likelihood"]["texts"]
    monkeypatch.setattr("salient.validate.likelihood.streaming.BATCH_TOKENS", 1)
    monkeypatch.setattr("salient.validate.likelihood.measure.STATE_BYTES", 2 * 4 * 64 * LENGTH * 4)
    apart = evaluate(checkpoint, toy, text, other).data["likelihood"]["texts"]
    for name, figures in together.items():
        assert_figures(apart[name], figures)


def test_each_block_is_called_as_the_model_calls_it(tmp_path, text):
    """Blocks that look back 8 tokens and blocks that look back to the start take turns."""
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    model = toy_folder(tmp_path / "model", "gemma2", **kinds)
    expected = direct(model, model, ids_of(text)).figures()
    figures = evaluate(model, model, text).data["likelihood"]["texts"][str(text)]
    assert figures["perplexity_reference"] == pytest.approx(
        expected["perplexity_reference"], rel=2 * logits_rounding()
    )


def test_a_model_is_at_no_distance_from_itself(toy, text):
    figures = evaluate(toy, toy, text).data["likelihood"]["texts"][str(text)]
    assert abs(figures["kl"]) < kl_rounding(0)
    assert figures["top1"] == 1
    assert figures["perplexity_quantized"] == figures["perplexity_reference"]


def test_the_default_text_is_the_builtin_heldout_one(checkpoint, toy):
    report = evaluate(checkpoint, toy)
    assert list(report.data["likelihood"]["texts"]) == ["builtin (held out)"]
    assert report.data["likelihood"]["texts"]["builtin (held out)"]["tokens"] == WINDOWS * LENGTH


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 0}, r"--stride 0 does not fit windows of"),
        (
            {"sequence_length": 1024},
            r"--sequence-length 1024 is longer than the model's 512 positions\. Give at most 512",
        ),
        (
            {"samples": 9000},
            r"has \d+ tokens, but 9000 samples of 96 need .* Use --samples \d",
        ),
        ({"sequence_length": 8}, r"of --sequence-length 8: use at least 1 of 64 tokens"),
        ({"samples": 0}, "--samples 0 is out of range"),
    ],
)
def test_windows_that_do_not_fit_name_what_fits(changes, message, checkpoint, toy, text):
    with pytest.raises((CalibrationError, RequestError), match=message):
        evaluate(checkpoint, toy, text, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, "blocks is 2 in the checkpoint and 3 in the reference"),
        ({"vocab_size": 300}, "vocabulary is 320 in the checkpoint and 300 in the reference"),
    ],
    ids=str,
)
def test_a_reference_of_another_shape_is_refused(changes, message, checkpoint, tmp_path, text):
    other_model = toy_folder(tmp_path / "model", **changes)
    with pytest.raises(
        CheckpointError, match=rf"are not the same model: {message}\. Give the model"
    ):
        evaluate(checkpoint, other_model, text)


def test_a_reference_of_another_architecture_is_refused(checkpoint, tmp_path, text):
    other_model = toy_folder(tmp_path / "model", "qwen2")
    message = "architecture is LlamaForCausalLM in the checkpoint and Qwen2ForCausalLM in the"
    with pytest.raises(CheckpointError, match=message):
        evaluate(checkpoint, other_model, text)


def test_a_reference_that_is_quantized_is_refused(checkpoint, text):
    with pytest.raises(CheckpointError, match=r"is quantized itself\. Give the 16-bit model"):
        evaluate(checkpoint, checkpoint, text)


def test_the_figures_are_those_of_whole_distributions(checkpoint, toy, text):
    """KL and perplexity again, in float64, from every logit of both whole models."""
    ids = ids_of(text)
    models = [api.load(str(folder))[0] for folder in (toy, checkpoint)]
    with torch.no_grad():
        logs = [m(ids, use_cache=False).logits.double().log_softmax(-1) for m in models]
    kl = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()
    nll = [-x[:, :-1].gather(-1, ids[:, 1:, None]).mean() for x in logs]
    figures = evaluate(checkpoint, toy, text).data["likelihood"]["all"]
    assert figures["kl"] == pytest.approx(float(kl), abs=kl_rounding(float(kl)))
    for name, value in zip(("perplexity_reference", "perplexity_quantized"), nll, strict=True):
        assert math.log(figures[name]) == pytest.approx(float(value), abs=2 * logits_rounding())


def test_each_of_several_texts_is_judged(checkpoint, toy, text, other):
    pair = open_pair(str(checkpoint), str(toy), "cpu")
    request = LikelihoodRequest((str(text), str(other)), WINDOWS, LENGTH)
    stage = measure_likelihood(pair, request, ValidationCache(), silent)
    figures = stage.to_dict()["texts"]
    judged = {(m.what, m.text): m.value for m in stage.measurements()}
    assert {
        (what, name): each[what] for name, each in figures.items() for what in MEASURES
    } == judged
    assert any("Each of the 2 texts is judged" in line for line in render_stage(stage)[1])


def test_a_named_protocol_takes_all_of_a_text(checkpoint, toy, text, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "classic", EvaluationProtocol(LENGTH, LENGTH))
    stage = evaluate(checkpoint, toy, text, samples=None, protocol="classic").data["likelihood"]
    stream = sum(len(byte_tokenizer()(p).input_ids) + 1 for p in text.read_text().split("\n\n"))
    assert stage["texts"][str(text)]["windows"] == stream // LENGTH
    with pytest.raises(CalibrationError, match=r"No protocol 'clasic'\. Known: classic, sliding"):
        evaluate(checkpoint, toy, text, protocol="clasic")


def test_progress_counts_the_blocks_to_the_end(checkpoint, toy, text):
    steps = []
    record = Progress(lambda done, total, action, _: steps.append((done / total, action)))
    evaluate(checkpoint, toy, text, progress=record)
    shares = [share for share, _ in steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    half = 0.05 + 0.95 / 2  # integrity takes the first twentieth
    assert (pytest.approx(half), "likelihood: model.layers.1: both models") in steps


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "The fox. " * 200,
            r"has only \d.\d% different phrases",
        ),
        ("a" * 4000, "have no token of their own"),
        ("\0" * 4000, "have no token of their own"),
        ("The quick brown fox" + "x" * 4000, "is one token in"),
    ],
)
def test_a_text_that_means_nothing_is_refused(content, message, checkpoint, toy, tmp_path):
    path = tmp_path / "own.txt"
    path.write_text(content)
    pair = open_pair(str(checkpoint), str(toy), "cpu")
    with pytest.raises(CalibrationError, match=message):
        windows_of(pair, LikelihoodRequest((str(path),), WINDOWS, LENGTH))
