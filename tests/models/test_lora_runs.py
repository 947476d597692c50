"""A checkpoint of a model and its adapter: what it is, and what it is measured against."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.toy_models import byte_tokenizer, save, toy_folder
from salient import api
from salient.core.errors import CheckpointError, ModelError
from salient.core.evidence import read_evidence
from salient.models.lora import open_adapter
from salient.models.source_model import open_source_model

peft = pytest.importorskip("peft")
pytestmark = [pytest.mark.filterwarnings("ignore")]

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"


def small(text: Path) -> dict:
    return {"scheme": "w4-g32", "calibration": str(text), "samples": 6, "sequence_length": 64}


def base(folder: Path, rows: int = 0):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(model.config.vocab_size + rows)
    return model


def train(model: Path, folder: Path, rows: int = 0, seed: int = 0, **settings):
    """Write a LoRA adapter of random values; the model that peft runs."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(**{"r": 4, "target_modules": ["q_proj", "down_proj"], **settings})
    adapted = peft.get_peft_model(base(model, rows), config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    adapted.save_pretrained(folder)
    return adapted.eval()


def divergence(reference, checkpoint: Path, vocabulary: int = 250) -> float:
    """KL of the checkpoint, read by Salient, to `reference` run by peft."""
    ids = torch.randint(3, vocabulary, (2, 32), generator=torch.Generator().manual_seed(3))
    model = api.load(str(checkpoint))[0]
    with torch.no_grad():
        expected, actual = (
            m(ids, use_cache=False).logits.log_softmax(-1) for m in (reference, model)
        )
    return float((expected.exp() * (expected - actual)).sum(-1).mean())


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> Path:
    """A tied model; do not change it."""
    return toy_folder(tmp_path_factory.mktemp("tied") / "model", tie_word_embeddings=True)


UNTIED = {
    "embedding": {"modules_to_save": ["embed_tokens"]},
    "both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "LoRA on the embedding": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.mark.parametrize("kind", UNTIED)
def test_a_checkpoint_of_a_tied_model_is_untied_as_the_adapter_was_trained(
    kind, tied, text, tmp_path
):
    trained = train(tied, tmp_path / "adapter", **UNTIED[kind])
    out = tmp_path / "out"
    result = api.quantize(tied, out, adapter=tmp_path / "adapter", **small(text))
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    written = load_file(out / "model.safetensors")
    embed = torch.arange(320)
    head = trained.get_output_embeddings()
    expected = {
        "model.embed_tokens.weight": trained.get_input_embeddings()(embed),
        "lm_head.weight": head(torch.eye(64)).T,
    }
    for name, values in expected.items():
        assert torch.allclose(written[name].float(), values, atol=2e-3), name
    assert divergence(base(tied).eval(), out) > 2 * divergence(trained, out)
    assert result.evidence.untied == ("lm_head.weight",)
    assert any("the adapter gives it other values" in line for line in result.report.lines)


def test_rows_that_an_adapter_adds_are_written_with_its_tokenizer(tied, text, tmp_path):
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    trained = train(tied, adapter, rows=3, modules_to_save=["embed_tokens", "lm_head"])
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    tokenizer.eos_token, tokenizer.chat_template = "<|turn|>", TEMPLATE
    tokenizer.save_pretrained(adapter)
    result = api.quantize(tied, out, adapter=adapter, **small(text))
    config = json.loads((out / "config.json").read_text())
    assert config["vocab_size"] == 323
    assert load_file(out / "model.safetensors")["lm_head.weight"].shape == (323, 64)
    assert divergence(trained, out, 323) < 0.1
    written = AutoTokenizer.from_pretrained(out)
    assert written.chat_template == TEMPLATE
    end = written.convert_tokens_to_ids("<|turn|>")
    assert end == 259
    assert written.eos_token_id == end
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [end, 2]
    evidence = read_evidence(out)
    assert evidence == result.evidence
    assert evidence.adapter.name == "adapter"
    assert evidence.adapter.digest == evidence.run.adapter == open_adapter(adapter).digest
    assert evidence.adapter.vocabulary == 323
    assert {"tokenizer.json", "chat_template.jinja"} <= set(evidence.adapter.files)
    assert str(tmp_path) not in (out / "salient.json").read_text().replace(str(text), "")
    line = next(line for line in result.report.lines if line.startswith("The adapter"))
    assert "its vocabulary has 323 rows; its own" in line
    assert f"salient evaluate {out} --reference {tied} --adapter {adapter}" in "\n".join(
        result.report.lines
    )


def test_calibration_uses_the_adapters_template(tied, text, tmp_path):
    adapter, rows = tmp_path / "adapter", tmp_path / "rows.jsonl"
    train(tied, adapter)
    passages = text.read_text().split("\n\n")
    rows.write_text(
        "\n".join(json.dumps({"messages": [{"role": "user", "content": w}]}) for w in passages)
    )
    options = {**small(rows), "dry_run": True}
    without = api.quantize(tied, tmp_path / "out", adapter=adapter, **options)
    (adapter / "chat_template.jinja").write_text(TEMPLATE)
    with_own = api.quantize(tied, tmp_path / "out", adapter=adapter, **options)
    assert with_own.report.data["calibration"] != without.report.data["calibration"]
    model = open_source_model(tied, adapter=adapter)
    assert model.companions.taken == ("chat_template.jinja",)
    assert (model.companions.folder / "tokenizer.json").exists()  # the model's


def test_an_adapters_template_in_its_tokenizer_config_replaces_the_models_file(tied, tmp_path):
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    save(base(tied), model)
    (model / "chat_template.jinja").write_text("old")
    train(model, adapter)
    byte_tokenizer().save_pretrained(adapter)
    settings = adapter / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": TEMPLATE}))
    folder = open_source_model(model, adapter=adapter)
    read = AutoTokenizer.from_pretrained(folder.companions.folder)
    assert read.chat_template == TEMPLATE


@pytest.fixture(scope="module")
def adapted(toy, text, tmp_path_factory) -> Path:
    """A folder with an adapter, another one, and a checkpoint made with the first."""
    home = tmp_path_factory.mktemp("adapted")
    train(toy, home / "adapter")
    train(toy, home / "other", seed=1)
    api.quantize(toy, home / "out", adapter=home / "adapter", **small(text))
    return home


SIZES = {"samples": 4, "sequence_length": 64, "device": "cpu"}


def test_evaluate_merges_the_adapter_in_the_reference(adapted, toy, text):
    result = api.evaluate(
        adapted / "out", reference=toy, adapter=adapted / "adapter", text=str(text), **SIZES
    )
    (figures,) = result.report.data["likelihood"]["texts"].values()
    assert figures["kl"] < 0.1
    assert result.report.data["reference"] == f"{toy} with the adapter adapter"


def test_validate_answers_tasks_with_the_adapted_reference(adapted, toy, text, tmp_path):
    tasks = tmp_path / "mine.jsonl"
    tasks.write_text(
        '{"prompt": "1 and", "choices": ["a", "b"], "answer": 1, "kind": "pick"}\n' * 4
    )
    options = {"text": str(text), "context_lengths": None, "load_test": None, "fresh": True}
    result = api.validate(
        adapted / "out",
        reference=toy,
        adapter=adapted / "adapter",
        tasks=str(tasks),
        **options,
        **SIZES,
    )
    assert "error" not in result.report.data["tasks"]


@pytest.mark.parametrize("verb", [api.evaluate, api.validate])
def test_an_adapters_checkpoint_is_not_compared_with_another_model(
    verb, adapted, toy, text, tmp_path, caplog
):
    out, options = adapted / "out", {"text": str(text), **SIZES}
    message = r"was made of model with the adapter adapter \(\w{12}\), but --reference .* is that "
    with pytest.raises(CheckpointError, match=message + "model without it.*Add --adapter FOLDER"):
        verb(out, reference=toy, **options)
    message = r"but --adapter .*other is another one \(\w{12}\)\. Give the adapter that it was made"
    with pytest.raises(CheckpointError, match=message):
        verb(out, reference=toy, adapter=adapted / "other", **options)


def test_an_adapters_checkpoint_is_measured_against_the_merged_model(
    adapted, toy, text, tmp_path, caplog
):
    merged = peft.PeftModel.from_pretrained(base(toy), adapted / "adapter").merge_and_unload()
    save(merged, tmp_path / "merged")
    with caplog.at_level(logging.WARNING, "salient"):
        result = api.evaluate(
            adapted / "out", reference=tmp_path / "merged", text=str(text), **SIZES
        )
    (figures,) = result.report.data["likelihood"]["texts"].values()
    assert figures["kl"] < 0.1
    assert "should be that model with the adapter merged" in caplog.text


def test_a_checkpoint_without_an_adapter_is_not_compared_with_an_adapted_model(
    adapted, toy, text, tmp_path
):
    api.quantize(toy, tmp_path / "out", **small(text))
    with pytest.raises(CheckpointError, match=r"without an adapter\. Leave out --adapter"):
        api.evaluate(
            tmp_path / "out", reference=toy, adapter=adapted / "adapter", text=str(text), **SIZES
        )


def parent(folder: Path) -> Path:
    return folder.parent


def pickled(folder: Path) -> Path:
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    weights.unlink()
    return folder


def rewritten(**changes):
    def change(folder: Path) -> Path:
        path = folder / "adapter_config.json"
        settings = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in settings.items() if v != "remove"}))
        return folder

    return change


