"""Layouts that have values only: each against the direct computation on seeded tensors."""

import json

import pytest
import torch
from safetensors.torch import save_file

from helpers.toy_models import rewrite_json
from salient.core.errors import CheckpointError
from salient.formats.checkpoint import open_checkpoint

P = "model.layers.0.mlp.up_proj.weight"
M = P.removesuffix(".weight")
FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
CT = {"quant_method": "compressed-tensors"}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def opened(tmp_path, tensors, settings):
    rest = {"model.norm.weight": torch.ones(8)}
    save_file(
        {n: t.contiguous() for n, t in (tensors | rest).items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    return open_checkpoint(tmp_path)


def fp8(*shape) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded()).to(torch.float8_e4m3fn)


def group(**weights) -> dict[str, object]:
    return CT | {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def tensor_case():
    w, s = fp8(32, 48), torch.tensor([0.013]).bfloat16()
    settings = group(num_bits=8, type="float", strategy="tensor")
    return (
        {P: w, f"{P}_scale": s, f"{M}.input_scale": s.clone()},
        settings,
        w.float() * s.float(),
        8,
    )


def channel_case():
    w, s = fp8(32, 48), torch.rand(32, 1, generator=seeded()).bfloat16()
    settings = group(num_bits=8, type="float", strategy="channel")
    return {P: w, f"{P}_scale": s}, settings, w.float() * s.float(), 8


def block_case():
    """Blocks of 16 x 32 that do not divide the matrix."""
    w, s = fp8(40, 72), torch.rand(3, 3, generator=seeded())
    rows, columns = torch.arange(40) // 16, torch.arange(72) // 32
    grid = s[rows][:, columns]
    settings = {"quant_method": "fp8", "weight_block_size": [16, 32]}
    return {P: w, f"{P}_scale_inv": s}, settings, w.float() * grid, 8


def e8m0_case():
    w, s = fp8(32, 64), torch.randint(120, 130, (32, 2), generator=seeded()).byte()
    grid = (2.0 ** (s.float() - 127)).repeat_interleave(32, 1)
    settings = group(num_bits=8, type="float", strategy="group", group_size=32)
    return {P: w, f"{P}_scale": s}, settings, w.float() * grid, 8


def int8_case():
    w = torch.randint(-128, 128, (32, 48), generator=seeded()).to(torch.int8)
    s = torch.rand(32, 1, generator=seeded()).bfloat16()
    z = torch.randint(-100, 100, (32, 1), generator=seeded()).to(torch.int8)
    tensors = {P: w, f"{P}_scale": s, f"{P}_zero_point": z}
    settings = group(num_bits=8, type="int", strategy="channel", symmetric=False)
    return tensors, settings, (w.float() - z.float()) * s.float(), 8


def fp4_pair(rows: int, width: int):
    packed = torch.randint(0, 256, (rows, width // 2), generator=seeded()).byte()
    low, high = FP4[(packed & 15).long()], FP4[(packed >> 4).long()]
    return packed, torch.stack((low, high), -1).flatten(1)


def nvfp4_case():
    packed, values = fp4_pair(32, 64)
    s, g = fp8(32, 4).abs(), torch.tensor([321.5])
    grid = (s.float() / g).repeat_interleave(16, 1)
    tensors = {f"{P}_packed": packed, f"{P}_scale": s, f"{P}_global_scale": g}
    return tensors, group(num_bits=4, type="float", group_size=16), values * grid, 4


def modelopt_case():
    packed, values = fp4_pair(32, 64)
    s, g = fp8(32, 4).abs(), torch.tensor(0.0021)
    grid = (s.float() * g).repeat_interleave(16, 1)
    tensors = {P: packed, f"{P}_scale": s, f"{P}_scale_2": g}
    return tensors, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, values * grid, 4


def mxfp4_case():
    packed, values = fp4_pair(32, 64)
    s = torch.randint(110, 130, (32, 2), generator=seeded()).byte()
    grid = (2.0 ** (s.float() - 127)).repeat_interleave(32, 1)
    tensors = {f"{P}_packed": packed, f"{P}_scale": s}
    return tensors, group(num_bits=4, type="float", group_size=32), values * grid, 4


def packed_case(bits: int, *, reordered: bool):
    out, width, per = 24, 96, 32 // bits
    codes = torch.randint(0, 2**bits, (out, width), generator=seeded())
    s = torch.rand(out, 3, generator=seeded()).bfloat16()
    padded = torch.nn.functional.pad(codes, (0, -width % per)).reshape(out, -1, per)
    packed = (padded << (torch.arange(per) * bits)).sum(-1)
    packed = torch.where(packed >= 2**31, packed - 2**32, packed).int()
    groups = torch.arange(width) // 32
    tensors = {f"{P}_packed": packed, f"{P}_scale": s, f"{P}_shape": torch.tensor([out, width])}
    if reordered:
        groups = groups.flip(0)
        tensors[f"{P}_g_idx"] = groups.int()
    weights = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": 32}
    settings = group(**weights, actorder="group" if reordered else None)
    settings |= {"format": "pack-quantized"}
    return tensors, settings, (codes.float() - 2 ** (bits - 1)) * s.float()[:, groups], bits


def nf4_case(*, nested: bool):
    packed = torch.randint(0, 256, (32 * 64 // 2, 1), generator=seeded()).byte()
    table = torch.randn(16, generator=seeded()).sort().values
    codes = torch.stack((packed >> 4, packed & 15), -1).flatten().long()
    absmax = torch.rand(32, generator=seeded())
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [32, 64]}
    tensors = {P: packed, f"{P}.quant_map": table, f"{P}.absmax": absmax}
    if nested:
        small = torch.randint(0, 256, (32,), generator=seeded()).byte()
        maps, own = torch.randn(256, generator=seeded()), torch.rand(2, generator=seeded())
        state |= {"nested_blocksize": 16, "nested_dtype": "float32", "nested_offset": 0.25}
        tensors |= {f"{P}.absmax": small, f"{P}.nested_quant_map": maps, f"{P}.nested_absmax": own}
        absmax = maps[small.long()] * own.repeat_interleave(16) + 0.25
    text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    tensors[f"{P}.quant_state.bitsandbytes__nf4"] = text
    expected = (table[codes] * absmax.repeat_interleave(64)).reshape(32, 64)
    return tensors, {"quant_method": "bitsandbytes", "load_in_4bit": True}, expected, 4


def bnb_int8_case():
    w = torch.randint(-127, 128, (32, 48), generator=seeded()).to(torch.int8)
    s = torch.rand(32, generator=seeded())
    tensors = {P: w, f"{M}.SCB": s, f"{M}.weight_format": torch.tensor(0).byte()}
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    return tensors, settings, w.float() * s[:, None] * 7.874015718698502e-3, 8


CASES = {
    "fp8 tensor": tensor_case,
    "fp8 channel": channel_case,
    "fp8 block": block_case,
    "mxfp8": e8m0_case,
    "int8 channel with zeros": int8_case,
    "nvfp4": nvfp4_case,
    "nvfp4 of modelopt": modelopt_case,
    "mxfp4": mxfp4_case,
    "pack-quantized 3 bits": lambda: packed_case(3, reordered=False),
    "pack-quantized 2 bits": lambda: packed_case(2, reordered=False),
    "pack-quantized 4 bits reordered": lambda: packed_case(4, reordered=True),
    "nf4": lambda: nf4_case(nested=False),
    "nf4 nested": lambda: nf4_case(nested=True),
    "bitsandbytes int8": bnb_int8_case,
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each_case
def test_values_equal_the_direct_computation(case, tmp_path):
    tensors, settings, expected, bits = case()
    checkpoint = opened(tmp_path, tensors, settings)
    assert set(checkpoint.parameter_names()) == {P, "model.norm.weight"}
    assert checkpoint.is_quantized(M)
    assert not checkpoint.has_codes(M)
    assert torch.equal(checkpoint.parameter(P), expected)
    assert bits <= checkpoint.bits_per_weight < bits + 5.5


@each_case
def test_no_layout_of_values_has_codes_and_the_way_out_is_named(case, tmp_path):
    tensors, settings, _, _ = case()
    with pytest.raises(CheckpointError, match=r"no integer codes .* --dequantize-source"):
        opened(tmp_path, tensors, settings).quantized(M)


@each_case
def test_a_missing_or_cut_tensor_is_an_error_that_names_the_parameter(case, tmp_path):
    tensors, settings, _, _ = case()
    names = [n for n in tensors if not n.endswith(("input_scale", "weight_format", "zero_point"))]
    for name in names:
        rest = {n: t for n, t in tensors.items() if n != name}
        checkpoint = opened(tmp_path, rest, settings)
        if name.endswith("g_idx"):
            continue
        if checkpoint.is_quantized(M):
            with pytest.raises(CheckpointError, match="up_proj"):
                checkpoint.parameter(P)
        cut = tensors[name]
        one_scale = f"{M}.input_scale" in tensors  # which fits any matrix
        if cut.ndim and len(cut) > 2 and not one_scale and not name.endswith(("shape", "_nf4")):
            checkpoint = opened(tmp_path, tensors | {name: cut[: len(cut) // 2 + 1]}, settings)
            with pytest.raises(CheckpointError, match="up_proj"):
                checkpoint.parameter(P)


def test_experts_of_gpt_oss_are_transposed_stacks(tmp_path):
    name = "model.layers.0.mlp.experts.gate_up_proj"
    blocks = torch.randint(0, 256, (3, 8, 2, 16), generator=seeded()).byte()
    scales = torch.randint(110, 130, (3, 8, 2), generator=seeded()).byte()
    values = torch.stack((FP4[(blocks & 15).long()], FP4[(blocks >> 4).long()]), -1).flatten(-2)
    expected = (values * 2.0 ** (scales.float()[..., None] - 127)).flatten(-2).transpose(1, 2)
    tensors = {f"{name}_blocks": blocks, f"{name}_scales": scales}
    checkpoint = opened(tmp_path, tensors, {"quant_method": "mxfp4"})
    assert name in checkpoint.parameter_names()
    assert torch.equal(checkpoint.parameter(name), expected)
    assert torch.equal(checkpoint.entry(name, 1), expected[1])


def test_a_config_without_groups_is_refused(tmp_path):
    tensors, settings, _, _ = channel_case()
    opened(tmp_path, tensors, settings)
    rewrite_json(tmp_path / "config.json", quantization_config=CT)
    with pytest.raises(CheckpointError, match="0 config_groups"):
        open_checkpoint(tmp_path)
