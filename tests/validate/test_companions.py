"""What is served is what is judged: differences of the files next to the weights, by name."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers

from helpers.faults import copied
from salient import api
from salient.core.corpus import builtin
from salient.core.errors import CheckpointError
from salient.validate.companions import tokenizer_differences
from salient.validate.companions.compare import compare_companions, failed_rules
from salient.validate.companions.config_differences import stop_tokens
from salient.validate.companions.difference import FileDifference
from salient.validate.model_pair import open_pair
from salient.validate.policy.policy import Policy, read_policy

SIZES = {"samples": 8, "sequence_length": 64, "device": "cpu"}
LIKELIHOOD = {"tasks": None, "context_lengths": None, "load_test": None}
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module", autouse=True)
def few_texts() -> Iterator[None]:
    """Compare tokenizers on 40 texts of the corpus."""
    texts = builtin("heldout")[:40]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_differences, "builtin", lambda _: texts)
        yield


@pytest.fixture(scope="module")
def reference(toy, tmp_path_factory) -> Path:
    """The toy with a chat template and a generation config."""
    folder = tmp_path_factory.mktemp("pair") / "model"
    shutil.copytree(toy, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.6}')
    return folder


@pytest.fixture(scope="module")
def checkpoint(reference, text) -> Path:
    out = reference.parent / "out"
    options = {"samples": 6, "sequence_length": 64, "calibration": str(text)}
    api.quantize(str(reference), str(out), scheme="w4-g32", **options)
    return out


def differences(checkpoint: Path, reference: Path) -> tuple[FileDifference, ...]:
    return compare_companions(open_pair(str(checkpoint), str(reference), "cpu"))


def edited(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A change to a JSON file of a folder."""

    def edit(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text("utf-8")) if path.exists() else {}
        change(content)
        path.write_text(json.dumps(content), "utf-8")

    return edit


def lowercased(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.save(str(folder / "tokenizer.json"))


def swapped(content: dict[str, Any]) -> None:
    """Two tokens of the vocabulary exchange their ids."""
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        one, other = list(vocabulary)[40:42]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def template(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text) and None


JUDGED = {
    "no tokenizer": (without("tokenizer.json"), "tokenizer", "has no tokenizer that can be read"),
    "settings": (
        lambda folder: (folder / "tokenizer_config.json").write_text("{"),
        "tokenizer",
        "has no tokenizer that can be read",
    ),
    "lower case": (lowercased, "tokenizer", "normalizer, .* texts have other tokens"),
    "vocabulary": (edited("tokenizer.json", swapped), "tokenizer", "2 tokens of the vocabulary"),
    "template": (template("{{ messages }}"), "chat_template", "writes 4 of 4 conversations other"),
    "no template": (without("chat_template.jinja"), "chat_template", "the checkpoint has none"),
    "end": (
        edited("generation_config.json", lambda c: c.update(eos_token_id=[2, 5])),
        "stop_tokens",
        r"end at the tokens \[2, 5\], the reference's at \[2\]",
    ),
    "rope": (
        edited("config.json", lambda c: c.update(rope_scaling={"rope_theta": 5.0})),
        "rope",
        "contradicts itself on rotary positions: .*rope_theta 5.0",
    ),
    "generation": (
        lambda folder: (folder / "generation_config.json").write_text("{"),
        "generation_config",
        "is not readable JSON",
    ),
}
REPORTED = {
    "template": (template(TEMPLATE + "{# #}"), "chat_template", "writes our 4 conversations alike"),
    "temperature": (
        edited("generation_config.json", lambda c: c.update(temperature=2.0)),
        "generation_config",
        r"temperature 2.0 \(0.6\)",
    ),
    "padding": (
        edited("config.json", lambda c: c.update(pad_token_id=7)),
        "config",
        r"config.json is not as the reference's: pad_token_id 7",
    ),
    "truncation": (
        edited("tokenizer_config.json", lambda c: c.update(truncation_side="left")),
        "tokenizer",
        "truncation_side",
    ),
    "evidence": (
        edited("salient.json", lambda c: c.update(model="another")),
        "evidence",
        "salient.json was changed after Salient wrote it",
    ),
}


def test_files_as_they_were_written_have_no_difference(checkpoint, reference):
    assert differences(checkpoint, reference) == ()


@pytest.mark.parametrize(("change", "subject", "message"), JUDGED.values(), ids=JUDGED)
def test_what_is_answered_otherwise_fails(
    change, subject, message, checkpoint, reference, tmp_path
):
    folder = copied(checkpoint, tmp_path / "changed")
    change(folder)
    every = differences(folder, reference)
    rules = failed_rules(every, read_policy("lenient"))
    assert every[0].judged
    assert [rule.what for rule in rules][:1] == [subject]
    assert rules[0].passed is False
    assert re.search(message, rules[0].reason)


@pytest.mark.parametrize(("change", "subject", "message"), REPORTED.values(), ids=REPORTED)
def test_other_differences_are_reported(change, subject, message, checkpoint, reference, tmp_path):
    folder = copied(checkpoint, tmp_path / "changed")
    change(folder)
    every = differences(folder, reference)
    assert failed_rules(every, read_policy("lenient")) == []
    (one,) = (each for each in every if each.subject == subject)
    assert re.search(message, one.message)


def test_a_changed_file_of_a_checkpoint_is_named(checkpoint, reference, tmp_path):
    folder = copied(checkpoint, tmp_path / "changed")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    (one,) = differences(folder, reference)
    assert one.message.startswith("The checkpoint is not as it was written: model.safetensors has")


def test_another_reference_than_the_evidence_names_is_reported(checkpoint, reference, tmp_path):
    other = copied(reference, tmp_path / "other")
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-100] ^= 1
    (other / "model.safetensors").write_bytes(content)
    (one,) = differences(checkpoint, other)
    assert one.subject == "evidence"
    assert "is not that model as it was: model.safetensors has changed" in one.message


