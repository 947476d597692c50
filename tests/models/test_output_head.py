"""The class that was trained is the class that is judged, and others are refused by their name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from helpers.runs import run
from helpers.toy_models import SIZES, byte_tokenizer, rewrite_json, save, tiny_model, toy_text
from salient import api
from salient.core.errors import ModelError, RequestError
from salient.core.evidence import read_evidence
from salient.models.output_head import OutputHead

IDS = torch.randint(3, 320, (1, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return toy_text(tmp_path_factory.mktemp("text"))


def saved(auto, folder: Path, kind: str = "qwen3", **changes) -> Path:
    """A lively tiny model of the class that `auto` builds."""
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(kind, **{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.2 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.add_(torch.randn_like(parameter) * scale)
    return save(model, folder, torch.bfloat16)


@pytest.mark.parametrize("labels", [1, 5])
def test_a_classifiers_head_stays_and_its_own_answers_are_judged(labels, text, tmp_path):
    auto = AutoModelForSequenceClassification
    folder = saved(auto, tmp_path / "m", num_labels=labels, tie_word_embeddings=True)
    report = run(folder, tmp_path / "out", text)
    source, written = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "out"))
    assert torch.equal(written["score.weight"], source["score.weight"])
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["Qwen3ForSequenceClassification"]
    assert "score" in config["quantization_config"]["modules_to_not_convert"]
    evidence = read_evidence(tmp_path / "out")
    assert evidence is not None
    assert evidence.answers == ("score" if labels == 1 else "labels")
    assert 0 < evidence.heldout.awq.kl < evidence.heldout.plain.kl * 1.5
    # an independent path: Transformers on both folders
    exact = auto.from_pretrained(folder, dtype=torch.float32)
    ours, _ = api.load(str(tmp_path / "out"))
    with torch.no_grad():
        expected, answers = (m(input_ids=IDS).logits for m in (exact, ours))
    assert answers.shape == expected.shape == (1, labels)
    assert float((answers - expected).abs().max()) < float(expected.abs().max()) + 1
    assert not any("perplexity" in row[0] for table in report.tables for row in table.rows)


def test_an_embedding_model_is_judged_by_the_cosine_of_its_pooled_output(text, tmp_path):
    folder = saved(AutoModel, tmp_path / "m")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": true}')
    run(folder, tmp_path / "out", text)
    evidence = read_evidence(tmp_path / "out")
    assert evidence is not None
    assert evidence.answers == "embedding"
    assert evidence.heldout.awq.cosine is not None
    assert 0.5 < evidence.heldout.awq.cosine < 1
    exact, ours = (
        AutoModel.from_pretrained(folder, dtype=torch.float32),
        api.load(str(tmp_path / "out"))[0],
    )
    with torch.no_grad():
        pooled = [m(input_ids=IDS).last_hidden_state.float().mean(1) for m in (exact, ours)]
    assert float(torch.cosine_similarity(*pooled)) > 0.5
    result = api.evaluate(
        tmp_path / "out", reference=folder, text=[str(text)], samples=2, sequence_length=64
    )
    assert any("Mean cosine" in line for line in result.report.lines)


def test_an_embedding_model_of_a_language_models_class_needs_no_head(text, tmp_path):
    folder = save(tiny_model("qwen3", tie_word_embeddings=True), tmp_path / "m", torch.bfloat16)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_lasttoken": true}')
    run(folder, tmp_path / "out", text)
    evidence = read_evidence(tmp_path / "out")
    assert evidence is not None
    assert evidence.answers == "embedding"


def test_models_that_generate_no_text_are_refused_by_generate(text, tmp_path):
    folder = saved(AutoModelForSequenceClassification, tmp_path / "m", num_labels=1)
    with pytest.raises(RequestError, match=r"scores texts .* generates no text.*--runner pooling"):
        api.generate(folder, ["Hello"], max_new_tokens=2)


@pytest.mark.parametrize(
    ("kind", "named", "message"),
    [
        ("bert", "BertForMaskedLM", "BertForMaskedLM is a masked language model"),
        ("bert", None, "bert is a masked language model"),
        ("t5", "T5ForConditionalGeneration", "is an encoder-decoder model"),
        ("bart", "BartForConditionalGeneration", "is an encoder-decoder model"),
        (
            "qwen3",
            "Qwen3ForTokenClassification",
            "Qwen3ForTokenClassification, which has another head",
        ),
        ("qwen2", "Qwen2ForRewardModel", "Qwen2ForRewardModel, which needs its own code"),
    ],
)
def test_other_classes_are_refused_by_their_name(kind, named, message, text, tmp_path):
    config = AutoConfig.for_model(kind)
    config.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    save(tiny_model(), tmp_path / "weights")
    (tmp_path / "weights/model.safetensors").rename(tmp_path / "model.safetensors")
    rewrite_json(tmp_path / "config.json", architectures=[named] if named else None)
    for dry_run in (True, False):
        with pytest.raises(ModelError, match=message):
            run(tmp_path, tmp_path / "out", text, dry_run=dry_run)


def test_a_score_is_compared_as_a_preference_between_texts():
    head = OutputHead("score", "score")
    one = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    same = head.compare(one, one + 5, torch.arange(4))
    assert same.kl == pytest.approx(0, abs=1e-9)  # a shift changes no preference
    assert same.top1 == 1
    reversed_order = head.compare(one, -one, torch.arange(4))
    assert reversed_order.top1 == 0
    assert same.predicted == 0
