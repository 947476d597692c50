"""Reading damaged folders: a word on what is wrong, before any tensor is read."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.checkpoints import PROJ, each_format, folder_of, quantized_of, remap, sharded_of
from helpers.toy_models import rewrite_json
from salient.core.errors import CheckpointError, ModelError
from salient.core.model_files import INDEX, SINGLE
from salient.core.scheme import LayerSchemes, Scheme
from salient.formats import load_format
from salient.formats.checkpoint import open_checkpoint, open_piece


def test_a_folder_that_is_not_there_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere has no config\.json: it is not a Hugging Face"):
        open_checkpoint(tmp_path / "nowhere")


def test_a_folder_without_a_config_is_no_model(tmp_path):
    (folder_of(tmp_path) / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json: it is not a Hugging Face model"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe{}", b"version"])
def test_a_config_that_is_not_json_is_to_be_fetched_again(content, tmp_path):
    (folder_of(tmp_path) / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json is not readable JSON .* Fetch the file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(("content", "kind"), [("[]", "list"), ("5", "int"), ("null", "NoneType")])
def test_a_config_that_is_no_object_is_to_be_fetched_again(content, kind, tmp_path):
    (folder_of(tmp_path) / "config.json").write_text(content)
    with pytest.raises(
        ModelError, match=rf"config\.json contains a {kind}, not a JSON .* Download"
    ):
        open_checkpoint(tmp_path)


def test_a_folder_without_weights_says_what_it_lacks(tmp_path):
    (folder_of(tmp_path) / SINGLE).unlink()
    message = r"has neither model\.safetensors nor model\.safetensors\.index\.json\."
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


def test_a_pickle_is_named_and_never_opened(tmp_path):
    (folder_of(tmp_path) / SINGLE).unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    message = (
        r"neither .*; 'pytorch_model\.bin' is a pickle, .* not open: convert it to safetensors"
    )
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    (sharded_of(tmp_path) / "2.safetensors").unlink()
    message = r"names '2\.safetensors', which is not in .* \(1 missing\)\. Fetch the missing shards"
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "retained", [0, 4, 40, -1], ids=["all", "in-length", "in-header", "last-byte"]
)
@pytest.mark.parametrize(
    ("built", "name"), [(folder_of, SINGLE), (sharded_of, "2.safetensors")], ids=["single", "shard"]
)
def test_a_truncated_file_is_named_before_any_tensor_is_read(built, name, retained, tmp_path):
    path = built(tmp_path) / name
    path.write_bytes(path.read_bytes()[:retained])
    message = rf"{name} in .* cannot be read .* truncated or damaged: fetch it again"
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


def test_a_piece_that_is_damaged_is_named(tmp_path):
    (tmp_path / "block-0.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match=r"block-0\.safetensors in .* truncated or damaged"):
        open_piece(tmp_path / "block-0.safetensors", {})


@pytest.mark.parametrize("how", ["parent", "absolute", "inside"])
def test_an_index_that_names_a_path_is_not_trusted(how, tmp_path):
    folder = tmp_path / "model"
    (folder / "deeper").mkdir(parents=True)
    sharded_of(folder)
    for place in (tmp_path, folder / "deeper"):
        save_file({"a": torch.ones(1)}, place / "secret.safetensors")
    shard = {
        "parent": "../secret.safetensors",
        "absolute": str(tmp_path / "secret.safetensors"),
        "inside": "deeper/secret.safetensors",
    }[how]
    remap(folder, a=shard)
    message = r"'.*safetensors', which is no safetensors in its own folder\. Do not trust this"
    with pytest.raises(ModelError, match=message):
        open_checkpoint(folder)


def test_an_index_that_misplaces_a_tensor_is_detected(tmp_path):
    remap(sharded_of(tmp_path), a="2.safetensors")
    message = r"lists 'a' in 2\.safetensors, which lacks it\. Download that shard again"
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}], ids=str)
def test_an_index_that_names_no_tensor_is_refused(index, tmp_path):
    (sharded_of(tmp_path) / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="index"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1,", r"is not readable JSON .* Fetch the file"),
        ("<html>", r"is a web page, not the file"),
    ],
)
def test_an_index_that_is_not_json_is_to_be_fetched_again(content, message, tmp_path):
    (sharded_of(tmp_path) / INDEX).write_text(content)
    with pytest.raises(ModelError, match=rf"index\.json .*{message}"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_is_not_there_is_named_with_its_likeliest_likes(tmp_path):
    checkpoint = open_checkpoint(folder_of(tmp_path))
    message = r"no tensor 'layers\.c\.weight' \(it has 'model\.c\.weight'\)\. .* correct it"
    with pytest.raises(ModelError, match=message):
        checkpoint.tensor("layers.c.weight")
    with pytest.raises(
        ModelError, match=r"no tensor 'z'\. Its config\.json describes another model"
    ):
        checkpoint.tensor("z")


@pytest.mark.parametrize("method", ["hqq", "quark", None])
def test_an_unknown_quantization_is_named_with_the_known_ones(method, tmp_path):
    folder_of(tmp_path, {"quantization_config": {"quant_method": method, "bits": 4}})
    message = (
        rf"quantized with {method!r}\. Salient reads 16-bit models and: awq, compressed-tensors"
    )
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("format", "suffix"),
    [
        ("awq", "qzeros"),
        ("awq", "scales"),
        ("compressed-tensors", "weight_scale"),
        ("compressed-tensors", "weight_zero_point"),
        ("compressed-tensors", "weight_shape"),
    ],
)
def test_a_linear_that_lacks_a_tensor_is_incomplete(format, suffix, tmp_path):
    folder, _ = quantized_of(tmp_path, format)
    tensors = load_file(folder / SINGLE)
    del tensors[f"{PROJ}.{suffix}"]
    save_file(tensors, folder / SINGLE)
    message = rf"no tensor '{PROJ}\.{suffix}': the checkpoint is incomplete, write it again"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder).quantized(PROJ)


@each_format
@pytest.mark.parametrize(("written", "reported"), [(32, 64), (64, 32), (128, 32)])
def test_a_config_of_another_group_size_is_detected(format, written, reported, tmp_path):
    folder, _ = quantized_of(tmp_path, format, Scheme(written))
    config = load_format(format).config(LayerSchemes(Scheme(reported)), [])
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    message = (
        rf"'{PROJ}' has scales \[16, {128 // written}\] and zeros \[16, {128 // written}\], "
        rf"but its 16 x 128 codes at w4-g{reported} need \[16, {128 // reported}\]"
        r".* Correct group_size in config\.json, or write the checkpoint again"
    )
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder).quantized(PROJ)


def test_a_shape_with_wrong_rows_is_detected(tmp_path):
    folder, _ = quantized_of(tmp_path, "compressed-tensors")
    tensors = load_file(folder / SINGLE)
    tensors[f"{PROJ}.weight_shape"] = torch.tensor([8, 128])
    save_file(tensors, folder / SINGLE)
    with pytest.raises(
        CheckpointError, match=rf"'{PROJ}' has scales .* write the checkpoint again"
    ):
        open_checkpoint(folder).quantized(PROJ)


def test_codes_of_other_bits_than_the_config_says_are_refused(tmp_path):
    folder, _ = quantized_of(tmp_path, "compressed-tensors", Scheme(32, bits=8))
    rewrite_json(
        folder / "config.json",
        quantization_config=load_format("compressed-tensors").config(LayerSchemes(Scheme(32)), []),
    )
    with pytest.raises(CheckpointError, match=rf"'{PROJ}' has scales .* 16 x 256 codes at w4-g32"):
        open_checkpoint(folder).quantized(PROJ)
