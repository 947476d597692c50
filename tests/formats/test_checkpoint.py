"""Reading folders: whole ones as they are, damaged ones with a word on what is wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from salient.core.errors import CheckpointError, ModelError
from salient.core.quant import quantize
from salient.core.scheme import KNOWN, Scheme
from salient.formats import FORMATS, load_format
from salient.formats.checkpoint import INDEX, SINGLE, open_checkpoint, open_piece, read_json
from toy import rewrite_json, save, tiny_model

PROJ = "model.layers.0.mlp.up_proj"
each_format = pytest.mark.parametrize("format", list(FORMATS))


def tensors_of(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(4, 8, generator=generator) for name in ("a", "b", "model.c.weight")}


def folder_of(folder, config=None, tensors=None):
    (folder / "config.json").write_text(json.dumps(config or {}))
    save_file(tensors or tensors_of(), folder / SINGLE)
    return folder


def sharded_of(folder):
    """Two shards: one of 'a' and 'b', one of 'model.c.weight'."""
    tensors = tensors_of()
    (folder / "config.json").write_text("{}")
    last = {"model.c.weight": tensors.pop("model.c.weight")}
    save_file(tensors, folder / "1.safetensors")
    save_file(last, folder / "2.safetensors")
    weight_map = dict.fromkeys(tensors, "1.safetensors") | dict.fromkeys(last, "2.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def remap(folder, **changes):
    rewrite_json(folder / INDEX, weight_map=read_json(folder / INDEX)["weight_map"] | changes)


def quantized_of(folder, format="awq", scheme=None, width=128, **settings):
    """A folder with one quantized linear PROJ [16, width] and one at 16 bits."""
    scheme = scheme or Scheme(32)
    code = load_format(format)
    weight = torch.randn(16, width, generator=torch.Generator().manual_seed(1))
    q = quantize(weight, scheme, name=PROJ, dtype=torch.bfloat16)
    tensors = {f"{PROJ}.{s}": t for s, t in code.pack(q, torch.bfloat16).items()}
    config = {"quantization_config": code.config(scheme, ["lm_head"]) | settings}
    return folder_of(folder, config, tensors | {"lm_head.weight": torch.ones(3, 3)}), q


# Whole folders


@pytest.mark.parametrize("made", [folder_of, sharded_of], ids=["single", "sharded"])
def test_every_tensor_is_read_as_it_is_stored(made, tmp_path):
    checkpoint = open_checkpoint(made(tmp_path))
    assert set(checkpoint.files) == set(tensors_of())
    for name, tensor in tensors_of().items():
        assert torch.equal(checkpoint.tensor(name), tensor)
        assert torch.equal(checkpoint.parameter(name), tensor)


def test_a_folder_that_transformers_shards_is_read_whole(tmp_path):
    model = tiny_model()
    folder = save(model, tmp_path / "model", max_shard_size="100KB")
    assert (folder / INDEX).exists()
    checkpoint = open_checkpoint(folder)
    for name, tensor in model.half().state_dict().items():
        assert torch.equal(checkpoint.tensor(name), tensor)


@pytest.mark.parametrize("made", [folder_of, sharded_of], ids=["single", "sharded"])
def test_bytes_on_disk_count_every_weight_file_once(made, tmp_path):
    checkpoint = open_checkpoint(made(tmp_path))
    sizes = [p.stat().st_size for p in tmp_path.glob("*.safetensors")]
    assert checkpoint.bytes_on_disk == sum(sizes)


def test_files_are_open_only_while_reading(tmp_path):
    checkpoint = open_checkpoint(sharded_of(tmp_path))
    with checkpoint.reading():
        checkpoint.tensor("a")
        with checkpoint.reading():  # reading inside reading keeps the files
            checkpoint.tensor("model.c.weight")
        assert {p.name for p in checkpoint._open} == {"", "1.safetensors", "2.safetensors"}
    assert not checkpoint._open
    checkpoint.tensor("a")
    assert not checkpoint._open


@pytest.mark.parametrize(
    "error", [OSError("mine"), ValueError("mine")], ids=["OSError", "ValueError"]
)
def test_an_error_of_the_readers_own_is_not_blamed_on_the_file(error, tmp_path):
    checkpoint = open_checkpoint(folder_of(tmp_path))

    def reader() -> None:
        with checkpoint.reading():
            checkpoint.tensor("a")
            raise error

    with pytest.raises(type(error), match="mine"):
        reader()


def test_a_model_without_quantization_config_has_no_format(tmp_path):
    checkpoint = open_checkpoint(folder_of(tmp_path))
    assert checkpoint.format is None
    assert checkpoint.scheme is None
    assert not checkpoint.is_quantized("model.c")


@each_format
@pytest.mark.parametrize("scheme", KNOWN, ids=str)
def test_a_quantized_linear_is_read_back_exactly(format, scheme, tmp_path):
    folder, q = quantized_of(tmp_path, format, scheme)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.format == FORMATS[format]
    assert checkpoint.is_quantized(PROJ)
    found = checkpoint.quantized(PROJ)
    assert torch.equal(found.codes, q.codes)
    assert torch.equal(found.zero, q.zero)
    assert torch.equal(checkpoint.parameter(f"{PROJ}.weight"), q.dequantize())


@each_format
def test_a_linear_left_at_16_bits_is_read_as_it_is_stored(format, tmp_path):
    checkpoint = open_checkpoint(quantized_of(tmp_path, format)[0])
    assert not checkpoint.is_quantized("lm_head")
    assert torch.equal(checkpoint.parameter("lm_head.weight"), torch.ones(3, 3))
    with pytest.raises(ModelError, match=rf"no tensor '{PROJ}\.bias'"):
        checkpoint.parameter(f"{PROJ}.bias")


@each_format
def test_the_names_of_parameters_are_those_of_the_16_bit_model(format, tmp_path):
    folder, _ = quantized_of(tmp_path, format)
    assert sorted(open_checkpoint(folder).parameter_names()) == ["lm_head.weight", f"{PROJ}.weight"]


@each_format
def test_a_piece_is_read_under_the_config_it_will_have(format, tmp_path):
    folder, q = quantized_of(tmp_path, format)
    (folder / SINGLE).rename(folder / "block-0.safetensors")
    piece = open_piece(folder / "block-0.safetensors", read_json(folder / "config.json"))
    assert torch.equal(piece.parameter(f"{PROJ}.weight"), q.dequantize())


# Damaged folders


def test_a_folder_that_is_not_there_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere has no config\.json: it is not a Hugging Face"):
        open_checkpoint(tmp_path / "nowhere")


def test_a_folder_without_a_config_is_no_model(tmp_path):
    (folder_of(tmp_path) / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json: it is not a Hugging Face model"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe{}", b"version https://git-lfs"])
def test_a_config_that_is_not_json_is_to_be_fetched_again(content, tmp_path):
    (folder_of(tmp_path) / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json is not readable JSON .* Fetch the file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(("content", "kind"), [("[]", "list"), ("5", "int"), ("null", "NoneType")])
def test_a_config_that_is_no_object_is_to_be_fetched_again(content, kind, tmp_path):
    (folder_of(tmp_path) / "config.json").write_text(content)
    with pytest.raises(ModelError, match=rf"config\.json holds a {kind}, not a JSON .* Fetch"):
        open_checkpoint(tmp_path)


def test_a_folder_without_weights_says_what_it_lacks(tmp_path):
    (folder_of(tmp_path) / SINGLE).unlink()
    words = r"has neither model\.safetensors nor model\.safetensors\.index\.json\."
    with pytest.raises(ModelError, match=words):
        open_checkpoint(tmp_path)


def test_a_pickle_is_named_and_never_opened(tmp_path):
    (folder_of(tmp_path) / SINGLE).unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    words = r"neither .*; 'pytorch_model\.bin' is a pickle, .* not open: convert it to safetensors"
    with pytest.raises(ModelError, match=words):
        open_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    (sharded_of(tmp_path) / "2.safetensors").unlink()
    words = r"names '2\.safetensors', which is not in .* \(1 missing\)\. Fetch the missing shards"
    with pytest.raises(ModelError, match=words):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 40, -1], ids=["all", "in-length", "in-header", "last-byte"])
@pytest.mark.parametrize(
    ("made", "name"), [(folder_of, SINGLE), (sharded_of, "2.safetensors")], ids=["single", "shard"]
)
def test_a_truncated_file_is_named_before_any_tensor_is_read(made, name, kept, tmp_path):
    path = made(tmp_path) / name
    path.write_bytes(path.read_bytes()[:kept])
    words = rf"{name} in .* cannot be read .* truncated or damaged: fetch it again"
    with pytest.raises(ModelError, match=words):
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
    words = r"names '.*secret\.safetensors', which is no file in its own folder\. Do not trust this"
    with pytest.raises(ModelError, match=words):
        open_checkpoint(folder)


def test_an_index_that_lies_about_a_tensor_is_found_out(tmp_path):
    remap(sharded_of(tmp_path), a="2.safetensors")
    words = r"says that 2\.safetensors holds 'a', but it does not\. Fetch that shard again"
    with pytest.raises(ModelError, match=words):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}], ids=str)
def test_an_index_that_names_no_tensor_is_refused(index, tmp_path):
    (sharded_of(tmp_path) / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="index"):
        open_checkpoint(tmp_path)


def test_an_index_that_is_not_json_is_to_be_fetched_again(tmp_path):
    (sharded_of(tmp_path) / INDEX).write_text("<html>")
    with pytest.raises(ModelError, match=r"index\.json is not readable JSON .* Fetch the file"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_is_not_there_is_named_with_its_likeliest_likes(tmp_path):
    checkpoint = open_checkpoint(folder_of(tmp_path))
    words = r"no tensor 'layers\.c\.weight' \(it has 'model\.c\.weight'\)\. .* fetch the folder"
    with pytest.raises(ModelError, match=words):
        checkpoint.tensor("layers.c.weight")
    with pytest.raises(
        ModelError, match=r"no tensor 'z'\. Its config\.json describes another model"
    ):
        checkpoint.tensor("z")


# Damaged quantized folders


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", None])
def test_an_unknown_quantization_is_named_beside_the_known_ones(method, tmp_path):
    folder_of(tmp_path, {"quantization_config": {"quant_method": method, "bits": 4}})
    words = rf"quantized with {method!r}\. Salient reads 16-bit models and: awq, compressed-tensors"
    with pytest.raises(CheckpointError, match=words):
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
    words = rf"no tensor '{PROJ}\.{suffix}': the checkpoint is incomplete, write it again"
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(folder).quantized(PROJ)


@each_format
@pytest.mark.parametrize(("written", "said"), [(32, 64), (64, 32), (128, 32)])
def test_a_config_of_another_group_size_is_found_out(format, written, said, tmp_path):
    folder, _ = quantized_of(tmp_path, format, Scheme(written))
    config = load_format(format).config(Scheme(said), [])
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    words = (
        rf"'{PROJ}' has scales \[16, {128 // written}\] and zeros \[16, {128 // written}\], "
        rf"but its 16 x 128 codes at w4-g{said} need \[16, {128 // said}\]"
        r".* Correct group_size in config\.json, or write the checkpoint again"
    )
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(folder).quantized(PROJ)


def test_a_shape_that_lies_about_its_rows_is_found_out(tmp_path):
    folder, _ = quantized_of(tmp_path, "compressed-tensors")
    tensors = load_file(folder / SINGLE)
    tensors[f"{PROJ}.weight_shape"] = torch.tensor([8, 128])
    save_file(tensors, folder / SINGLE)
    with pytest.raises(
        CheckpointError, match=rf"'{PROJ}' has scales .* write the checkpoint again"
    ):
        open_checkpoint(folder).quantized(PROJ)
