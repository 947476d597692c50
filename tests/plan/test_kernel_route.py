"""The kernel of a whole model: which, how fast, why not another, and what to change."""

import re
from dataclasses import replace

import pytest

from helpers.blocks import (
    ADA,
    AMPERE,
    ARC,
    BLACKWELL,
    EPYC,
    GPUS,
    HOPPER,
    INSTINCT,
    LLAMA_8B,
    MAC,
    NAVI,
    QWEN2_72B,
    QWEN3_30B_A3B,
    TURING,
    UNKNOWN,
    VOLTA,
    XEON,
    block,
    model,
)
from helpers.shapes import released
from salient.core.errors import RequestError
from salient.plan.gpus import Gpu
from salient.plan.vllm.route import ServingTarget, WeightPacking, fitting_tp, route
from salient.plan.vllm.types import PACES

AWQ = WeightPacking("awq")
COMPRESSED = WeightPacking("compressed-tensors")
GPTQ = WeightPacking("gptq", zeros=False)
FP8 = WeightPacking("fp8", -1, bits=8)
SIXTEEN = WeightPacking("none", bits=16)
BF16 = "bfloat16"


@pytest.mark.parametrize(
    ("target", "packing", "kernel"),
    [
        (ServingTarget(HOPPER), AWQ, "Machete"),
        (ServingTarget(HOPPER), WeightPacking("awq", 64), "Machete"),
        (ServingTarget(HOPPER), WeightPacking("awq", 32), "Marlin"),
        (ServingTarget(HOPPER, version=(0, 18)), AWQ, "Marlin"),
        (ServingTarget(HOPPER, version=(0, 9)), COMPRESSED, "Machete"),
        (ServingTarget(ADA), AWQ, "Marlin"),
        (ServingTarget(AMPERE, dtype=BF16), AWQ, "Marlin"),
        (ServingTarget(BLACKWELL), AWQ, "Marlin"),
        (ServingTarget(TURING), AWQ, "Marlin"),
        (ServingTarget(TURING, version=(0, 14)), AWQ, "Marlin"),
        (ServingTarget(ADA), GPTQ, "Marlin"),
        (ServingTarget(INSTINCT), COMPRESSED, "TritonW4A16"),
        (ServingTarget(INSTINCT, version=(0, 22)), AWQ, "TritonW4A16"),
        (ServingTarget(NAVI), COMPRESSED, "RDNAHybridW4A16"),
        (ServingTarget(NAVI), GPTQ, "RDNA3W4A16"),
        (ServingTarget(ARC), AWQ, "XPUwNa16"),
        (ServingTarget(EPYC, dtype=BF16), AWQ, "CPUWNA16"),
        (ServingTarget(EPYC, forced="awq"), AWQ, "CPUWNA16"),
        (ServingTarget(EPYC, version=(0, 9)), AWQ, "IPEX"),
        (ServingTarget(HOPPER), FP8, "CUTLASS FP8"),
        (ServingTarget(AMPERE), FP8, "Marlin FP8"),
        (ServingTarget(INSTINCT), FP8, "ROCm FP8"),
        (ServingTarget(ADA, dtype=BF16), SIXTEEN, "cuBLAS"),
        (ServingTarget(INSTINCT, dtype=BF16), SIXTEEN, "hipBLASLt"),
        (ServingTarget(ADA, forced="fp8"), SIXTEEN, "CUTLASS FP8"),
        (ServingTarget(ADA, forced="humming"), AWQ, "Humming"),
    ],
)
def test_a_model_of_usual_widths_runs_fast(target, packing, kernel):
    result = route(LLAMA_8B, packing, target)
    assert (result.kernel, result.pace, result.fallen) == (kernel, "fast", ())


def test_marlin_runs_on_ada_and_machete_says_that_it_needs_hopper():
    result = route(LLAMA_8B, AWQ, ServingTarget(ADA))
    machete = next(r for r in result.refusals if r.kernel == "Machete")
    assert "9.0 exactly" in machete.why


