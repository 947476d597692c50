"""compressed-tensors' pack-quantized layout, against its definition written out cell by cell."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from salient.core.errors import CheckpointError, SalientError
from salient.core.quant import QuantizedWeight, quantize
from salient.core.scheme import STORED, LayerSchemes, Scheme, stacked_targets
from salient.formats.compressed_tensors import SUFFIXES, config, pack, read_config, unpack

ODD = [1, 7, 8, 9, 12, 100]


def weight_of(out: int, width: int, scheme: Scheme, dtype: torch.dtype) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(out)
    weight = torch.randn(out, width, generator=generator) + torch.randn(out, 1, generator=generator)
    return quantize(weight, scheme, name="w", dtype=dtype)


def random_codes(rows: int, columns: int, bits: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    return torch.randint(2**bits, (rows, columns), generator=generator, dtype=torch.uint8)


def by_definition(codes: Tensor, bits: int = 4) -> Tensor:
    """int32 [rows, words]: part i of word c is column c * 32/bits + i; what is over is 0."""
    a_word = 32 // bits
    message = torch.zeros(codes.shape[0], -(-codes.shape[1] // a_word), dtype=torch.int64)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            part = int(codes[row, column]) << (bits * (column % a_word))
            message[row, column // a_word] |= part
    return message.to(torch.int32)  # keeps the low 32 bits, so bit 31 is the sign


@pytest.mark.parametrize("scheme", STORED, ids=str)
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


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("out", ODD)
def test_every_code_is_where_the_layout_says(out, bits):
    codes, zeros = random_codes(out, 96, bits), random_codes(out, 3, bits)
    weight = QuantizedWeight(codes, torch.ones(out, 3), zeros, Scheme(32, bits=bits))
    tensors = pack(weight, torch.float16)
    assert torch.equal(tensors["weight_packed"], by_definition(codes, bits))
    assert torch.equal(tensors["weight_zero_point"], by_definition(zeros.t(), bits).t())


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


@pytest.mark.parametrize("scheme", STORED, ids=str)
def test_the_scheme_is_read_back_from_the_config(scheme):
    assert read_config(config(LayerSchemes(scheme), [])) == LayerSchemes(scheme)


def test_the_head_is_ignored_in_addition_to_skipped_linears():
    assert config(LayerSchemes(Scheme(128)), ["model.a"])["ignore"] == ["lm_head", "model.a"]
    assert config(LayerSchemes(Scheme(128)), ["lm_head"])["ignore"] == ["lm_head"]


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
    assert read_config(foreign()) == LayerSchemes(Scheme(64, symmetric=True))
    assert read_config(foreign(symmetric=False)) == LayerSchemes(Scheme(64))


def test_weights_are_symmetric_unless_the_config_says_otherwise():
    settings = foreign()
    del settings["config_groups"]["group_0"]["weights"]["symmetric"]
    assert read_config(settings) == LayerSchemes(Scheme(64, symmetric=True))


REFUSED = r".* Salient reads .* pack-quantized weights of 4 or 8 bits in groups of 128, 64, 32"


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ({"num_bits": 6}, r"\('pack-quantized', 6, 'int', 'group'\), group size 64"),
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


def test_each_linear_has_the_scheme_of_its_own_group():
    fine, wide = Scheme(32), Scheme(64, symmetric=True, bits=8)
    schemes = LayerSchemes(Scheme(128), {"model.a": fine, "model.b": wide, "model.c": fine})
    settings = config(schemes, [])
    targets = [group["targets"] for group in settings["config_groups"].values()]
    assert targets == [["Linear"], ["model.a", "model.c"], ["model.b"]]
    back = read_config(settings)
    assert back == schemes
    assert [back.of(f"model.{name}") for name in "abcd"] == [fine, wide, fine, Scheme(128)]
    assert str(back) == "w4-g128, w4-g32, w8-g64-sym"


def test_the_experts_of_a_block_are_one_target():
    own = {f"model.layers.3.mlp.experts.{i}.up_proj": Scheme(32) for i in range(4)}
    (target,) = targets = stacked_targets(own)
    schemes = LayerSchemes(Scheme(128), targets)
    assert target == r"re:.*layers\.3\.mlp\.experts(\.|$)"
    assert schemes.of("language_model.layers.3.mlp.experts.7.down_proj") == Scheme(32)
    assert schemes.of("model.layers.30.mlp.experts.7.down_proj") == Scheme(128)
    assert read_config(config(schemes, [])) == schemes


def test_two_groups_for_every_linear_are_refused():
    settings = foreign()
    settings["config_groups"]["group_1"] = foreign(group_size=32)["config_groups"]["group_0"]
    with pytest.raises(CheckpointError, match=r"w4-g64-sym and w4-g32-sym: correct their targets"):
        read_config(settings)


def test_no_group_is_refused():
    with pytest.raises(CheckpointError, match="has 0 config_groups" + REFUSED):
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
    assert read_config(foreign(actorder="weight")) == LayerSchemes(Scheme(64, symmetric=True))


@pytest.mark.parametrize("size", ["none", "missing"])
def test_groups_without_a_size_are_refused_with_our_message(size):
    settings = foreign(group_size=None)
    if size == "missing":
        del settings["config_groups"]["group_0"]["weights"]["group_size"]
    with pytest.raises(SalientError):
        read_config(settings)