NO_ADAPTERS = {
    "a parent folder": (parent, r"is no LoRA adapter, but has some: .*/adapter\. Give one as"),
    "a pickle": (pickled, r"adapter_model\.bin, a pickle, which Salient does not open\. Load it"),
    "a Hub id": (lambda _: "org/name", r"no folder here\. If it is an adapter on the Hub.*hf down"),
    "nothing": (lambda f: f / "no", r"does not exist\. Give the folder of a LoRA adapter"),
    "a file": (lambda f: f / "adapter_config.json", r"is a file\. Give its folder"),
    "of another tool": (rewritten(peft_type="remove"), r"has no peft_type, so that peft did not"),
    "invoked": (rewritten(alora_invocation_tokens=[5]), r"active only after its invocation tokens"),
    "repeated": (rewritten(layer_replication=[[0, 2]]), r"repeats layers of the model"),
}


@pytest.mark.parametrize("kind", NO_ADAPTERS)
def test_what_is_no_adapter_is_named_as_what_it_is(kind, toy, text, tmp_path):
    train(toy, tmp_path / "trained" / "adapter")
    change, message = NO_ADAPTERS[kind]
    adapter = change(tmp_path / "trained" / "adapter")
    with pytest.raises(ModelError, match=message):
        api.quantize(toy, tmp_path / "out", adapter=adapter, dry_run=True, **small(text))


