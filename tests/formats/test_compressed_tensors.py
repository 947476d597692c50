"""compressed-tensors' pack-quantized layout, against its definition written out cell by cell."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from salient.core.errors import CheckpointError, SalientError
from salient.core.quant import QuantizedWeight, quantize
from salient.core.scheme import KNOWN, Scheme
from salient.formats.compressed_tensors import SUFFIXES, config, pack, read_config, unpack

ODD = [1, 7, 8, 9, 12, 100]


def weight_of(out: int, width: int, scheme: Scheme, dtype: torch.dtype) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(out)
    weight = torch.randn(out, width, generator=generator) + torch.randn(out, 1, generator=generator)
    return quantize(weight, scheme, name="w", dtype=dtype)


def random_codes(rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    return torch.randint(16, (rows, columns), generator=generator, dtype=torch.uint8)


def by_definition(codes: Tensor) -> Tensor:
    """int32 [rows, ceil(columns/8)]: nibble i of word c is column 8c + i; what is over is 0."""
    message = torch.zeros(codes.shape[0], -(-codes.shape[1] // 8), dtype=torch.int64)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            message[row, column // 8] |= int(codes[row, column]) << (4 * (column % 8))
    return message.to(torch.int32)  # keeps the low 32 bits, so bit 31 is the sign


@pytest.mark.parametrize("scheme", KNOWN, ids=str)
@pytest.mark.parametrize("out", ODD)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_unpacking_gives_back_what_was_packed(scheme, out, groups, dtype):
    weight = weight_of(out, groups * scheme.group_size, scheme, dtype)
    back = unpack(pack(weight, dtype), scheme)
    assert torch.equal(back.codes, weight.codes)
    assert torch.equal(back.zero, weight.zero)
    assert torch.equal(back.scale, weight.scale)
    assert torch.equal(back.dequantize(), weight.dequantize())


@pytest.mark.parametrize("out", ODD)
def test_every_nibble_is_where_the_layout_says(out):
    weight = QuantizedWeight(
        random_codes(out, 96), torch.ones(out, 3), random_codes(out, 3), Scheme(32)
    )
    tensors = pack(weight, torch.float16)
    assert torch.equal(tensors["weight_packed"], by_definition(weight.codes))
    assert torch.equal(tensors["weight_zero_point"], by_definition(weight.zero.t()).t())


def test_one_word_by_hand():
    codes = torch.arange(8, dtype=torch.uint8).repeat(1, 4)
    weight = QuantizedWeight(codes, torch.ones(1, 1), codes[:, :1], Scheme(32))
    assert f"{pack(weight, torch.float16)['weight_packed'][0, 0].item():08x}" == "76543210"


def test_the_sign_bit_holds_a_code_like_any_other():
    codes = torch.full((8, 32), 15, dtype=torch.uint8)
    weight = QuantizedWeight(codes, torch.ones(8, 1), codes[:, :1], Scheme(32))
    tensors = pack(weight, torch.float16)
    assert (tensors["weight_packed"] == -1).all()
    assert (unpack(tensors, Scheme(32)).codes == 15).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("out", "message"), [(40, 5), (12, 2)])
def test_the_tensors_have_the_shapes_and_types_of_the_layout(dtype, out, message):
    tensors = pack(weight_of(out, 96, Scheme(32), dtype), dtype)
    shapes = {name: (t.dtype, tuple(t.shape), t.is_contiguous()) for name, t in tensors.items()}
    assert shapes == {
        "weight_packed": (torch.int32, (out, 12), True),
        "weight_scale": (dtype, (out, 3), True),
        "weight_shape": (torch.int64, (2,), True),
        "weight_zero_point": (torch.int32, (message, 3), True),
    }
    assert tensors["weight_shape"].tolist() == [out, 96]
    assert set(tensors) == set(SUFFIXES)


def test_a_symmetric_weight_has_no_zero_points():
    scheme = Scheme(32, symmetric=True)
    tensors = pack(weight_of(16, 64, scheme, torch.float16), torch.float16)
    assert "weight_zero_point" not in tensors
    assert (unpack(tensors, scheme).zero == 8).all()


@pytest.mark.parametrize("out", ODD)
@pytest.mark.parametrize("groups", [1, 3])
def test_a_file_gives_back_what_was_packed(out, groups, tmp_path):
    dtype, scheme = torch.float16, Scheme(32)
    weight = weight_of(out, groups * 32, scheme, dtype)
    save_file(pack(weight, dtype), tmp_path / "w.safetensors")
    back = unpack(load_file(tmp_path / "w.safetensors"), scheme)
    assert torch.equal(back.codes, weight.codes)
    assert torch.equal(back.zero, weight.zero)
    assert torch.equal(back.scale, weight.scale)


# quantization_config


@pytest.mark.parametrize("scheme", KNOWN, ids=str)
def test_the_scheme_is_read_back_from_the_config(scheme):
    assert read_config(config(scheme, [])) == scheme


def test_the_head_is_ignored_in_addition_to_skipped_linears():
    assert config(Scheme(128), ["model.a"])["ignore"] == ["lm_head", "model.a"]
    assert config(Scheme(128), ["lm_head"])["ignore"] == ["lm_head"]


def foreign(**changes):
    """What llm-compressor writes, with some of its weights' fields changed."""
    weights = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": 64,
        "num_bits": 4,
        "observer": "minmax",
        "strategy": "group",
        "symmetric": True,
        "type": "int",
    }
    group = {
        "input_activations": None,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": weights | changes,
    }
    return {
        "config_groups": {"group_0": group},
        "format": "pack-quantized",
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
    }