def test_a_policy_accepts_what_may_differ(checkpoint, reference, tmp_path):
    folder = copied(checkpoint, tmp_path / "changed")
    template("{{ messages }}")(folder)
    every = differences(folder, reference)
    assert failed_rules(every, Policy("own", may_differ=("chat_template",))) == []


def test_a_tokenizer_that_is_not_the_references_fails_before_anything_runs(
    checkpoint, reference, text, tmp_path, monkeypatch
):
    folder = copied(checkpoint, tmp_path / "changed")
    without("tokenizer.json")(folder)
    monkeypatch.setattr("salient.validate.validate.run_stages", None)
    result = api.validate(folder, reference=reference, text=str(text), policy="lenient", **SIZES)
    assert result.exit_code == 1
    assert result.report.data["differences"][0]["subject"] == "tokenizer"
    assert any(line.startswith("DIFFERENT (tokenizer):") for line in result.report.lines)
    reason = "not run, because the tokenizer is not the reference's"
    assert result.report.data["likelihood"] == {"error": reason}


def test_results_of_another_tokenizer_are_not_reused(checkpoint, reference, tmp_path):
    folder = copied(checkpoint, tmp_path / "changed")
    before = open_pair(str(folder), str(reference), "cpu").fingerprints
    template("{{ messages }}")(folder)
    after = open_pair(str(folder), str(reference), "cpu").fingerprints
    assert after["reference"] == before["reference"]
    assert after["checkpoint"] != before["checkpoint"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_checkpoint_without_codes_is_refused(declared, checkpoint, reference, text, tmp_path):
    folder = copied(reference, tmp_path / "whole")
    if declared:
        settings = json.loads((checkpoint / "config.json").read_text())["quantization_config"]
        edited("config.json", lambda c: c.update(quantization_config=settings))(folder)
    options = {"reference": reference, "text": str(text), **SIZES}
    with pytest.raises(CheckpointError, match=r"has no 4-bit codes.*salient evaluate"):
        api.validate(folder, policy="lenient", **LIKELIHOOD, **options)
    lines = api.evaluate(folder, **options).report.lines
    assert any("is not quantized" in line for line in lines) is not declared


def test_stop_tokens_are_those_of_the_generation_config():
    assert stop_tokens({"eos_token_id": 3}, {}) == [3]
    assert stop_tokens({"eos_token_id": 3}, {"eos_token_id": [5, 4]}) == [4, 5]
    assert stop_tokens({}, {"eos_token_id": None}) == []


def test_a_template_that_hangs_is_tried_once(checkpoint, reference, tmp_path, monkeypatch):
    monkeypatch.setattr("salient.models.template_process.SECONDS", 0.5)
    monkeypatch.setattr("salient.validate.companions.tokenizer_differences.TEMPLATE_SECONDS", 0.1)
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    template("{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3)(folder)
    (difference,) = [d for d in differences(folder, reference) if d.subject == "chat_template"]
    assert "writes 1 of 1 conversations otherwise" in difference.message
