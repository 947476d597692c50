"""AutoAWQ's GEMM layout, against its definition written out cell by cell."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from salient.core.errors import CheckpointError, ShapeError
from salient.core.quant import QuantizedWeight, quantize
from salient.core.scheme import KNOWN, LayerSchemes, Scheme
from salient.formats import FORMATS, find_format, load_format
from salient.formats.autoawq import SUFFIXES, config, pack, read_config, unpack

COLUMN_OF_NIBBLE = [0, 2, 4, 6, 1, 3, 5, 7]


def weight_of(out: int, width: int, scheme: Scheme, seed: int = 0) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, width, generator=generator) + torch.randn(out, 1, generator=generator)
    return quantize(weight, scheme, name="w", dtype=torch.bfloat16)


def random_codes(rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    return torch.randint(16, (rows, columns), generator=generator, dtype=torch.uint8)


def by_definition(codes: Tensor) -> Tensor:
    """int32 [rows, columns/8]: nibble i of word c is column 8c + [0, 2, 4, 6, 1, 3, 5, 7][i]."""
    message = torch.zeros(codes.shape[0], codes.shape[1] // 8, dtype=torch.int64)
    for row in range(message.shape[0]):
        for word in range(message.shape[1]):
            for nibble, column in enumerate(COLUMN_OF_NIBBLE):
                message[row, word] |= int(codes[row, 8 * word + column]) << (4 * nibble)
    return message.to(torch.int32)  # keeps the low 32 bits, so bit 31 is the sign


@pytest.mark.parametrize("scheme", KNOWN, ids=str)
@pytest.mark.parametrize("out", [8, 24, 104])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_unpacking_gives_back_what_was_packed(scheme, out, groups, dtype):
    weight = weight_of(out, groups * scheme.group_size, scheme)
    back = unpack(pack(weight, dtype), scheme)
    assert torch.equal(back.codes, weight.codes)
    assert torch.equal(back.zero, weight.zero)
    assert torch.equal(back.scale, weight.scale)
    assert torch.equal(back.dequantize(), weight.dequantize())


@pytest.mark.parametrize(("out", "width"), [(8, 32), (40, 96), (72, 64)])
def test_every_nibble_is_where_the_layout_says(out, width):
    weight = QuantizedWeight(
        random_codes(out, width),
        torch.ones(out, width // 32),
        random_codes(out, width // 32),
        Scheme(32),
    )
    tensors = pack(weight, torch.float16)
    assert torch.equal(tensors["qweight"], by_definition(weight.codes.t()))
    assert torch.equal(tensors["qzeros"], by_definition(weight.zero.t()))


def test_one_word_by_hand():
    codes = torch.arange(8, dtype=torch.uint8).reshape(8, 1).repeat(1, 32)
    weight = QuantizedWeight(codes, torch.ones(8, 1), codes[:, :1], Scheme(32))
    word = pack(weight, torch.float16)["qzeros"].item()
    assert f"{word:08x}" == "75316420"


def test_the_sign_bit_holds_a_code_like_any_other():
    codes = torch.full((8, 32), 15, dtype=torch.uint8)
    weight = QuantizedWeight(codes, torch.ones(8, 1), codes[:, :1], Scheme(32))
    tensors = pack(weight, torch.float16)
    assert (tensors["qweight"] == -1).all()
    assert (unpack(tensors, Scheme(32)).codes == 15).all()


def test_the_tensors_have_the_shapes_and_types_of_the_layout():
    tensors = pack(weight_of(40, 96, Scheme(32)), torch.bfloat16)
    shapes = {name: (t.dtype, tuple(t.shape), t.is_contiguous()) for name, t in tensors.items()}
    assert shapes == {
        "qweight": (torch.int32, (96, 5), True),
        "qzeros": (torch.int32, (3, 5), True),
        "scales": (torch.float16, (3, 40), True),
    }
    assert tuple(tensors) == SUFFIXES


def test_the_zeros_of_a_symmetric_weight_are_written_out():
    tensors = pack(weight_of(16, 64, Scheme(32, symmetric=True)), torch.float16)
    assert (tensors["qzeros"] == by_definition(torch.full((1, 8), 8, dtype=torch.uint8))).all()


@pytest.mark.parametrize("out", [8, 24, 104])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_file_gives_back_what_was_packed(out, groups, tmp_path):
    dtype, scheme = torch.float16, Scheme(32)
    weight = weight_of(out, groups * 32, scheme)
    save_file(pack(weight, dtype), tmp_path / "w.safetensors")
    back = unpack(load_file(tmp_path / "w.safetensors"), scheme)
    assert torch.equal(back.codes, weight.codes)
    assert torch.equal(back.zero, weight.zero)
    assert torch.equal(back.scale, weight.scale)


# quantization_config


@pytest.mark.parametrize("scheme", [s for s in KNOWN if not s.symmetric], ids=str)
def test_the_scheme_is_read_back_from_the_config(scheme):
    assert read_config(config(LayerSchemes(scheme), ["lm_head"])) == LayerSchemes(scheme)


def test_a_symmetric_scheme_is_read_back_with_its_zeros():
    assert read_config(config(LayerSchemes(Scheme(64, symmetric=True)), [])) == LayerSchemes(
        Scheme(64)
    )


def test_the_skip_list_is_never_empty_so_that_no_reader_makes_its_own():
    assert config(LayerSchemes(Scheme(128)), [])["modules_to_not_convert"] == ["lm_head"]


def test_the_config_says_what_vllm_looks_for():
    assert config(LayerSchemes(Scheme(128)), ["lm_head", "router"]) == {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 128,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": ["lm_head", "router"],
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"w_bit": 4, "q_group_size": 64, "zero_point": True, "version": "GEMM"},
        {"bits": 4, "group_size": 64, "zero_point": True},
        {"bits": 4, "group_size": 64, "format": "gemm", "sym": True, "desc_act": False},
    ],
    ids=["awq-of-old", "without-version", "transformers-5"],
)
def test_the_configs_of_other_writers_are_read(settings):
    assert read_config(settings | {"quant_method": "awq"}) == LayerSchemes(Scheme(64))


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ({"version": "gemv"}, r"version='gemv', bits=4, group_size=64"),
        ({"version": "EXLLAMA"}, r"version='exllama'"),
        ({"bits": 8}, r"version='gemm', bits=8"),
        ({"bits": None}, r"bits=None"),
        ({"group_size": None}, r"group_size=None"),
    ],
    ids=str,
)
def test_another_layout_is_refused_with_what_it_says_and_what_is_read(change, result):
    message = (
        result + r".* reads AutoAWQ checkpoints of version 'gemm', 'gemv', .* with 4 bits; conv"
    )
    with pytest.raises(CheckpointError, match=message):
        read_config(config(LayerSchemes(Scheme(64)), []) | change)


@pytest.mark.parametrize("group_size", [-1, 16, 256])
def test_a_group_size_that_is_not_known_lists_the_known_ones(group_size):
    with pytest.raises(ShapeError, match=rf"'w4-g{group_size}'\. Known schemes: w4-g128"):
        read_config(config(LayerSchemes(Scheme(64)), []) | {"group_size": group_size})


# The table of formats


WRITTEN = [row for row in FORMATS.values() if row.writers]


def test_an_unknown_format_lists_the_known_ones():
    message = r"Unknown format 'gptq'\. Known formats: awq, compressed-tensors\."
    with pytest.raises(CheckpointError, match=message):
        find_format("gptq", "quantize")
    message = r"Unknown format 'exl2'\. Known formats: awq, compressed-tensors, gptq"
    with pytest.raises(CheckpointError, match=message):
        load_format("exl2")


@pytest.mark.parametrize("row", WRITTEN, ids=lambda row: row.name)
def test_every_format_has_the_same_messages(row):
    code = load_format(row.name)
    assert row.suffix in code.SUFFIXES
    assert code.config(LayerSchemes(Scheme(64)), [])["quant_method"] == row.quant_method
    tensors = code.pack(weight_of(16, 128, Scheme(64)), torch.float16)
    assert set(tensors) == set(code.SUFFIXES)


@pytest.mark.parametrize("scheme", KNOWN, ids=str)
def test_all_written_formats_hold_the_same_weight(scheme):
    weight = weight_of(16, 128, scheme)
    backs = [
        load_format(name).unpack(load_format(name).pack(weight, torch.bfloat16), scheme)
        for name in (row.name for row in WRITTEN)
    ]
    for back in backs[1:]:
        assert torch.equal(backs[0].dequantize(), back.dequantize())


@pytest.mark.parametrize(
    "schemes",
    [LayerSchemes(Scheme(64), {"model.a": Scheme(32)}), LayerSchemes(Scheme(64, bits=8))],
    ids=str,
)
def test_schemes_that_differ_or_have_eight_bits_are_refused_with_the_format_that_has_them(schemes):
    with pytest.raises(ShapeError, match=rf"not {schemes}\. .* --format compressed-tensors"):
        config(schemes, [])