def test_machete_leaves_odd_outputs_to_marlin_and_both_are_named():
    """Gate and up of 1376 make 2752 joined outputs: 21.5 x 128. Down stays at 16 bits."""
    result = route(model(block(16, 16, 1376, 2048)), AWQ, ServingTarget(HOPPER))
    assert (result.kernel, result.pace) == ("Machete", "fast")
    assert "Machete for self_attn.qkv_proj, self_attn.o_proj" in result.why
    assert "Marlin for mlp.gate_up_proj" in result.why


# each of these runs, slowly, and the message says why
@pytest.mark.parametrize(
    ("target", "packing", "kernel", "why", "do"),
    [
        (ServingTarget(ADA), WeightPacking("awq", zeros=False), "awq_gemm", "zero_point is false", "zero point"),
        (ServingTarget(ADA), WeightPacking("awq", 256), "awq_gemm", "groups of 256", "128, 64 or 32"),
        (ServingTarget(INSTINCT), AWQ, "Triton AWQ", "on ROCm", "compressed-tensors"),
        (ServingTarget(NAVI, version=(0, 10)), AWQ, "Triton AWQ", "on ROCm", "compressed-tensors"),
        (
            ServingTarget(ADA, environment={"VLLM_BATCH_INVARIANT": "1"}),
            AWQ, "awq_gemm", "VLLM_BATCH_INVARIANT", "unset",
        ),
        (
            ServingTarget(ADA, environment={"VLLM_BATCH_INVARIANT": "1", "VLLM_USE_TRITON_AWQ": "1"}),
            AWQ, "Triton AWQ", "VLLM_BATCH_INVARIANT", "unset",
        ),
        (ServingTarget(TURING, version=(0, 9)), AWQ, "awq_gemm", "8.0 in vLLM 0.9", "0.14"),
        (ServingTarget(ADA, version=(0, 9), forced="awq"), AWQ, "awq_gemm", "forces", "drop"),
        (ServingTarget(ADA, version=(0, 23), forced="awq"), AWQ, "awq_gemm", "forces", "awq_marlin"),
        (ServingTarget(ADA), WeightPacking("compressed-tensors", 256), "TritonW4A16", "256", "128"),
        (ServingTarget(ADA, version=(0, 9)), WeightPacking("gptq"), "Exllama", "sym is false", "sym=true"),
        (ServingTarget(ADA, version=(0, 20)), WeightPacking("bitsandbytes"), "bitsandbytes", "widened", "AWQ"),
        (ServingTarget(ADA, version=(0, 20)), WeightPacking("gguf"), "GGUF", "experimental", "llama.cpp"),
    ],
)  # fmt: skip
def test_a_slow_kernel_names_its_cause_and_its_fix(target, packing, kernel, why, do):
    result = route(LLAMA_8B, packing, target)
    assert (result.kernel, result.pace) == (kernel, "slow")
    assert why in result.why
    assert do in " ".join(result.do)


def test_the_forcing_flag_forces_nothing_from_0_24_on():
    """Reported on 0.9.2 as 23 against 123 tokens a second (vLLM #21376)."""
    paces = {
        version: route(LLAMA_8B, AWQ, ServingTarget(ADA, version=version, forced="awq")).pace
        for version in ((0, 9), (0, 23), (0, 24), (0, 32))
    }
    assert list(paces.values()) == ["slow", "slow", "fast", "fast"]


