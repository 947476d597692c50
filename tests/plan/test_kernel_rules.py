"""Rows of the kernel table, what changes with vLLM's releases, and how GPUs share matrices."""

import re
import sys
from subprocess import run

import pytest

from helpers.blocks import ADA, HOPPER, LLAMA_8B, NAVI, QWEN2_72B, TURING, block, model
from salient.core.errors import RequestError
from salient.plan.gpus import Gpu
from salient.plan.vllm.kernel_table import (
    KERNELS,
    SLOW_KERNELS,
    VllmKernel,
    kernel_misfit,
    kernel_order,
)
from salient.plan.vllm.route import first_kernel, fitting_tp
from salient.plan.vllm.sharding import MatrixShard, misfits, shards
from salient.plan.vllm.types import ServingTarget, WeightPacking
from salient.plan.vllm.versions import parse_version, version_caveat
from salient.shapes.model_shape import BlockShape, CacheShape, LinearShape

PLAIN = MatrixShard("mlp.down_proj", 4096, 4096, 4096)
AWQ = WeightPacking("awq")


@pytest.mark.parametrize("kernel", [*KERNELS, *SLOW_KERNELS], ids=lambda k: f"{k.name}-{k.since}")
def test_a_row_says_where_it_is_from_and_when_it_holds(kernel):
    assert kernel.source.endswith(".py")
    assert kernel.since < kernel.until
    assert kernel.vendors


@pytest.mark.parametrize("version", [(0, 9), (0, 13), (0, 16), (0, 22), (0, 24), (0, 32)])
@pytest.mark.parametrize("gpu", [HOPPER, ADA, NAVI], ids=lambda g: g.name)
def test_a_release_tries_each_kernel_once(gpu, version):
    names = [kernel.name for kernel in kernel_order(ServingTarget(gpu, version=version))]
    assert len(names) == len(set(names))


# the order and the switch on Hopper: vLLM #56997
@pytest.mark.parametrize(
    ("gpu", "version", "before"),
    [(HOPPER, (0, 32), True), (HOPPER, (0, 31), False), (ADA, (0, 32), False)],
)
def test_humming_comes_before_marlin_only_on_hopper(gpu, version, before):
    names = [kernel.name for kernel in kernel_order(ServingTarget(gpu, version=version))]
    assert (names.index("Humming") < names.index("Marlin")) is before


# sizes that vLLM's own can_implement refuses or takes, each next to a limit
@pytest.mark.parametrize(
    ("name", "target", "packing", "shard", "reason"),
    [
        ("Machete", ServingTarget(HOPPER), AWQ, PLAIN, ""),
        ("Machete", ServingTarget(ADA), AWQ, PLAIN, r"9\.0 exactly, not RTX 4090 \(.* 8\.9\)"),
        (
            "Machete",
            ServingTarget(HOPPER),
            WeightPacking("awq", 32),
            PLAIN,
            "groups of a column, 64, 128",
        ),
        (
            "Machete",
            ServingTarget(HOPPER),
            AWQ,
            MatrixShard("x", 4096, 192, 4096),
            "outputs in multiples of 128",
        ),
        (
            "Machete",
            ServingTarget(HOPPER),
            WeightPacking("awq", -1),
            MatrixShard("x", 96, 128, 96),
            "inputs in mult",
        ),
        ("Marlin", ServingTarget(TURING), AWQ, PLAIN, ""),
        ("Marlin", ServingTarget(TURING, version=(0, 13)), AWQ, PLAIN, r"8\.0 or newer"),
        ("Marlin", ServingTarget(ADA), AWQ, MatrixShard("x", 4096, 200, 4096), ""),
        (
            "Marlin",
            ServingTarget(ADA, version=(0, 23)),
            AWQ,
            MatrixShard("x", 4096, 200, 4096),
            "of 64, not 200",
        ),
        ("Marlin", ServingTarget(ADA), WeightPacking("awq", 256), PLAIN, "not 256"),
        ("Marlin", ServingTarget(ADA, dtype="float32"), AWQ, PLAIN, "not float32"),
        ("Exllama", ServingTarget(ADA), AWQ, PLAIN, "no 4-bit codes with zero points"),
        (
            "Exllama",
            ServingTarget(ADA),
            WeightPacking("gptq", -1, zeros=False),
            PLAIN,
            "any size but a column",
        ),
        ("Conch", ServingTarget(ADA), AWQ, PLAIN, "conch-triton-kernels"),
        ("CutlassW4A8", ServingTarget(HOPPER), AWQ, PLAIN, "8-bit activations"),
        ("RDNA3W4A16", ServingTarget(NAVI), WeightPacking("gptq", zeros=False), PLAIN, ""),
        ("RDNA3W4A16", ServingTarget(NAVI), AWQ, PLAIN, "no 4-bit codes with zero points"),
        ("RDNAHybridW4A16", ServingTarget(NAVI), AWQ, PLAIN, ""),
        (
            "TritonW4A16",
            ServingTarget(NAVI),
            WeightPacking("gptq", zeros=False, act_order=True),
            PLAIN,
            "order",
        ),
    ],
)
def test_a_kernel_names_the_limit_that_a_matrix_breaks(name, target, packing, shard, reason):
    row = next(kernel for kernel in kernel_order(target) if kernel.name == name)
    why, _ = kernel_misfit(row, target, packing, shard)
    assert re.search(reason, why) if reason else not why


