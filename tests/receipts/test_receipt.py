"""Receipts of a toy: measured, verified to the last digit, and what they detect."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.rtn_checkpoints import rounded
from helpers.toy_models import toy_folder
from salient import api
from salient.core.errors import CalibrationError, RequestError
from salient.receipts.receipt_exports import llama_cpp_text, model_index
from salient.receipts.receipt_record import read_receipt, receipt_text, sealed_receipt
from salient.receipts.verification import compare_receipts
from salient.validate.likelihood.token_panel import read_panel

VOCABULARY = "the cat of a big old house sat by its warm stove and sang to some far moon"


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A folder with a toy, its checkpoint, a text of many documents, and a panel of it."""
    folder = tmp_path_factory.mktemp("receipts")
    rounded(toy_folder(folder / "toy"), folder / "checkpoint")
    rows = [
        {
            "kind": ("prose", "code")[n % 2],
            "text": " ".join(VOCABULARY.split()[n * i % 17] for i in range(1, 25)),
        }
        for n in range(1, 21)
    ]
    (folder / "text.jsonl").write_text("\n".join(map(json.dumps, rows)))
    api.panel(
        "make",
        folder / "toy",
        output=folder / "panel.safetensors",
        text=str(folder / "text.jsonl"),
        sequence_length=64,
        own_text=False,
    )
    return folder


@pytest.fixture(scope="module")
def receipt(ground):
    return measure(ground, "checkpoint", "receipt.json").receipt


def measure(ground, checkpoint, output, **options):
    return api.receipt(
        ground / checkpoint,
        reference=ground / "toy",
        panel=ground / "panel.safetensors",
        output=ground / output,
        device="cpu",
        **options,
    )


def changed(ground, name, change):
    """A copy of the checkpoint with one tensor changed."""
    shutil.copytree(ground / "checkpoint", ground / name)
    path = ground / name / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return name


def test_a_panel_holds_its_strata_in_windows_of_their_own(ground):
    panel = read_panel(ground / "panel.safetensors")
    assert panel.strata == ["code", "prose"] or panel.strata == ["prose", "code"]
    for row in panel.documents:
        assert len({panel.head.strata[int(number)] for number in row}) == 1
    assert panel.digest == read_panel(ground / "panel.safetensors").digest


def test_a_receipt_has_both_strata_above_the_noise_floor(receipt):
    assert set(receipt.strata) == {"prose", "code"}
    assert receipt.measurable
    assert receipt.figures.kl.value > 100 * receipt.noise.kl
    assert receipt.figures.kl.low < receipt.figures.kl.value < receipt.figures.kl.high
    assert receipt.figures.kl_p99.value <= receipt.figures.kl_p999.value <= receipt.figures.kl_max
    assert sum(receipt.documents.positions) == receipt.figures.positions == receipt.panel.positions
    assert sum(receipt.documents.kl) / receipt.panel.positions == pytest.approx(
        receipt.figures.kl.value
    )


def test_a_receipt_is_verified_to_the_last_digit(ground, receipt):
    result = api.receipt(verify=ground / "receipt.json", device="cpu")
    assert result.passed
    assert result.verification.like
    assert result.receipt.figures == receipt.figures
    assert result.receipt.documents == receipt.documents


def test_verification_names_a_figure_that_is_not_the_receipts(receipt):
    other = dataclasses.replace(
        receipt,
        figures=dataclasses.replace(receipt.figures, kl_max=receipt.figures.kl_max * 1.0001),
    )
    (difference,) = compare_receipts(other, receipt).differences
    assert difference.figure == "all.kl_max"
    engine = dataclasses.replace(receipt.engine, threads=receipt.engine.threads + 1)
    assert compare_receipts(dataclasses.replace(other, engine=engine), receipt).passed


def test_verification_refuses_another_checkpoint(ground, receipt):
    name = changed(ground, "scaled-all", lambda tensors: _scale(tensors, 1.01))
    with pytest.raises(RequestError, match="is not the model of the receipt"):
        api.receipt(ground / name, verify=ground / "receipt.json", device="cpu")


