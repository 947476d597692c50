"""The kernel of a mixture's experts, next to that of its dense matrices."""

from dataclasses import replace

import pytest

from helpers.blocks import (
    ADA,
    ARC,
    EPYC,
    HOPPER,
    INSTINCT,
    QWEN3_30B_A3B,
    XEON,
    expert_block,
    model,
)
from salient.plan.vllm.route import ServingTarget, WeightPacking, fitting_tp, route

AWQ = WeightPacking("awq")
COMPRESSED = WeightPacking("compressed-tensors")
GPTQ = WeightPacking("gptq", zeros=False)


def test_experts_run_by_marlin_where_their_part_holds_whole_groups():
    result = route(QWEN3_30B_A3B, AWQ, ServingTarget(HOPPER))
    assert (result.kernel, result.pace, result.experts) == ("Machete", "fast", "Marlin")


def test_experts_cut_amid_a_group_are_slow_and_named():
    result = route(QWEN3_30B_A3B, AWQ, ServingTarget(ADA, tp=4))
    assert (result.pace, result.experts) == ("slow", "Triton (moe_wna16)")
    assert result.fallen == ("experts: 768 inner features / 4 GPUs = 192, not a multiple of 128",)
    assert "--enable-expert-parallel" in " ".join(result.do)
    assert 4 not in fitting_tp(QWEN3_30B_A3B, 128)


def test_experts_of_compressed_tensors_cut_amid_a_group_stop():
    assert route(QWEN3_30B_A3B, COMPRESSED, ServingTarget(ADA, tp=4)).pace == "refused"


@pytest.mark.parametrize(
    ("gpu", "packing", "pace", "experts"),
    [
        (EPYC, AWQ, "refused", ""),
        (XEON, AWQ, "fast", "CPU (AMX)"),
        (XEON, COMPRESSED, "refused", ""),
        (XEON, GPTQ, "fast", "CPU (AMX)"),
        (ARC, AWQ, "refused", ""),
        (ARC, replace(COMPRESSED, zeros=False), "fast", "XPU"),
        (INSTINCT, COMPRESSED, "fast", "Triton (moe_wna16)"),
        (INSTINCT, AWQ, "slow", "Triton (moe_wna16)"),
    ],
)
def test_experts_have_their_own_kernel(gpu, packing, pace, experts):
    result = route(QWEN3_30B_A3B, packing, ServingTarget(gpu))
    assert (result.pace, result.experts) == (pace, experts)


def test_experts_on_a_cpu_without_amx_are_refused_with_vllms_message():
    why = route(QWEN3_30B_A3B, AWQ, ServingTarget(EPYC)).why
    assert "No WNA16 MoE backend supports the deployment configuration" in why
    assert "AMX" in why


def test_experts_with_a_column_a_group_are_refused():
    assert route(QWEN3_30B_A3B, WeightPacking("awq", -1), ServingTarget(ADA)).pace == "refused"


def test_odd_experts_were_slow_before_marlin_padded_them():
    """An inner width of 96 in groups of 32: whole groups, but no multiple of Marlin's 64."""
    shape = model(expert_block(96))
    paces = [
        route(shape, WeightPacking("awq", 32), ServingTarget(ADA, version=version)).pace
        for version in ((0, 24), (0, 25))
    ]
    assert paces == ["slow", "fast"]


@pytest.mark.parametrize(
    ("shape", "group", "pace", "why"),
    [
        (model(expert_block(768, 2112)), 64, "slow", "2112 inputs, not a multiple of 128"),
        (model(expert_block(700)), 128, "refused", "experts of 700 by 2048 features"),
    ],
)
def test_experts_of_odd_widths_are_named(shape, group, pace, why):
    result = route(shape, WeightPacking("awq", group), ServingTarget(ADA))
    assert result.pace == pace
    assert why in result.why


def test_the_flag_for_mixtures_makes_only_experts_slow():
    result = route(QWEN3_30B_A3B, AWQ, ServingTarget(ADA, forced="moe_wna16"))
    assert (result.pace, result.experts) == ("slow", "Triton (moe_wna16)")


def test_experts_that_marlin_refuses_stop_in_a_release_that_crashes_there():
    result = route(QWEN3_30B_A3B, AWQ, ServingTarget(HOPPER, tp=4, version=(0, 8)))
    assert result.pace == "refused"
    assert "use vLLM 0.9 or newer" in " ".join(result.do)