def test_the_configs_of_other_writers_are_read():
    assert read_config(foreign()) == Scheme(64, symmetric=True)
    assert read_config(foreign(symmetric=False)) == Scheme(64)


def test_weights_are_symmetric_unless_the_config_says_otherwise():
    settings = foreign()
    del settings["config_groups"]["group_0"]["weights"]["symmetric"]
    assert read_config(settings) == Scheme(64, symmetric=True)


REFUSED = r".* reads compressed-tensors checkpoints with one pack-quantized group .* W4A16_ASYM"


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ({"num_bits": 8}, r"1 groups .* \('pack-quantized', 8, 'int', 'group'\)"),
        ({"type": "float"}, r"\('pack-quantized', 4, 'float', 'group'\)"),
        ({"strategy": "channel", "group_size": None}, r"'int', 'channel'\)"),
    ],
    ids=str,
)
def test_other_weights_are_refused_with_what_they_are_and_what_is_read(change, result):
    with pytest.raises(CheckpointError, match=result + REFUSED):
        read_config(foreign(**change))


def test_another_storage_is_refused():
    with pytest.raises(CheckpointError, match=r"\('nvfp4-pack-quantized', 4" + REFUSED):
        read_config(foreign() | {"format": "nvfp4-pack-quantized"})


def test_two_groups_are_refused():
    settings = foreign()
    settings["config_groups"]["group_1"] = copy.deepcopy(settings["config_groups"]["group_0"])
    with pytest.raises(CheckpointError, match="has 2 groups" + REFUSED):
        read_config(settings)


def test_no_group_is_refused():
    with pytest.raises(CheckpointError, match="has 0 groups" + REFUSED):
        read_config(foreign() | {"config_groups": {}})


def test_quantized_activations_are_refused():
    settings = foreign()
    settings["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "type": "int"}
    with pytest.raises(CheckpointError, match="16-bit activations"):
        read_config(settings)


def test_reordered_groups_are_refused():
    # their weight_g_idx says which group a column is of; read without it, the weight is another
    with pytest.raises(CheckpointError):
        read_config(foreign(actorder="group"))


def test_an_order_of_rounding_that_leaves_the_groups_is_read():
    assert read_config(foreign(actorder="weight")) == Scheme(64, symmetric=True)


@pytest.mark.parametrize("size", ["none", "missing"])
def test_groups_without_a_size_are_refused_with_our_message(size):
    settings = foreign(group_size=None)
    if size == "missing":
        del settings["config_groups"]["group_0"]["weights"]["group_size"]
    with pytest.raises(SalientError):
        read_config(settings)
