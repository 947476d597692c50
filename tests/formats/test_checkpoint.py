"""Reading whole folders: every tensor as it is stored, every code as it was written."""

import pytest
import torch

from helpers.checkpoints import PROJ, each_format, folder_of, quantized_of, sharded_of, tensors_of
from helpers.toy_models import save, tiny_model
from salient.core.errors import ModelError
from salient.core.model_files import INDEX, SINGLE, read_json
from salient.core.scheme import KNOWN
from salient.formats import FORMATS
from salient.formats.checkpoint import open_checkpoint, open_piece


@pytest.mark.parametrize("built", [folder_of, sharded_of], ids=["single", "sharded"])
def test_every_tensor_is_read_as_it_is_stored(built, tmp_path):
    checkpoint = open_checkpoint(built(tmp_path))
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


@pytest.mark.parametrize("built", [folder_of, sharded_of], ids=["single", "sharded"])
def test_bytes_on_disk_count_every_weight_file_once(built, tmp_path):
    checkpoint = open_checkpoint(built(tmp_path))
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
    result = checkpoint.quantized(PROJ)
    assert torch.equal(result.codes, q.codes)
    assert torch.equal(result.zero, q.zero)
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