def class_of(kernel: VllmKernel) -> str:
    return kernel.class_name or f"{kernel.name}LinearKernel"


# Printed by vLLM 0.32's own choose_mp_linear_kernel for devices substituted for its platform:
# vendor, capability or target, bits, zero points, group, inputs, outputs, type, the class it took.
VLLM_TOOK = """
    nvidia 75 4 none 64 192 4096 float16 MarlinLinearKernel
    nvidia 75 4 zeros 256 4096 200 bfloat16 TritonW4A16LinearKernel
    nvidia 75 8 zeros 32 29568 8192 bfloat16 -
    nvidia 80 4 none 256 4096 200 float16 ExllamaLinearKernel
    nvidia 80 4 zeros 128 4096 4096 float16 MarlinLinearKernel
    nvidia 80 8 none -1 4096 6144 bfloat16 MarlinLinearKernel
    nvidia 89 4 zeros -1 2880 5120 float16 MarlinLinearKernel
    nvidia 89 4 zeros 64 4096 200 bfloat16 MarlinLinearKernel
    nvidia 89 8 zeros 64 192 4096 bfloat16 -
    nvidia 90 8 none 64 192 4096 float16 MacheteLinearKernel
    nvidia 90 4 zeros 64 192 4096 bfloat16 MacheteLinearKernel
    nvidia 90 8 zeros 128 29568 8192 bfloat16 MacheteLinearKernel
    nvidia 90 4 none 32 4096 4096 float16 MarlinLinearKernel
    nvidia 90 4 none 128 4096 1000 bfloat16 MarlinLinearKernel
    nvidia 90 4 zeros -1 4096 6144 float16 MacheteLinearKernel
    nvidia 90 8 zeros 32 4096 6144 float16 -
    nvidia 100 4 zeros 128 4096 4096 bfloat16 MarlinLinearKernel
    nvidia 120 4 none 256 4096 6144 bfloat16 TritonW4A16LinearKernel
    nvidia 120 8 none -1 3696 8192 bfloat16 MarlinLinearKernel
    amd gfx942 4 zeros 256 4096 1000 bfloat16 TritonW4A16LinearKernel
    amd gfx942 8 none 32 192 4096 float16 ExllamaLinearKernel
    amd gfx942 8 none 32 4096 4096 bfloat16 -
    amd gfx1100 4 zeros 128 29568 8192 bfloat16 RDNAHybridW4A16LinearKernel
    amd gfx1100 4 zeros -1 29568 8192 bfloat16 TritonW4A16LinearKernel
    amd gfx1201 4 none -1 4096 6144 float16 TritonW4A16LinearKernel
    amd gfx1201 4 zeros 64 2880 5120 float16 RDNAHybridW4A16LinearKernel
    cpu - 4 none 64 4096 4096 float16 CPUWNA16LinearKernel
    cpu - 4 zeros 32 4096 1000 bfloat16 -
    cpu - 8 zeros 32 192 4096 float16 -
    intel - 4 zeros 64 64 48 float16 XPUwNa16LinearKernel
    intel - 4 zeros 16 4096 4096 float16 -
"""


@pytest.mark.parametrize("line", [line.strip() for line in VLLM_TOOK.strip().splitlines()])
def test_the_table_takes_the_kernel_that_vllm_takes(line):
    vendor, device, bits, zeros, group, inputs, outputs, dtype, expected = line.split()
    gfx = device if device.startswith("gfx") else ""
    capability = int(device) if device.isdigit() else 0
    gpu = Gpu("substitute", vendor, "", 24, 1, 1, capability=capability, gfx=gfx)
    packing = WeightPacking("compressed-tensors", int(group), zeros == "zeros", int(bits))
    shard = MatrixShard("x", int(inputs), int(outputs), int(inputs))
    classes = {kernel.name: class_of(kernel) for kernel in KERNELS}
    assert (
        classes.get(first_kernel(ServingTarget(gpu, dtype=dtype), packing, shard).kernel, "-")
        == expected
    )


def test_a_kernel_that_is_switched_off_leaves_its_place_to_the_next():
    off = {"VLLM_DISABLED_KERNELS": "MacheteLinearKernel, HummingLinearKernel"}
    verdict = first_kernel(ServingTarget(HOPPER, environment=off), AWQ, PLAIN)
    assert verdict.kernel == "Marlin"
    assert [r.kernel for r in verdict.refusals if "VLLM_DISABLED_KERNELS" in r.why] == [
        "Machete",
        "Humming",
    ]


