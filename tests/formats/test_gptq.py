"""GPTQ's layout: zeros of both versions, reordered groups, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from salient.core.errors import CheckpointError, ShapeError
from salient.core.packing import WORD_BITS
from salient.core.quant import quantize
from salient.core.scheme import STORED, LayerSchemes, Scheme
from salient.formats import gptq
from salient.formats.checkpoint import open_checkpoint

NAME = "model.layers.0.self_attn.q_proj"


def random_weight(scheme: Scheme, out: int = 64, width: int = 256):
    generator = torch.Generator().manual_seed(7)
    return quantize(torch.randn(out, width, generator=generator), scheme, name=NAME)


def folder_of(tmp_path, tensors, settings):
    save_file({f"{NAME}.{part}": t for part, t in tensors.items()}, tmp_path / "model.safetensors")
    config = {"quantization_config": {"quant_method": "gptq"} | settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return open_checkpoint(tmp_path)


def packed_one_by_one(rows: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [rows, columns] -> int32 [rows, words] by shifts, without the packing code."""
    per = WORD_BITS // bits
    packed = torch.zeros(len(rows), rows.shape[1] // per, dtype=torch.int64)
    for index in range(per):
        packed |= rows[:, index::per].long() << (bits * index)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


@pytest.mark.parametrize("scheme", STORED, ids=str)
def test_unpack_is_the_exact_inverse_of_pack(scheme):
    weight = random_weight(scheme)
    read = gptq.unpack(gptq.pack(weight, torch.float16), scheme)
    for part in ("codes", "scale", "zero"):
        assert torch.equal(getattr(read, part), getattr(weight, part))


@pytest.mark.parametrize("version", ["gptq", "gptq_v2", None])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("order", ["neighbours", "desc_act", "absent"])
def test_weights_equal_the_direct_computation(version, bits, order, tmp_path):
    generator = torch.Generator().manual_seed(bits)
    out, width, size = 32, 128, 32
    codes = torch.randint(0, 2**bits, (out, width), generator=generator).byte()
    zeros = torch.randint(1, 2**bits, (out, width // size), generator=generator).byte()
    scales = torch.rand(out, width // size, generator=generator).half()
    groups = torch.arange(width) // size
    if order == "desc_act":
        groups = groups[torch.randperm(width, generator=generator)]
    stored = zeros if version == "gptq_v2" else zeros - 1
    tensors = {
        "qweight": packed_one_by_one(codes, bits).t().contiguous(),
        "qzeros": packed_one_by_one(stored.t().contiguous(), bits),
        "scales": scales.t().contiguous(),
    }
    if order != "absent":
        tensors["g_idx"] = groups.int()
    settings = {"bits": bits, "group_size": size, "sym": False, "desc_act": order == "desc_act"}
    settings |= {"checkpoint_format": version} if version else {}
    checkpoint = folder_of(tmp_path, tensors, settings)
    expected = (codes.float() - zeros.float()[:, groups]) * scales.float()[:, groups]
    assert checkpoint.parameter_names() == [f"{NAME}.weight"]
    assert torch.equal(checkpoint.parameter(f"{NAME}.weight"), expected)
    if order != "desc_act" and bits != 2:
        assert torch.equal(checkpoint.quantized(NAME).dequantize(), expected)


def test_a_zero_of_0_is_read_back_from_v1(tmp_path):
    tensors = gptq.pack(random_weight(Scheme(32)), torch.float16)
    ones = torch.tensor(0x11111111, dtype=torch.int32)
    tensors["qzeros"] = torch.arange(0, 8 * 8, dtype=torch.int32).reshape(8, 8)
    exact = gptq.unpack(tensors, Scheme(32)).zero
    v1 = tensors | {"qzeros": tensors["qzeros"] - ones}
    checkpoint = folder_of(tmp_path, v1, {"bits": 4, "group_size": 32, "sym": False})
    assert torch.equal(checkpoint.quantized(NAME).zero, exact)


def test_reordered_groups_have_values_and_no_codes(tmp_path):
    tensors = gptq.pack(random_weight(Scheme(32)), torch.float16)
    tensors["g_idx"] = tensors["g_idx"].flip(0)
    checkpoint = folder_of(
        tmp_path,
        tensors,
        {"bits": 4, "group_size": 32, "sym": False, "checkpoint_format": "gptq_v2"},
    )
    assert checkpoint.parameter(f"{NAME}.weight").shape == (64, 256)
    with pytest.raises(CheckpointError, match=r"q_proj.*reordered \(desc_act\).*without desc_act"):
        checkpoint.quantized(NAME)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": torch.ones(8, 32, dtype=torch.float16)}, r"q_proj.* scales float16 \[8, 32\]"),
        ({"qzeros": torch.ones(8, 4, dtype=torch.int32)}, r"qzeros int32 \[8, 4\]"),
        ({"qweight": torch.ones(32, 64)}, r"qweight float32 \[32, 64\]"),
        ({"g_idx": torch.full((256,), 8, dtype=torch.int32)}, "g_idx names groups"),
        ({"g_idx": torch.zeros(3, dtype=torch.int32)}, r"g_idx int32 \[3\]"),
    ],
)
def test_tensors_of_other_shapes_and_types_are_refused(change, message, tmp_path):
    tensors = gptq.pack(random_weight(Scheme(32)), torch.float16) | change
    checkpoint = folder_of(tmp_path, tensors, {"bits": 4, "group_size": 32, "sym": False})
    with pytest.raises(CheckpointError, match=message):
        checkpoint.parameter(f"{NAME}.weight")


def test_another_group_size_or_missing_tensor_is_refused(tmp_path):
    tensors = gptq.pack(random_weight(Scheme(32)), torch.float16)
    checkpoint = folder_of(tmp_path, tensors, {"bits": 4, "group_size": 64, "sym": False})
    with pytest.raises(CheckpointError, match="groups of 32, not of 64"):
        checkpoint.parameter(f"{NAME}.weight")
    del tensors["scales"]
    checkpoint = folder_of(tmp_path, tensors, {"bits": 4, "group_size": 32, "sym": False})
    with pytest.raises(CheckpointError, match=r"no tensor '.*q_proj\.scales'"):
        checkpoint.parameter(f"{NAME}.weight")


def test_symmetric_weights_with_zeros_off_the_middle_are_refused(tmp_path):
    tensors = gptq.pack(random_weight(Scheme(32, symmetric=True)), torch.float16)
    settings = {"bits": 4, "group_size": 32, "sym": True, "checkpoint_format": "gptq_v2"}
    checkpoint = folder_of(tmp_path, tensors, settings)
    with pytest.raises(CheckpointError, match="zeros of 7 to 7, but sym means 8"):
        checkpoint.quantized(NAME)


@pytest.mark.parametrize("settings", [{"bits": 3}, {"bits": 4, "checkpoint_format": "marlin"}])
def test_other_bits_and_formats_are_refused_by_name(settings):
    with pytest.raises(CheckpointError, match=r"Salient reads GPTQ checkpoints of 2, 4 or 8 bits"):
        gptq.read_config(settings)


def test_outputs_of_odd_counts_are_refused():
    with pytest.raises(ShapeError, match="8 inputs and outputs a word"):
        gptq.pack(random_weight(Scheme(32), out=12), torch.float16)


def test_a_config_of_several_schemes_is_refused():
    with pytest.raises(ShapeError, match="one scheme for all linears"):
        gptq.config(LayerSchemes(Scheme(32), {"a": Scheme(64)}), [])
