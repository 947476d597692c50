"""The quantization that a config declares: where it stands, and what is judged."""

from pathlib import Path

import pytest

from salient.diagnose.engine_support import engine_support
from salient.diagnose.serving.config_conditions import judge_config
from salient.diagnose.serving.rule_context import RuleContext
from salient.diagnose.serving.settings import ServingSettings
from salient.plan.declared_quantization import declared_quantization
from salient.plan.vllm.types import WeightPacking

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
CODES = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}


def groups(weights: dict, **more) -> dict:
    group = {"targets": ["Linear"], "weights": weights, **more}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


def ids(config: dict, version: tuple[int, int] | None = None) -> dict[str, str]:
    context = RuleContext(ServingSettings(Path(), "json"), None, version, config)
    return {finding.id: finding.level for finding in judge_config(context)}


@pytest.mark.parametrize(
    ("settings", "packing"),
    [
        (AWQ, WeightPacking("awq", 128)),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, WeightPacking("awq", 64)),
        (
            {"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True, "desc_act": True},
            WeightPacking("gptq", -1, zeros=False, bits=8, act_order=True),
        ),
        (
            {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True},
            WeightPacking("gptq", 128, zeros=False),
        ),
        (groups(CODES), WeightPacking("compressed-tensors", 32, zeros=False)),
        (
            groups({**CODES, "symmetric": False, "strategy": "channel", "group_size": None}),
            WeightPacking("compressed-tensors", -1, zeros=True),
        ),
        (groups({"num_bits": 8, "type": "float", "strategy": "channel"}), WeightPacking("fp8")),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, WeightPacking("fp8_block")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, WeightPacking("nvfp4", 16)),
        (
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}},
            WeightPacking("modelopt_fp8"),
        ),
        ({"quant_method": "mxfp4"}, WeightPacking("mxfp4", 32)),
        (groups({"num_bits": 4, "type": "float"}), WeightPacking("nvfp4", 16)),
        ({"load_in_4bit": True}, WeightPacking("bitsandbytes")),
    ],
)
@pytest.mark.parametrize("place", ["", "text_config", "llm_config", "thinker_config"])
def test_a_quantization_is_judged_wherever_it_stands(settings, packing, place):
    config = {"quantization_config": settings}
    declared = declared_quantization({place: config} if place else config)
    assert declared.packing == packing
    assert declared.path.endswith("quantization_config")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"quant_method": "quark"}, "Quark"),
        ({"quant_method": "new"}, "'new' is not known"),
        ({"bits": 4}, "names no quant_method"),
        ("awq", "no JSON object"),
        (groups(CODES, input_activations={"num_bits": 8}), "W4A8"),
        ({**AWQ, "version": "gemv"}, "layout gemm"),
        ({**AWQ, "group_size": "128"}, "no whole numbers"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {
                "a": {"weights": CODES}, "b": {"weights": {**CODES, "num_bits": 8}}}},
            "different formats",
        ),
    ],
)  # fmt: skip
def test_what_is_not_judged_says_why(settings, reason):
    config = {"architectures": ["LlamaForCausalLM"], "quantization_config": settings}
    declared = declared_quantization(config)
    assert declared.packing is None
    assert reason in declared.reason
    assert ids(config) == {"quantization-not-judged": "note"}


def test_weights_without_a_quantization_config_are_unquantized():
    assert declared_quantization({"text_config": {"hidden_size": 8}}) is None


def test_a_quantization_that_vllm_does_not_see_is_named_with_its_place():
    nested = {"architectures": ["InternVLChatModel"], "llm_config": {"quantization_config": AWQ}}
    assert ids(nested) == {"quantization-hidden": "error"}
    text = {"text_config": {"quantization_config": AWQ}}
    assert ids(text, (0, 10)) == {"quantization-hidden": "error"}
    assert ids(text, (0, 11)) == {}
    assert ids({"quantization_config": AWQ}, (0, 10)) == {}


@pytest.mark.parametrize(
    ("version", "level"), [((0, 26), "error"), ((0, 27), None), (None, "warning")]
)
def test_asymmetric_experts_of_compressed_tensors_need_a_newer_release(version, level):
    config = {"num_experts": 8, "quantization_config": groups({**CODES, "symmetric": False})}
    assert ids(config, version).get("experts-asymmetric") == level


@pytest.mark.parametrize(
    ("version", "level"), [((0, 19), "error"), ((0, 31), None), (None, "warning")]
)
def test_experts_with_biases_need_a_newer_release(version, level):
    config = {"model_type": "gpt_oss", "num_local_experts": 8, "quantization_config": groups(CODES)}
    assert ids(config, version).get("experts-bias") == level


def test_an_architecture_of_a_later_release_says_which():
    config = {"architectures": ["Qwen3ForCausalLM"]}
    assert ids(config, (0, 7)) == {"architecture-unknown": "error"}
    assert ids(config, (0, 8)) == {}
    assert ids({"architectures": ["NoSuchModel"]}) == {"architecture-unknown": "error"}


def test_the_text_part_of_a_multimodal_model_is_named():
    config = {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text"}
    assert "text-part-only" in ids(config)
    gemma = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}
    assert ids(gemma) == {}


def test_one_device_gives_one_row_of_the_table():
    from salient.plan.device_names import find_gpu

    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "quantization_config": AWQ,
    }  # fmt: skip
    rows = engine_support(config, None, 1, None, find_gpu("T4"))
    assert [row.device for row in rows if row.engine.startswith("vLLM")] == ["T4"]