def test_where_no_kernel_is_left_every_refusal_is_listed():
    off = {"VLLM_DISABLED_KERNELS": ",".join(map(class_of, KERNELS))}
    target = ServingTarget(ADA, environment=off)
    verdict = first_kernel(target, AWQ, PLAIN)
    assert verdict.pace == "refused"
    assert len(verdict.refusals) == len(kernel_order(target))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.9.2", (0, 9)),
        ("v0.11.2.post2", (0, 11)),
        ("0.6.6.post1+cu118", (0, 6)),
        ("0.32.0rc1", (0, 32)),
        ("0.12.0rc2.dev3+g1a2b3c", (0, 12)),
        (" 0.32 ", (0, 32)),
        ("1.0.0", (1, 0)),
    ],
)
def test_a_release_is_its_major_and_minor_number(text, version):
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "latest", "0", "0.9 beta", "0.9abc", "nine"])
def test_text_that_is_no_release_is_refused(text):
    with pytest.raises(RequestError, match=r"is not a vLLM version. Give one such as 0\.32\.0"):
        parse_version(text)


def test_a_release_without_known_rules_has_a_caveat():
    assert "newer than 0.33" in version_caveat((0, 34))
    assert "upgrade vLLM: 0.7 is older than 0.8" in version_caveat((0, 7))
    assert version_caveat((0, 33)) == version_caveat((0, 32)) == version_caveat((0, 8)) == ""


def test_merged_matrices_add_up_their_outputs_and_sharded_ones_divide():
    by_name = {shard.name: shard for shard in shards(LLAMA_8B, 4)}
    assert by_name["self_attn.qkv_proj"].outputs == (4096 + 2 * 1024) // 4
    assert by_name["mlp.gate_up_proj"].outputs == 2 * 14336 // 4
    assert (by_name["mlp.down_proj"].inputs, by_name["mlp.down_proj"].width) == (14336 // 4, 14336)
    assert sum(shard.weights for shard in by_name.values()) == sum(
        linear.weights for linear in LLAMA_8B.linears
    )


def test_key_value_heads_repeat_where_gpus_outnumber_them():
    by_name = {shard.name: shard for shard in shards(LLAMA_8B, 16)}
    assert by_name["self_attn.qkv_proj"].outputs == 4096 // 16 + 2 * 128


def test_unquantized_matrices_and_experts_are_no_shards():
    router = LinearShape("mlp.gate", 8, 4096, "router", "none", unquantized=True)
    expert = LinearShape("mlp.experts.*.down_proj", 4096, 768, "experts", "in", copies=8)
    shape = model(BlockShape("experts", (router, expert), CacheShape()))
    assert shards(shape, 1) == ()


# 29568 / 128 = 231 = 3 x 7 x 11, and 64 heads divide by none of them: vLLM #21695
@pytest.mark.parametrize(("group", "fits"), [(128, (1,)), (64, (1, 2)), (32, (1, 2, 4))])
def test_qwen2_72b_is_shared_by_as_many_gpus_as_its_groups_allow(group, fits):
    assert fitting_tp(QWEN2_72B, group) == fits


@pytest.mark.parametrize("shape", [QWEN2_72B, LLAMA_8B, model(block(28, 4, 18944))])
def test_smaller_groups_never_fit_fewer_gpus(shape):
    large, middle, small = (set(fitting_tp(shape, group)) for group in (128, 64, 32))
    assert 1 in large
    assert large <= middle <= small <= set(fitting_tp(shape, -1))


def test_a_size_fits_exactly_where_nothing_misfits():
    fits = fitting_tp(QWEN2_72B, 64, 8)
    assert all((tp in fits) is not bool(misfits(QWEN2_72B, 64, tp)) for tp in range(1, 9))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "tp", "cause"),
    [
        (28, 4, 8, "28 attention heads cannot be shared by 8 GPUs evenly"),
        (24, 8, 6, "8 key-value heads neither divide over nor repeat on 6 GPUs"),
        (32, 8, 16, None),
        (32, 8, 4, None),
    ],
)
def test_heads_divide_over_gpus_or_repeat(heads, kv_heads, tp, cause):
    causes = misfits(model(block(heads, kv_heads, 128 * 48, 6144)), 128, tp)
    assert (cause in causes) if cause else not causes


def test_latent_attention_sets_no_head_count_of_its_own():
    """DeepSeek-V3's MLA: the cache keeps 576 numbers a token, whatever the 128 heads are."""
    linears = (
        LinearShape("self_attn.q_b_proj", 128 * 192, 1536),
        LinearShape("self_attn.kv_a_proj_with_mqa", 576, 7168, split="none"),
        LinearShape("self_attn.kv_b_proj", 128 * 256, 512),
        LinearShape("self_attn.o_proj", 7168, 128 * 128, split="in"),
    )
    shape = model(BlockShape("latent attention", linears, CacheShape(576, 1)))
    assert fitting_tp(shape, 128) == (1, 2, 4, 8, 16)


def test_the_rules_are_known_without_torch():
    code = (
        "import sys, salient.plan.vllm.route; print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