@pytest.mark.parametrize(
    ("target", "packing", "why"),
    [
        (ServingTarget(VOLTA), AWQ, "compute capability 7.5 or newer, not V100"),
        (ServingTarget(VOLTA), COMPRESSED, "compute capability 7.5 or newer, not V100"),
        (
            ServingTarget(VOLTA, dtype="float16"),
            SIXTEEN,
            "compute capability 7.5 or newer, not V100",
        ),
        (ServingTarget(TURING, dtype=BF16), AWQ, "bfloat16 needs compute capability 8.0"),
        (ServingTarget(ADA, dtype="float32"), AWQ, "float32 is not supported"),
        (ServingTarget(EPYC, dtype="float32"), AWQ, "float32 is not supported"),
        (
            ServingTarget(ADA, dtype=BF16),
            WeightPacking("awq", zeros=False),
            "multiplies float16, not bfloat16",
        ),
        (ServingTarget(ADA, dtype=BF16, version=(0, 9), forced="awq"), AWQ, "not bfloat16"),
        (ServingTarget(INSTINCT, dtype=BF16, version=(0, 10)), AWQ, "not bfloat16"),
        (ServingTarget(MAC), AWQ, "no Metal backend"),
        (ServingTarget(EPYC, forced="awq_marlin"), AWQ, "does not match"),
        (ServingTarget(ADA, forced="gptq"), AWQ, "does not match"),
        (ServingTarget(ADA, version=(0, 23), forced="auto_awq"), AWQ, "does not match"),
        (
            ServingTarget(ADA, version=(0, 20), forced="awq_marlin"),
            WeightPacking("awq", 256),
            "does not match the checkpoint here",
        ),
        (ServingTarget(ADA, forced="awq"), SIXTEEN, "Cannot find the config file for awq"),
        (ServingTarget(ADA), WeightPacking("awq", bits=8), "no 8-bit awq"),
        (ServingTarget(ADA), WeightPacking("gptq"), "sym=False"),
        (ServingTarget(ADA), WeightPacking("gptq", 256, zeros=False), "groups of 256"),
        (ServingTarget(ADA), replace(GPTQ, act_order=True), "ordering is no longer supported"),
        (
            ServingTarget(ADA),
            replace(COMPRESSED, act_order=True),
            "ordering is no longer supported",
        ),
        (ServingTarget(EPYC), WeightPacking("awq", zeros=False), "nonsense"),
        (ServingTarget(ADA), WeightPacking("gguf"), "left vLLM with 0.24"),
        (ServingTarget(ADA), WeightPacking("bitsandbytes"), "left vLLM with 0.28"),
        (ServingTarget(INSTINCT, version=(0, 19)), AWQ, "no kernel takes"),
        (ServingTarget(ARC, version=(0, 20)), AWQ, "runs no awq"),
        (ServingTarget(HOPPER, tp=2), WeightPacking("awq", -1), "column's only group among 2 GPUs"),
        (ServingTarget(ADA), WeightPacking("compressed-tensors", 96), "divide no matrix"),
        (ServingTarget(Gpu("MI250X", "amd", "", 64, 1, 1, gfx="gfx90a")), FP8, "no fp8 kernel"),
        (
            ServingTarget(ADA, environment={"VLLM_MARLIN_INPUT_DTYPE": "int8"}),
            AWQ,
            "VLLM_MARLIN_INPUT_DTYPE=int8",
        ),
    ],
)
def test_what_vllm_refuses_is_refused_with_its_cause(target, packing, why):
    result = route(LLAMA_8B, packing, target)
    assert (result.kernel, result.pace) == ("", "refused")
    assert why in result.why
    assert result.do


def test_a_bitsandbytes_checkpoint_is_not_cut_but_a_model_quantized_while_loading_is():
    ready = replace(LLAMA_8B, quantization={"quant_method": "bitsandbytes"})
    target = ServingTarget(ADA, tp=2, version=(0, 20))
    assert route(ready, WeightPacking("bitsandbytes"), target).pace == "refused"
    assert route(LLAMA_8B, SIXTEEN, replace(target, forced="bitsandbytes")).pace == "slow"


def test_activation_order_was_taken_by_marlin_before():
    old = ServingTarget(ADA, version=(0, 28))
    assert route(LLAMA_8B, replace(GPTQ, act_order=True), old).kernel == "Marlin"


def test_groups_that_gpus_cannot_share_name_the_matrix_and_the_sizes_that_work():
    result = route(QWEN2_72B, WeightPacking("awq", 64), ServingTarget(ADA, tp=8))
    assert result.pace == "refused"
    assert result.fallen == ("mlp.down_proj: 29568 inputs / 8 GPUs = 3696, not a multiple of 64",)
    assert "--tensor-parallel-size 1 or 2" in result.do[0]
    assert any("--pipeline-parallel-size 8" in step for step in result.do)