def test_a_receipt_that_was_edited_is_refused(ground, receipt):
    text = (ground / "receipt.json").read_text()
    edited = ground / "edited.json"
    edited.write_text(text.replace('"positions": ', '"positions": 1', 1))
    with pytest.raises(RequestError, match="changed after it was written"):
        read_receipt(edited)
    assert receipt_text(sealed_receipt(receipt)) == text


def _scale(tensors, factor, entry=None):
    name = next(name for name in tensors if name.endswith("down_proj.scales"))
    if entry is None:
        tensors[name] = tensors[name] * factor
    else:
        tensors[name].view(-1)[entry] *= factor


def test_one_scale_changed_by_a_percent_is_detected_and_the_same_checkpoint_is_not(ground, receipt):
    name = changed(ground, "scaled-one", lambda tensors: _scale(tensors, 1.01, 0))
    against = measure(ground, name, "one.json", against=ground / "checkpoint").receipt.paired
    assert against.differs
    assert against.apart > against.floor
    assert against.verdict != "not measurable"
    itself = measure(
        ground, "checkpoint", "same.json", against=ground / "checkpoint"
    ).receipt.paired
    assert not itself.differs
    assert itself.verdict == "not measurable"


def test_a_damaged_checkpoint_is_worse_than_the_good_one_also_by_its_receipt(ground, receipt):
    def damage(tensors):
        for tensor in (name for name in tensors if name.endswith("scales")):
            tensors[tensor] = tensors[tensor] * 1.5

    name = changed(ground, "worse", damage)
    result = measure(ground, name, "worse.json", against=ground / "receipt.json").receipt.paired
    assert result.verdict == "worse"
    assert result.p_value < 0.05
    assert result.apart is None


def test_a_calibration_text_that_holds_the_panel_fails_the_receipt(ground):
    result = measure(ground, "checkpoint", "same-text.json", calibration=ground / "text.jsonl")
    assert result.receipt.calibration.status == "overlap"
    assert result.exit_code == 1
    assert result.receipt.calibration.shared > 0.9 * result.receipt.calibration.shingles
    apart = ground / "apart.txt"
    apart.write_text("Another text with no run of words from there. " * 20)
    result = measure(ground, "checkpoint", "apart.json", calibration=apart)
    assert result.receipt.calibration.status == "apart"
    assert result.passed


def test_an_unknown_calibration_is_reported_as_unknown(receipt):
    assert receipt.calibration.status == "unknown"
    assert "salient.json" in receipt.calibration.reason


def test_exports_have_the_receipts_figures(receipt):
    text = llama_cpp_text(receipt)
    assert f"Mean    KLD                   : {receipt.llama_cpp['Mean KLD']:10.6f} ±" in text
    assert "====== Token probability statistics ======" in text
    (entry,) = model_index(receipt)["model-index"]
    metrics = {each["type"]: each["value"] for each in entry["results"][0]["metrics"]}
    assert metrics["kl_divergence"] == receipt.figures.kl.value


def test_a_panel_of_another_tokenizer_or_no_panel_is_refused(ground, tmp_path):
    save_file({"ids": torch.zeros(2, 4, dtype=torch.int32)}, tmp_path / "none.safetensors")
    with pytest.raises(CalibrationError, match="is no panel"):
        read_panel(tmp_path / "none.safetensors")
    panel = read_panel(ground / "panel.safetensors")
    head = dataclasses.replace(panel.head, tokenizer="0" * 64)
    from salient.validate.likelihood.token_panel import write_panel

    write_panel(dataclasses.replace(panel, head=head), ground / "foreign.safetensors")
    with pytest.raises(RequestError, match="another tokenizer"):
        api.receipt(
            ground / "checkpoint",
            reference=ground / "toy",
            panel=ground / "foreign.safetensors",
            output=tmp_path / "receipt.json",
        )
    assert not (tmp_path / "receipt.json").exists()
