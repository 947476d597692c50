"""Evaluating a checkpoint: streamed block by block, its figures are the whole models' own."""

from pathlib import Path

import pytest
import torch

from salient import api
from salient.core.errors import CalibrationError, CheckpointError
from salient.evals.likelihood import Comparison, compare_logits
from toy import byte_tokenizer, toy_folder

WINDOWS, LENGTH = 3, 96


@pytest.fixture(scope="module")
def made(toy, text, tmp_path_factory) -> Path:
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


def direct(reference: Path, checkpoint: Path, ids: torch.Tensor) -> Comparison:
    """Both models whole, in float32, window by window."""
    models, found = [api.load(str(folder))[0] for folder in (reference, checkpoint)], Comparison()
    for window in ids:
        with torch.no_grad():
            logits = [model(window[None], use_cache=False).logits[0] for model in models]
        found.add(compare_logits(*logits, window))
    return found


def evaluate(checkpoint: Path, reference: Path, *texts: Path, **changes):
    options = {"windows": WINDOWS, "window_length": LENGTH, **changes}
    given = {"reference": str(reference), "text": [str(t) for t in texts]}
    return api.evaluate(str(checkpoint), **given, **options)


def test_the_figures_are_those_of_the_whole_models_for_each_text(made, toy, text, other):
    report = evaluate(made, toy, text, other)
    assert list(report.data["texts"]) == [str(text), str(other)]
    for path in (text, other):
        expected = direct(toy, made, ids_of(path)).figures()
        assert report.data["texts"][str(path)] == pytest.approx(expected, rel=1e-3)
        assert expected["tokens"] == WINDOWS * LENGTH
    assert [row[0] for row in report.tables[0].rows] == [str(text), str(other)]
    first, second = report.data["texts"].values()
    assert first["kl"] != second["kl"]


def test_a_stride_counts_the_same_tokens_with_more_before_them(made, toy, text):
    apart = evaluate(made, toy, text).data
    sliding = evaluate(made, toy, text, stride=LENGTH // 2).data
    assert (apart["stride"], sliding["stride"]) == (LENGTH, LENGTH // 2)
    ids, found = ids_of(text).flatten(), Comparison()
    models = [api.load(str(folder))[0] for folder in (toy, made)]
    for number, window in enumerate(ids.unfold(0, LENGTH, LENGTH // 2)):
        first = 0 if number == 0 else LENGTH - LENGTH // 2 - 1
        with torch.no_grad():
            logits = [m(window[None], use_cache=False).logits[0, first:] for m in models]
        found.add(compare_logits(*logits, window[first:]))
    assert sliding["texts"][str(text)] == pytest.approx(found.figures(), rel=1e-3)
    assert found.predicted == WINDOWS * LENGTH - 1


def test_enough_windows_have_intervals_and_too_few_say_so(made, toy, text):
    few = evaluate(made, toy, text, windows=2)
    assert few.data["intervals"][str(text)] == {}
    assert "Too few windows for intervals" in few.lines[1]
    many = evaluate(made, toy, text, windows=6, window_length=64)
    low, high = many.data["intervals"][str(text)]["kl"]
    assert low < many.data["texts"][str(text)]["kl"] < high
    assert "[" in many.tables[0].rows[0][2]


def test_batches_of_windows_change_no_figure(made, toy, text, other, monkeypatch):
    together = evaluate(made, toy, text, other).data["texts"]
    monkeypatch.setattr("salient.awq.evaluation.BATCH_TOKENS", 1)
    apart = evaluate(made, toy, text, other).data["texts"]
    for name, figures in together.items():
        assert apart[name] == pytest.approx(figures, rel=1e-3)


def test_each_block_is_called_as_the_model_calls_it(tmp_path, text):
    """Blocks that look back 8 tokens and blocks that look back to the start take turns."""
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    model = toy_folder(tmp_path / "model", "gemma2", **kinds)
    expected = direct(model, model, ids_of(text)).figures()
    figures = evaluate(model, model, text).data["texts"][str(text)]
    assert figures["perplexity_reference"] == pytest.approx(
        expected["perplexity_reference"], rel=1e-4
    )


def test_a_model_is_at_no_distance_from_itself(toy, text):
    figures = evaluate(toy, toy, text).data["texts"][str(text)]
    assert abs(figures["kl"]) < 1e-6
    assert figures["top1"] == 1
    assert figures["perplexity_quantized"] == figures["perplexity_reference"]


def test_without_a_text_the_built_in_held_out_one_is_measured(made, toy):
    report = evaluate(made, toy)
    assert list(report.data["texts"]) == ["builtin (held out)"]
    assert report.data["texts"]["builtin (held out)"]["tokens"] == WINDOWS * LENGTH


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stride": 0}, r"--stride 0 does not fit windows of"),
        (
            {"window_length": 1024},
            r"--window-length 1024 is longer than the model's 512 positions\. Give at most 512",
        ),
        (
            {"windows": 9000},
            r"holds \d+ tokens, but 9000 samples of 96 need .* Ask for --windows \d",
        ),
        ({"window_length": 8}, r"of --window-length 8: give at least 1 of 64 tokens"),
        ({"windows": 0}, r"--windows 0 of .*: give at least 1 of 64 tokens"),
    ],
)
def test_windows_that_cannot_be_cut_say_what_fits(changes, words, made, toy, text):
    with pytest.raises(CalibrationError, match=words):
        evaluate(made, toy, text, **changes)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 3}, {"vocab_size": 300}], ids=str)
def test_a_reference_of_another_shape_is_no_reference(changes, made, tmp_path, text):
    other_model = toy_folder(tmp_path / "model", **changes)
    with pytest.raises(CheckpointError, match=r"\(2, 64, 320\), .*: they are not the same model"):
        evaluate(made, other_model, text)


def test_progress_counts_the_blocks_to_the_end(made, toy, text):
    steps = []
    evaluate(made, toy, text, progress=lambda done, total, doing, note: steps.append((done, total)))
    assert steps == [(0, 2), (1, 2), (2, 2)]