def test_smaller_groups_are_advised_where_they_would_fit():
    result = route(QWEN2_72B, AWQ, ServingTarget(ADA, tp=2))
    assert any("groups of 64" in step for step in result.do)


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("packing", [AWQ, COMPRESSED, GPTQ], ids=lambda p: p.method)
def test_a_dense_model_loads_on_exactly_the_numbers_of_gpus_that_fit(packing, group):
    packing = replace(packing, group=group)
    loads = tuple(
        tp
        for tp in range(1, 17)
        if route(QWEN2_72B, packing, ServingTarget(ADA, tp=tp)).pace != "refused"
    )
    assert loads == fitting_tp(QWEN2_72B, group)


def test_odd_widths_fall_back_layer_by_layer_until_marlin_pads_them():
    """DeepSeek-Coder-V2-Lite's 10944 is 85.5 x 128 (vLLM #13119); in groups of 64 it divides."""
    shape = model(block(16, 16, 10944, 2048))
    packing = WeightPacking("awq", 64)
    falls = route(shape, packing, ServingTarget(AMPERE, version=(0, 9)))
    pads = route(shape, packing, ServingTarget(AMPERE, version=(0, 24)))
    assert (falls.pace, pads.pace) == ("slow", "fast")
    assert [layer.partition(":")[0] for layer in falls.fallen] == ["mlp.down_proj"]
    assert "128, not 10944" in falls.why


def test_the_slow_kernel_has_limits_of_its_own():
    """1000 outputs are no multiple of its 64: it is not slow then but stops."""
    result = route(
        model(block(16, 16, 2048, 1000, 64)), WeightPacking("awq", 64), ServingTarget(TURING)
    )
    assert result.pace == "fast"
    old = route(
        model(block(16, 16, 2048, 1000, 64)),
        WeightPacking("awq", 64),
        ServingTarget(TURING, version=(0, 9)),
    )
    assert old.pace == "refused"
    assert "multiples of 64, not 1000" in old.why


def test_outputs_that_awq_cannot_pack_stop_it_and_compressed_tensors_not():
    shape = model(block(8, 8, 1024, 1028))
    assert "packs 8 outputs together" in route(shape, AWQ, ServingTarget(ADA)).why
    assert route(shape, COMPRESSED, ServingTarget(ADA)).pace == "fast"


def test_eight_bit_activations_suit_codes_without_zero_points():
    target = ServingTarget(ADA, environment={"VLLM_MARLIN_INPUT_DTYPE": "int8"})
    assert route(LLAMA_8B, GPTQ, target).kernel == "Marlin"


def test_a_model_without_matrices_to_round_is_refused():
    bare = model(replace(block(8, 8, 1024), linears=()))
    assert "divide no matrix" in route(bare, WeightPacking("awq", -1), ServingTarget(ADA)).why


def test_matrices_that_the_group_does_not_divide_stay_unquantized_and_set_no_pace():
    shape = model(block(32, 8, 14336 + 16))
    assert route(shape, AWQ, ServingTarget(ADA)).pace == "fast"


# what is not known, and what is rounds beside
@pytest.mark.parametrize(
    ("dtype", "environment", "rounds"),
    [
        (BF16, {}, True),
        ("float16", {}, False),
        (BF16, {"VLLM_CPU_INT4_W4A8": "0"}, False),
    ],
)
def test_activations_rounded_by_default_on_amx_are_reported(dtype, environment, rounds):
    result = route(LLAMA_8B, AWQ, ServingTarget(XEON, dtype=dtype, environment=environment))
    assert result.pace == "fast"
    assert ("8 bits" in result.why) is rounds
    assert ("VLLM_CPU_INT4_W4A8=0" in " ".join(result.do)) is rounds


def test_a_card_of_unknown_make_is_taken_for_ampere_and_says_so():
    result = route(LLAMA_8B, AWQ, ServingTarget(UNKNOWN))
    assert (result.kernel, result.pace) == ("Marlin", "fast")
    assert "assumed" in result.why
    assert "name the card" in " ".join(result.do)


