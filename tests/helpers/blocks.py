"""Small models and devices for the rules about kernels."""

from typing import Literal

from salient.plan.gpus import Gpu
from salient.shapes.model_shape import BlockShape, CacheShape, LinearShape, ModelShape

HOPPER = Gpu("H100", "nvidia", "Hopper", 80, 3350, 989, capability=90)
ADA = Gpu("RTX 4090", "nvidia", "Ada", 24, 1008, 165, capability=89)
TURING = Gpu("T4", "nvidia", "Turing", 16, 320, 65, capability=75)
NAVI = Gpu("RX 7900 XTX", "amd", "RDNA 3", 24, 960, 123, gfx="gfx1100")
VOLTA = Gpu("V100", "nvidia", "Volta", 16, 900, 125, capability=70)
AMPERE = Gpu("A100", "nvidia", "Ampere", 80, 2039, 312, capability=80)
BLACKWELL = Gpu("RTX 5090", "nvidia", "Blackwell", 32, 1792, 210, capability=120)
UNKNOWN = Gpu("24 GB", "nvidia", "", 24, 0, 0)
INSTINCT = Gpu("MI300X", "amd", "CDNA 3", 192, 5300, 1307, gfx="gfx942")
ARC = Gpu("Arc B580", "intel", "Battlemage", 12, 456, 117)
MAC = Gpu("M3 Max", "apple", "M3", 128, 400, 28)
EPYC = Gpu("EPYC 9654", "cpu", "Zen 4", 384, 460, 10)
XEON = Gpu("Xeon 8480+", "cpu", "Sapphire Rapids", 256, 307, 30)
GPUS = (
    HOPPER, ADA, TURING, VOLTA, AMPERE, BLACKWELL, UNKNOWN, INSTINCT, NAVI, ARC, MAC, EPYC, XEON,
)  # fmt: skip


def block(heads: int, kv_heads: int, inner: int, hidden: int = 0, head: int = 128) -> BlockShape:
    """A block of the Llama kind."""
    hidden = hidden or heads * head
    kv = kv_heads * head
    linears = (
        LinearShape("self_attn.q_proj", heads * head, hidden, joined="qkv_proj"),
        LinearShape("self_attn.k_proj", kv, hidden, joined="qkv_proj"),
        LinearShape("self_attn.v_proj", kv, hidden, joined="qkv_proj"),
        LinearShape("self_attn.o_proj", hidden, heads * head, split="in"),
        LinearShape("mlp.gate_proj", inner, hidden, "mlp", joined="gate_up_proj"),
        LinearShape("mlp.up_proj", inner, hidden, "mlp", joined="gate_up_proj"),
        LinearShape("mlp.down_proj", hidden, inner, "mlp", split="in"),
    )
    return BlockShape("full attention, mlp", linears, CacheShape(2 * kv, kv_heads))


def model(*blocks: BlockShape) -> ModelShape:
    return ModelShape("toy", 4096, 32000, blocks, 32000 * 4096, 0)


def expert_block(inner: int, hidden: int = 2048, experts: int = 128) -> BlockShape:
    """A block of the Qwen3-MoE kind: 32 heads, 4 key-value heads, no dense part."""
    dense = [n for n in block(32, 4, 128, hidden).linears if n.part == "attention"]
    router = LinearShape("mlp.gate", experts, hidden, "router", "none", unquantized=True)

    def expert(name: str, out: int, width: int, split: Literal["out", "in"]) -> LinearShape:
        return LinearShape(
            f"mlp.experts.*.{name}", out, width, "experts", split, copies=experts, active=8
        )

    parts = (
        expert("gate_proj", inner, hidden, "out"),
        expert("up_proj", inner, hidden, "out"),
        expert("down_proj", hidden, inner, "in"),
    )
    return BlockShape(
        "full attention, experts", (*dense, router, *parts), CacheShape(2 * 4 * 128, 4)
    )


# Two blocks are enough: the rules look only at distinct matrices.
QWEN2_72B = model(*[block(64, 8, 29568)] * 2)
LLAMA_8B = model(*[block(32, 8, 14336)] * 2)
QWEN3_30B_A3B = model(*[expert_block(768)] * 2)
