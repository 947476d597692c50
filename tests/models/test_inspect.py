"""Inspecting tells what the files hold, and does not pass over a checkpoint with a part missing."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from helpers.rtn_checkpoints import MIXED, rounded_toy
from helpers.toy_models import rewrite_json
from salient import api
from salient.core.errors import CheckpointError
from salient.formats.checkpoint import open_checkpoint

EACH = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def built(toy, text, tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of each format, one linear of it left at 16 bits; do not change them."""
    folder = tmp_path_factory.mktemp("inspection")
    options = {"samples": 4, "sequence_length": 64, "skip": ["layers.1.mlp.down_proj"]}
    for format, scheme in (("awq", "w4-g32"), ("compressed-tensors", "w4-g32-sym")):
        out = str(folder / format)
        shared = {"format": format, "scheme": scheme, "calibration": str(text)}
        api.quantize(str(toy), out, **shared, **options)
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("format", "scheme"), [("awq", "w4-g32"), ("compressed-tensors", "w4-g32-sym")]
)
def test_a_checkpoint_tells_format_scheme_layers_and_sizes(format, scheme, built):
    data = api.inspect(built[format]).report.data
    assert (data["format"], data["scheme"], data["dtype"]) == (format, scheme, "float16")
    assert (data["model_type"], data["quantized_linears"]) == ("llama", 13)
    assert data["linears_by_kind"] == {kind: 1 if kind == "down_proj" else 2 for kind in EACH}
    tensors = load_file(built[format] / "model.safetensors")
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    rest = sum(size for name, size in sizes.items() if tensors[name].dtype.is_floating_point)
    scales = sum(size for name, size in sizes.items() if name.endswith("scale") or "scales" in name)
    assert data["bytes"]["sixteen_bit"] == rest - scales
    assert data["bytes"]["quantized"] == sum(sizes.values()) - rest + scales


def test_a_checkpoint_of_several_schemes_names_them_and_is_whole(tmp_path):
    folder = rounded_toy(tmp_path, format="compressed-tensors", own=MIXED)
    data = api.inspect(folder).report.data
    assert data["scheme"] == "w4-g32, w8-g32-sym, w4-g64"
    checkpoint = open_checkpoint(folder)
    sizes = {"down": 64 * 96, "o": 64 * 64}
    rest = 2 * (64 * 96 * 3 + 64 * (64 * 2 + 32 * 2)) - sum(sizes.values())
    bits = sizes["down"] * 8.5 + sizes["o"] * 4.3125 + rest * 4.625
    assert checkpoint.bits_per_weight == pytest.approx(bits / (rest + sum(sizes.values())))


def test_the_evidence_is_shown_with_the_worst_blocks_first(built):
    report = api.inspect(built["awq"]).report
    evidence = json.loads((built["awq"] / "salient.json").read_text())
    assert report.data["evidence"] == evidence
    table = next(t for t in report.tables if "largest error" in t.title)
    worst = sorted(evidence["blocks"], key=lambda b: -b["error_awq"])
    assert [row[0] for row in table.rows] == [b["block"] for b in worst]
    assert f"Held-out KL {evidence['heldout']['awq']['kl']:.4f}" in report.lines[0]


def test_the_result_has_the_folder_format_and_scheme(built, toy):
    awq, plain = api.inspect(built["awq"]), api.inspect(toy)
    assert (awq.folder, awq.format, awq.scheme) == (built["awq"], "awq", "w4-g32")
    assert (plain.folder, plain.format, plain.scheme) == (toy, None, None)


def test_a_sixteen_bit_model_has_no_format_and_no_codes(toy):
    report = api.inspect(toy).report
    assert (report.data["format"], report.data["quantized_linears"]) == (None, 0)
    size = sum(t.nbytes for t in load_file(toy / "model.safetensors").values())
    assert report.data["bytes"] == {"quantized": 0, "sixteen_bit": size}
    assert "evidence" not in report.data


@pytest.mark.parametrize(
    ("format", "suffix"),
    [("awq", "scales"), ("awq", "qzeros"), ("compressed-tensors", "weight_scale")],
)
def test_a_checkpoint_that_lacks_a_tensor_is_named_incomplete(format, suffix, built, tmp_path):
    folder = Path(shutil.copytree(built[format], tmp_path / "copy"))
    tensors = load_file(folder / "model.safetensors")
    lost = f"model.layers.1.mlp.up_proj.{suffix}"
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"has no tensor '{lost}': the checkpoint is incomp"):
        api.inspect(str(folder))


def test_a_config_with_codes_over_16_bit_tensors_is_detected(built, toy, tmp_path):
    folder = Path(shutil.copytree(toy, tmp_path / "copy"))
    claim = json.loads((built["awq"] / "config.json").read_text())["quantization_config"]
    rewrite_json(folder / "config.json", quantization_config=claim)
    message = (
        r"declares the format awq, but has no \*\.qweight\. Its config\.json belongs to another"
    )
    with pytest.raises(CheckpointError, match=message):
        api.inspect(str(folder))


def test_damaged_evidence_is_named(built, tmp_path):
    folder = Path(shutil.copytree(built["awq"], tmp_path / "copy"))
    (folder / "salient.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"salient\.json is no readable JSON"):
        api.inspect(str(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_figures_of_other_weights_are_not_repeated(name, built, tmp_path):
    folder = Path(shutil.copytree(built["awq"], tmp_path / "copy"))
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    report = api.inspect(str(folder)).report
    assert f"is not as Salient wrote it: {name} has changed" in report.lines[0]
    assert ("evidence" in report.data) is (name == "tokenizer.json")