def test_a_release_before_0_8_follows_its_rules_with_the_advice_to_upgrade():
    old, oldest = (route(LLAMA_8B, AWQ, ServingTarget(ADA, version=v)) for v in ((0, 6), (0, 8)))
    assert "upgrade vLLM: 0.6 is older than 0.8" in old.do[-1]
    assert replace(old, do=old.do[:-1]) == oldest


def test_a_release_with_unknown_rules_says_so():
    assert "newer than 0.33" in " ".join(
        route(LLAMA_8B, AWQ, ServingTarget(ADA, version=(0, 40))).do
    )


@pytest.mark.parametrize(
    ("packing", "target", "message"),
    [
        (
            WeightPacking("awk"),
            ServingTarget(ADA),
            r"Unknown packing method 'awk'. Use one of: awq, ",
        ),
        (AWQ, ServingTarget(ADA, dtype="int8"), r"Unknown type of activations 'int8'.*float16"),
        (AWQ, ServingTarget(ADA, tp=0), "Tensor-parallel size must be at least 1, got 0"),
        (
            WeightPacking("awq", 0),
            ServingTarget(ADA),
            "Unsupported group size 0; use 32, 64, 128, or -1",
        ),
    ],
)
def test_an_invalid_target_is_refused_with_what_fits(packing, target, message):
    with pytest.raises(RequestError, match=message):
        route(LLAMA_8B, packing, target)


BOTH = (True, False)
PACKINGS = (
    *(WeightPacking("awq", group, zeros) for group in (-1, 32, 64, 128, 256) for zeros in BOTH),
    *(WeightPacking("compressed-tensors", group, zeros) for group in (-1, 32, 128) for zeros in BOTH),
    WeightPacking("compressed-tensors", 128, bits=8),
    *(WeightPacking("gptq", 128, zeros, act_order=order) for zeros in BOTH for order in BOTH),
    WeightPacking("bitsandbytes"), WeightPacking("gguf"), FP8, SIXTEEN,
)  # fmt: skip
MODELS = {"dense": QWEN2_72B, "odd": model(block(12, 4, 1000, 1000)), "experts": QWEN3_30B_A3B}


@pytest.mark.parametrize("shape", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_target_has_a_route_and_every_slow_one_a_fix(gpu, shape):
    for packing in PACKINGS:
        for version in ((0, 6), (0, 9), (0, 20), (0, 28), (0, 33)):
            for tp in (1, 2, 3, 8):
                for dtype in ("float16", BF16):
                    result = route(shape, packing, ServingTarget(gpu, tp, version, dtype))
                    assert result.why, (packing, version, tp)
                    assert bool(result.kernel) is (result.pace != "refused"), (packing, version, tp)
                    assert result.pace == "fast" or result.do, (packing, version, tp)
                    assert len(set(result.fallen)) == len(result.fallen) <= 20


@pytest.mark.parametrize("model", ["gpt-oss-20b", "Qwen3-30B-A3B", "Llama-3.1-8B", "phi-4"])
@pytest.mark.parametrize("target", [ServingTarget(HOPPER), ServingTarget(ADA, tp=4)])
@pytest.mark.parametrize("group", [32, 64, 128, 256])
def test_a_group_that_is_advised_is_faster_by_the_same_rules(model, target, group):
    shape, packing = released(model), WeightPacking("awq", group)
    first = route(shape, packing, target)
    for step in first.do:
        if step.startswith("quantize again with groups of "):
            sizes = [int(size) for size in re.findall(r"\d+", step)]
            assert group not in sizes
            for size in sizes:
                again = route(shape, replace(packing, group=size), target)
                assert PACES.index(again.pace) < PACES.index(first.pace)


def test_one_gpu_is_not_advised_to_be_fewer():
    for name in ("gpt-oss-20b", "Qwen3-30B-A3B", "Mixtral-8x7B-v0.1"):
        for packing in (AWQ, WeightPacking("awq", 32), GPTQ, COMPRESSED):
            for version in ((0, 8), (0, 32)):
                steps = route(released(name), packing, ServingTarget(ADA, version=version)).do
                assert "fewer GPUs" not in " ".join(steps)
