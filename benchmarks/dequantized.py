"""Read quantized checkpoints as plain weights, by code that no quantizer uses.

The judge of the benchmarks. It reads AutoAWQ's, AutoGPTQ's and compressed-tensors' layouts from the
shapes of their tensors, computes scale * (code - zero), and loads the result with Transformers in
float32. It imports neither Salient nor a peer.

    AutoAWQ             qweight int32 [in, out/8], qzeros [groups, out/8], scales [groups, out];
                        nibbles of a word in the order 0 2 4 6 1 3 5 7
    AutoGPTQ            qweight int32 [in/8, out], qzeros [groups, out/8], scales [groups, out];
                        zeros are stored less one, except in checkpoint_format gptq_v2
    compressed-tensors  weight_packed int32 [out, in/8], weight_scale [out, groups],
                        weight_zero_point int32 [out/8, groups], weight_shape [2]; 8 bits: /4
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # nibble of output i of each eight
WORD = 32
QUANTIZED = ("qweight", "weight_packed")


def load_plain(folder: Path) -> Any:
    """The model of `folder` in float32; codes dequantized."""
    config = transformers.AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model_class = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained(
        None, config=config, state_dict=plain_weights(folder), dtype=torch.float32
    )
    return model.eval().requires_grad_(requires_grad=False)


def plain_weights(folder: Path) -> dict[str, Tensor]:
    """The float32 weights of a checkpoint by name."""
    tensors = _tensors(folder)
    settings = json.loads((folder / "config.json").read_text()).get("quantization_config", {})
    zero_offset = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1
    modules: dict[str, dict[str, Tensor]] = {}
    for name in _quantized(tensors):
        prefix = f"{name}."
        parts = [key for key in tensors if key.startswith(prefix)]
        modules[name] = {key.removeprefix(prefix): tensors.pop(key) for key in parts}
    plain = {name: tensor.float() for name, tensor in tensors.items()}
    for name, parts in modules.items():
        if "bias" in parts:
            plain[f"{name}.bias"] = parts["bias"].float()
        plain[f"{name}.weight"] = dequantized(parts, zero_offset)
    return plain


def quantized_linears(folder: Path) -> set[str]:
    """The names of the linears that `folder` stores as codes."""
    return set(_quantized(_tensors(folder)))


def dequantized(parts: dict[str, Tensor], zero_offset: int = 1) -> Tensor:
    """The weight float32 [out, in] of the tensors of one module, by local name."""
    if "weight_packed" in parts:
        return _compressed_tensors(parts)
    scales = parts["scales"].float().t()  # [out, groups]
    out = len(scales)
    if parts["qweight"].shape[1] == out:
        codes = _unpack(parts["qweight"].t(), 4)
        zeros = _unpack(parts["qzeros"], 4).t() + zero_offset
        groups = parts.get("g_idx")
    else:
        order = torch.arange(out).view(-1, 8)[:, AWQ_ORDER].flatten()
        codes = _unpack(parts["qweight"], 4)[:, order].t()
        zeros = _unpack(parts["qzeros"], 4)[:, order].t()
        groups = None
    return _expand(codes, zeros, scales, groups)


def _compressed_tensors(parts: dict[str, Tensor]) -> Tensor:
    out, width = (int(size) for size in parts["weight_shape"])
    scales, packed = parts["weight_scale"].float(), parts["weight_packed"]
    bits = next(bits for bits in (4, 8) if packed.shape[1] == -(-width * bits // WORD))
    if "weight_zero_point" in parts:
        zeros = _unpack(parts["weight_zero_point"].t(), bits)[:, :out].t()
    else:
        zeros = torch.full_like(scales, 2 ** (bits - 1))
    return _expand(_unpack(packed, bits)[:, :width], zeros, scales, None)


def _expand(codes: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor | None) -> Tensor:
    """scale * (code - zero) of codes [out, in]; `groups` [in] is the group of each column."""
    if groups is None:
        width = codes.shape[1]
        groups = torch.arange(width) // (width // scales.shape[1])
    groups = groups.long()
    return scales[:, groups] * (codes - zeros[:, groups])


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """int32 [rows, packed] -> float32 [rows, codes], the lowest bits first."""
    shifts = torch.arange(0, WORD, bits, dtype=torch.int32)
    return (packed[..., None] >> shifts & 2**bits - 1).flatten(1).float()


def _quantized(tensors: dict[str, Tensor]) -> list[str]:
    parts = (name.rpartition(".") for name in tensors)
    return [module for module, _, leaf in parts if leaf in QUANTIZED]


def _tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors
