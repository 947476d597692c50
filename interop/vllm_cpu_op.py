"""The operator that vLLM's CPU build lacks without AVX-512: y = x @ W.T over 4-bit weights.

vLLM has a library for AVX-512 and one for AVX2; only the first has `cpu_gemm_wna16`. On AVX2 vLLM
reads a 4-bit checkpoint, selects its kernel, repacks the weights, and fails at the first token.
This defines the operator in torch, so that everything but the arithmetic is tested there: config,
tensor names, shapes, packing, zero points and scales. It says nothing about speed.

The operator takes vLLM's repacked layout:
    q_weight  int32 [out/16, in*2]    a block of 16 outputs, then in, then two words of 8 nibbles
    scales          [groups, out]
    zeros     int32 [groups, out/8]   nibbles along out; None for symmetric weights, whose zero is 8
The lowest nibble is first.
"""

import torch

NAME = "cpu_gemm_wna16"
SCHEMA = (
    f"{NAME}(Tensor x, Tensor q_weight, Tensor(a!) out, Tensor scales, Tensor? zeros, "
    "Tensor? bias, int pack_factor, str isa_hint) -> ()"
)
_libraries: list[torch.library.Library] = []  # an operator lives as long as its library


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """int32 [..., n] -> float32 [..., n * 8], the lowest nibble of each word first."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    return ((packed.unsqueeze(-1) >> shifts) & 15).flatten(-2).float()


def dequantize(
    q_weight: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None
) -> torch.Tensor:
    """The float32 weight [in, out]."""
    groups, outputs = scales.shape
    blocks = q_weight.size(0)
    codes = nibbles(q_weight.view(blocks, -1, 2))  # [out/16, in, 16]
    codes = codes.permute(1, 0, 2).reshape(groups, -1, outputs)  # [groups, in/groups, out]
    zero = torch.tensor(8.0) if zeros is None else nibbles(zeros).unsqueeze(1)
    return ((codes - zero) * scales.float().unsqueeze(1)).flatten(0, 1)


def supply_if_missing() -> bool:
    """Define the operator if vLLM runs on a CPU and lacks it; returns whether it did."""
    import vllm._custom_ops  # noqa: F401 (loads vLLM's own operators)
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or hasattr(torch.ops._C, NAME):
        return False

    weights: dict[int, torch.Tensor] = {}  # addresses are unique while the engine lives

    def multiply(
        x: torch.Tensor,
        q_weight: torch.Tensor,
        out: torch.Tensor,
        scales: torch.Tensor,
        zeros: torch.Tensor | None,
        bias: torch.Tensor | None,
        pack_factor: int,
        isa_hint: str,
    ) -> None:
        key = q_weight.data_ptr()
        if key not in weights:
            weights[key] = dequantize(q_weight, scales, zeros)
        product = x.float() @ weights[key]
        out.copy_(product if bias is None else product + bias.float())

    library = torch.library.Library("_C", "FRAGMENT")
    library.define(SCHEMA)
    library.impl(NAME, multiply, "CPU")
    _libraries.append(library)
    return True
