"""The model card: valid for the Hub, true of the checkpoint, without a path of this machine."""

import json
import re
import shlex
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard, ModelCardData

from helpers.runs import run
from helpers.toy_models import rewrite_json, toy_folder
from salient.awq.card import CardSubject, front_matter, missing_metadata, model_card
from salient.awq.serve_lines import serve_lines
from salient.core.evidence import AdapterEvidence, read_evidence
from salient.core.report import mebibytes
from salient.core.source_card import SourceCard, read_source_card, split_card

CARD = """\
---
license: other
license_name: mine-1.0
license_link: LICENSE.md
language: [en, de]
tags: [chat, "region:us", 7]
base_model: other/parent
pipeline_tag: text-generation
---
# Source
"""
CODE = "raise SystemExit('code of a model was run')\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A toy in the Hub's cache, with a card and files of many kinds."""
    cache = tmp_path_factory.mktemp("hub") / "models--org--name"
    folder = toy_folder(cache / "snapshots" / "0123abcd")
    (folder / "README.md").write_text(CARD)
    for name in ("tekken.json", "LICENSE.md", "1_Pooling/notes.txt", "USE_POLICY.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "modeling_toy.py").write_text(CODE)
    code = {"AutoModelForCausalLM": "modeling_toy.Toy", "AutoConfig": "configuration_toy.Toy"}
    rewrite_json(folder / "config.json", auto_map=code)
    return folder


@pytest.fixture(scope="module")
def checkpoint(source, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("card") / "toy & co"
    report = run(source, out, text, skip=["down_proj"])
    return out, report


@pytest.fixture(scope="module")
def subject(checkpoint):
    evidence = read_evidence(checkpoint[0])
    assert evidence is not None
    return CardSubject("out", "org/name", evidence, SourceCard("org/name", certain=True))


def test_the_hub_reads_its_front_matter(checkpoint):
    out, _ = checkpoint
    data = ModelCard.load(out / "README.md", ignore_metadata_errors=False).data
    assert isinstance(data, ModelCardData)
    assert (data.base_model, data["base_model_relation"]) == ("org/name", "quantized")
    assert (data.license, data.license_name, data.license_link) == (
        "other",
        "mine-1.0",
        "LICENSE.md",
    )
    assert data.language == ["en", "de"]
    assert data.tags == ["awq", "4-bit", "quantized", "salient", "chat"]
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data["quantized_by"] == "salient"
    evidence = read_evidence(out)
    assert evidence is not None
    figures = {result.metric_type: result.metric_value for result in data.eval_results or []}
    assert figures["kl_divergence"] == pytest.approx(evidence.heldout.awq.kl, abs=1e-6)
    assert figures.keys() == {"kl_divergence", "top1_agreement", "perplexity"}


def test_card_and_evidence_have_no_path_of_this_machine(checkpoint, source, text):
    out, _ = checkpoint
    for name in ("README.md", "salient.json", "config.json"):
        content = (out / name).read_text()
        for path in (out.parent, source, text.parent, "/root", "/tmp"):
            assert str(path) not in content


def test_its_quoted_commands_serve_reproduce_and_evaluate(checkpoint):
    out, report = checkpoint
    card = (out / "README.md").read_text()
    blocks = "".join(re.findall(r"^```\n(.*?)^```", card, re.S | re.M))
    commands = [shlex.split(line) for line in blocks.splitlines() if not line.startswith("#")]
    assert ["vllm", "serve", "toy & co"] in commands
    assert commands[0][:5] == ["salient", "evaluate", "toy & co", "--reference", "org/name"]
    assert commands[-1][:5] == ["salient", "quantize", "org/name", "-o", "toy & co"]
    texts = ["--calibration", "toy.txt", "--calibration-mix", "1"]
    assert commands[-1][-6:] == [*texts, "--skip", "down_proj"]
    assert f"  vllm serve {shlex.quote(str(out))}" in report.lines


def test_what_is_unquantized_is_on_the_card_with_its_reason(checkpoint):
    out, _ = checkpoint
    card = (out / "README.md").read_text()
    assert "`model.layers.*.mlp.down_proj` (" in card
    assert "--skip down" in card.replace("&#95;", "_").replace("&#45;", "-")
    assert "`lm_head`" in card
    assert "inputs that layers share" in card


def test_companions_of_a_run_are_copied_and_auto_map_names_only_code_that_is_there(checkpoint):
    out, _ = checkpoint
    for name in ("tekken.json", "LICENSE.md", "1_Pooling/notes.txt", "USE_POLICY.md"):
        assert (out / name).read_text() == "{}"
    assert (out / "modeling_toy.py").read_text() == CODE
    config = json.loads((out / "config.json").read_text())
    assert config["auto_map"] == {"AutoModelForCausalLM": "modeling_toy.Toy"}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in out.rglob("*") if path.is_file())
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_an_adapter_is_named_with_its_digest_and_in_the_commands(subject):
    evidence = replace(
        subject.evidence,
        run=replace(subject.evidence.run, adapter="ab" * 32),
        adapter=AdapterEvidence("my lora", "ab" * 32),
    )
    card = model_card(replace(subject, evidence=evidence))
    assert "with the adapter `my lora` (SHA-256 `abababababab`) merged in" in card
    assert card.count("--adapter 'my lora'") == 2


def test_dropped_tensors_come_first(subject):
    dropped = {"score.*": ("score.weight",), "mtp": ("mtp.norm.weight",)}
    evidence = replace(subject.evidence, dropped=dropped)
    _, body = split_card(model_card(replace(subject, evidence=evidence)))
    assert body.split("\n\n")[1].startswith("> **Warning**\n> Dropped by")
    assert "This is not the whole model." in body.split("\n\n")[1]


def test_every_exception_of_the_weights_is_named(subject):
    evidence = replace(
        subject.evidence,
        float32=("model.layers.3.mlp.gate.bias",),
        untied=("lm_head.weight",),
        mtp=("model.layers.61",),
        left_out=("model.rotary.inv_freq",),
        not_copied={"film.mp4": "65 MiB, more than 64"},
    )
    card = model_card(replace(subject, evidence=evidence, warnings=("Slow there.",)))
    for part in (
        "In float32, as in the source: `model.layers.*.mlp.gate.bias`",
        "values of their own (untied): `lm_head.weight`",
        "(MTP), in float16: `model.layers.*`",
        "1 tensors",
        "`film.mp4` (65 MiB, more than 64)",
        "- Slow there.",
        "--speculative-config",
    ):
        assert part in card


@pytest.mark.parametrize(
    ("answers", "task", "pipeline"),
    [
        ("labels", "classify", "text-classification"),
        ("score", "reward", "text-classification"),
        ("embedding", "embed", "feature-extraction"),
    ],
)
def test_models_that_generate_no_text_are_served_by_the_pooling_runner(
    answers, task, pipeline, subject
):
    evidence = replace(subject.evidence, answers=answers)
    lines = serve_lines("out", evidence)
    assert lines[0] == "vllm serve out --runner pooling"
    assert f"--task {task}" in lines[1]
    assert not any(line.startswith("salient serve") for line in lines)
    front = front_matter(replace(subject, evidence=evidence))
    assert front["pipeline_tag"] == pipeline
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert "perplexity" not in {metric["type"] for metric in metrics}


def test_the_command_of_vllm_has_no_flag_that_an_older_release_lacks(subject):
    first, *others = serve_lines("out", subject.evidence)
    assert first == "vllm serve out"
    assert any(line.startswith("# vLLM 0.21 and later: add --model-loader-") for line in others)


# The source


@pytest.mark.parametrize(
    ("front", "license_files", "expected"),
    [
        ("license: mit", {}, {"license": "mit"}),
        ("license: other", {"LICENSE": "x"}, {"license": "other", "license_link": "LICENSE"}),
        ("", {"LICENSE.txt": "Apache License\n   Version 2.0, January"}, {"license": "apache-2.0"}),
        ("", {"COPYING": "Permission is hereby granted, free of charge,"}, {"license": "mit"}),
        (
            "",
            {"LICENCE": "My Own Terms\nv2"},
            {"license": "other", "license_name": "my-own-terms-v2", "license_link": "LICENCE"},
        ),
        ("license: [1, {a: b}]", {}, {}),
        ("license: *missing", {}, {}),
        ("- a list", {}, {}),
    ],
    ids=str,
)
def test_the_licence_is_that_of_the_source(front, license_files, expected, tmp_path):
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\ntext")
    for name, content in license_files.items():
        (tmp_path / name).write_text(content)
    assert read_source_card(tmp_path, {}).front == expected


@pytest.mark.parametrize(
    ("config", "card", "base", "certain"),
    [
        ({"_name_or_path": "org/name"}, "", "org/name", False),
        ({"_name_or_path": "/home/me/model"}, "base_model: org/two", "org/two", False),
        ({"_name_or_path": "./model"}, "base_model: [org/one, org/two]", "org/one", False),
        ({}, "base_model: 'a <b>/c'", "", False),
        ({"_name_or_path": 7}, "", "", False),
    ],
)
def test_the_base_model_is_a_hub_id_or_absent(config, card, base, certain, tmp_path, subject):
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n")
    source = read_source_card(tmp_path, config)
    assert (source.base_model, source.certain) == (base, certain)
    notes = " ".join(missing_metadata(source))
    assert ("Check base_model" if base else "Add base_model") in notes
    assert "Add license" in notes
    front = front_matter(replace(subject, source=source))
    assert ("base_model" in front) == bool(base)


def test_a_hostile_name_does_not_break_the_card(subject):
    texts = "x\n---\n`<script>`\n# y"
    calibration = replace(subject.evidence.calibration, texts=texts)
    evidence = replace(subject.evidence, calibration=calibration, model="`<b>`\n# z")
    hostile = replace(subject, evidence=evidence, source=SourceCard())
    front, body = split_card(model_card(hostile))
    assert front["quantized_by"] == "salient"
    assert not re.search(r"^# [byz]", body, re.M)


def test_small_sizes_have_small_units():
    sizes = (7, 2048, 3 * 2**20, 5 * 2**30)
    assert [mebibytes(size) for size in sizes] == ["7 B", "2 KiB", "3 MiB", "5.00 GiB"]


def test_the_types_of_a_run_are_in_its_command(source, text, tmp_path):
    run(source, tmp_path / "out", text, dtype="bfloat16", format="compressed-tensors")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--format compressed-tensors" in card
    assert "--dtype bfloat16" in card
