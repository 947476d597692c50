"""AutoAWQ's other layouts, packed as AutoAWQ packs them (its modules/linear, step by step)."""

import json

import pytest
import torch
from safetensors.torch import save_file

from salient.core.errors import CheckpointError
from salient.core.quant import quantize
from salient.core.scheme import Scheme
from salient.formats.checkpoint import open_checkpoint

NAME = "model.layers.0.mlp.up_proj"


def weight_of(scheme: Scheme, out: int = 64, width: int = 256):
    generator = torch.Generator().manual_seed(5)
    return quantize(torch.randn(out, width, generator=generator), scheme, name=NAME)


def int32_of(fields: torch.Tensor) -> torch.Tensor:
    """[rows, 8 n] -> int32 [rows, n], the first field lowest."""
    eights = fields.long().reshape(len(fields), -1, 8)
    packed = (eights << (4 * torch.arange(8))).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


def gemv(weight):
    groups = weight.scale.shape[1]
    padding = (0, -groups % (8 * {128: 1, 64: 2, 32: 4}[weight.scheme.group_size]))
    pad = torch.nn.functional.pad
    return {
        "qweight": int32_of(weight.codes),
        "qzeros": int32_of(pad(weight.zero, padding)),
        "scales": pad(weight.scale, padding).half(),
    }


def gemv_fast(weight):
    out, width = weight.codes.shape
    rows = weight.codes.int().reshape(out, width // 32, 4, 4, 2).permute(0, 1, 3, 2, 4)
    rows = rows.reshape(out, width // 32, 4, 4, 2).transpose(-1, -2).reshape(out, width)
    fours = rows.reshape(out // 4, 4, width // 64, 64).transpose(1, 2)
    fours = fours.reshape(out // 4, width // 64, 64, 4)
    packed = (fours << (4 * torch.arange(4))).sum(-1).reshape(out // 4, width)
    packed = torch.where(packed >= 2**15, packed - 2**16, packed).to(torch.int16)
    product = -(weight.scale * weight.zero).half()
    pad = (0, 0, 0, 5)
    return {
        "qweight": packed,
        "scales": torch.nn.functional.pad(weight.scale.t().half(), pad),
        "qzeros": torch.nn.functional.pad(product.t(), pad),
    }


def marlin(weight):
    out, width = weight.codes.shape
    order = []
    for i in range(32):
        own = [
            16 * row + i // 4 + 8 * block
            for block in (0, 1)
            for row in (2 * (i % 4), 2 * (i % 4) + 1, 2 * (i % 4 + 4), 2 * (i % 4 + 4) + 1)
        ]
        for j in range(4):
            order += [place + 256 * j for place in own]
    order = torch.tensor(order).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].flatten()
    tiles = weight.codes.t().reshape(width // 16, 16, out // 16, 16).permute(0, 2, 1, 3)
    fields = tiles.reshape(-1, 1024)[:, order].reshape(width // 16, out * 16)
    scale_order = [i + 8 * j for i in range(8) for j in range(8)]
    scales = weight.scale.t().reshape(-1, 64)[:, scale_order].reshape(-1, out)
    return {"qweight": int32_of(fields), "scales": scales.half()}


LAYOUTS = {"gemv": gemv, "gemv_fast": gemv_fast, "marlin": marlin}
each_layout = pytest.mark.parametrize("version", LAYOUTS)


def opened(tmp_path, tensors, version, group_size):
    stored = {f"{NAME}.{part}": t.contiguous() for part, t in tensors.items()}
    save_file(stored, tmp_path / "model.safetensors")
    settings = {"quant_method": "awq", "version": version, "bits": 4, "group_size": group_size}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    return open_checkpoint(tmp_path)


@each_layout
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_codes_scales_and_zeros_are_read_exactly(version, group_size, tmp_path):
    weight = weight_of(Scheme(group_size, symmetric=version == "marlin"))
    checkpoint = opened(tmp_path, LAYOUTS[version](weight), version, group_size)
    read = checkpoint.quantized(NAME)
    assert read.scheme == weight.scheme
    for part in ("codes", "scale", "zero"):
        assert torch.equal(getattr(read, part), getattr(weight, part))
    value = checkpoint.parameter(f"{NAME}.weight")
    if version == "gemv_fast":  # its own products of scale and zero, in float16
        product = (weight.scale * weight.zero).half().float().repeat_interleave(group_size, 1)
        scale = weight.scale.repeat_interleave(group_size, 1)
        assert torch.equal(value, weight.codes.float() * scale - product)
    else:
        assert torch.equal(value, weight.dequantize())


@each_layout
@pytest.mark.parametrize("part", ["qweight", "scales"])
def test_cut_and_missing_tensors_are_refused_by_name(version, part, tmp_path):
    weight = weight_of(Scheme(64, symmetric=version == "marlin"))
    tensors = LAYOUTS[version](weight)
    cut = opened(tmp_path, tensors | {part: tensors[part][:3, :9]}, version, 64)
    with pytest.raises(CheckpointError, match="up_proj"):
        cut.parameter(f"{NAME}.weight")
    rest = {name: tensor for name, tensor in tensors.items() if name != part}
    missing = opened(tmp_path, rest, version, 64)
    if part == "scales":
        with pytest.raises(CheckpointError, match=r"no tensor '.*up_proj\.scales'"):
            missing.parameter(f"{NAME}.weight")


def test_zeros_that_are_no_products_have_values_and_no_codes(tmp_path):
    tensors = gemv_fast(weight_of(Scheme(64)))
    tensors["qzeros"] = tensors["qzeros"] + 0.01
    checkpoint = opened(tmp_path, tensors, "gemv_fast", 64)
    assert checkpoint.parameter(f"{NAME}.weight").shape == (64, 256)
    with pytest.raises(CheckpointError, match="no products of scales and zeros"):
        checkpoint.quantized(NAME)


def test_another_version_is_refused_with_those_that_are_read(tmp_path):
    with pytest.raises(CheckpointError, match=r"version='exllama'.*'gemv_fast' and 'marlin'"):
        opened(tmp_path, gemv(weight_of(Scheme(64))), "exllama", 64)