def test_a_model_as_adapter_is_named(toy, text, tmp_path):
    with pytest.raises(ModelError, match=r"no LoRA adapter but a model.*give it as MODEL"):
        api.quantize(toy, tmp_path / "out", adapter=toy, **small(text))


def test_an_adapter_as_model_names_its_base_and_what_to_type(toy, text, tmp_path):
    train(toy, tmp_path / "adapter")
    message = r"is an adapter, no model: .*names '.*model'\); salient quantize MODEL --adapter"
    with pytest.raises(ModelError, match=message):
        api.quantize(tmp_path / "adapter", tmp_path / "out", **small(text))
    with pytest.raises(ModelError, match=message):
        api.plan(str(tmp_path / "adapter"))


def test_an_adapter_in_the_models_own_folder_is_not_ignored(tied, text, tmp_path):
    save(base(tied), tmp_path / "model")
    train(tmp_path / "model", tmp_path / "model")
    with pytest.raises(ModelError, match=r"has a model and an adapter .*add --adapter"):
        api.quantize(tmp_path / "model", tmp_path / "out", **small(text))


def test_an_adapter_of_a_wider_model_names_both_shapes(toy, text, tmp_path):
    wide = toy_folder(tmp_path / "wide", intermediate_size=128)
    train(wide, tmp_path / "adapter")
    message = (
        r"for 'model\.layers\.0\.mlp\.down_proj\.weight' it has \[64, 128\], but the model needs "
        r"\[64, 96\]\. Give the model that it was trained on \(adapter_config\.json names '.*wide'"
    )
    with pytest.raises(ModelError, match=message):
        api.quantize(toy, tmp_path / "out", adapter=tmp_path / "adapter", **small(text))


def test_a_head_of_another_task_is_named(toy, text, tmp_path):
    train(toy, tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    from safetensors.torch import save_file

    save_file(load_file(weights) | {"base_model.model.score.weight": torch.ones(1, 64)}, weights)
    rewritten(task_type="SEQ_CLS")(tmp_path / "adapter")
    message = (
        r"changes 'score\.weight', for which the LlamaForCausalLM .*a head of the task SEQ_CLS"
    )
    with pytest.raises(ModelError, match=message):
        api.quantize(toy, tmp_path / "out", adapter=tmp_path / "adapter", **small(text))


def test_rows_of_the_embedding_alone_name_the_head(toy, text, tmp_path):
    train(toy, tmp_path / "adapter", rows=3)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    from safetensors.torch import save_file

    tensors = {n: t for n, t in load_file(weights).items() if "lm_head" not in n}
    save_file(tensors, weights)
    message = (
        r"vocabulary to 323 rows of 'model\.embed_tokens\.weight', but 'lm_head\.weight' has 320"
    )
    with pytest.raises(ModelError, match=message):
        api.quantize(toy, tmp_path / "out", adapter=tmp_path / "adapter", **small(text))
