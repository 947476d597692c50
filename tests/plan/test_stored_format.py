"""Laws of the checkpoint as stored: bits, skip lists, kernels, and lines that leave it alone."""

from dataclasses import replace

import pytest

from helpers.shapes import released, small_shape
from salient.core.scheme import LayerSchemes, Scheme
from salient.formats.compressed_tensors import config
from salient.plan.commands import commands
from salient.plan.device_names import find_gpu
from salient.plan.engine_kernels import route_of
from salient.plan.engine_profiles import ENGINES
from salient.plan.memory import Workload, budget
from salient.plan.module_patterns import module_patterns
from salient.plan.ranking import candidates
from salient.plan.requirements import Requirements
from salient.plan.stored_format import SOURCE_NEEDED, STORED, plan_formats, stored_format
from salient.plan.weight_formats import padding, stored_weights
from salient.shapes.model_shape import LinearShape, ModelShape
from salient.shapes.resolve import CONFIGS

LLAMA = CONFIGS / "meta-llama--Llama-3.1-8B.json"
SQUARE = LinearShape("self_attn.q_proj", 4096, 4096)


def ct(bits, kind="int", form="pack-quantized", activations=None, **weights):
    weights = {"num_bits": bits, "type": kind, "symmetric": True, **weights}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {"quant_method": "compressed-tensors", "format": form,
            "config_groups": {"group_0": group}, "ignore": ["lm_head"]}  # fmt: skip


def torchao(kind, **data):
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_data": data}}}


def quark(**weight):
    return {
        "quant_method": "quark",
        "global_quant_config": {"weight": weight},
        "exclude": ["lm_head"],
    }


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
MLX = {"group_size": 64, "bits": 4}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
HQQ = {
    "quant_method": "hqq",
    "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}},
}
AQLM = {"quant_method": "aqlm", "nbits_per_codebook": 16, "num_codebooks": 1, "in_group_size": 8,
        "out_group_size": 1}  # fmt: skip
# Settings, the title, and the bits a weight of a matrix of 4096 x 4096.
WRITERS = [
    (AWQ, "AWQ w4-g128", 4 + 20 / 128),
    ({**AWQ, "version": "gemv"}, "AWQ w4-g128 (gemv)", 4 + 20 / 128),
    ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "AWQ w4-g64", 4 + 20 / 64),
    (GPTQ, "GPTQ w4-g128", 4 + 20 / 128 + 32 / 4096),
    ({**GPTQ, "bits": 8, "desc_act": True}, "GPTQ w8-g128", 8 + 24 / 128 + 32 / 4096),
    ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True}, "GPTQ w4-g128",
     4 + 20 / 128 + 32 / 4096),
    ({"quant_method": "auto-round", "bits": 4, "group_size": 64,
      "packing_format": "auto_round:auto_awq"}, "AWQ w4-g64", 4 + 20 / 64),
    (ct(4, strategy="group", group_size=32), "compressed-tensors w4-g32", 4 + 16 / 32),
    (ct(4, strategy="group", group_size=128, symmetric=False), "compressed-tensors w4-g128",
     4 + 20 / 128),
    (ct(8, strategy="channel"), "compressed-tensors w8", 8 + 16 / 4096),
    (ct(8, form="int-quantized", strategy="channel", activations={"num_bits": 8}),
     "INT8 per channel", 8 + 32 / 4096),
    (ct(8, "float", "float-quantized", strategy="channel"), "FP8 per channel", 8 + 32 / 4096),
    (ct(8, "float", "naive-quantized", strategy="tensor"), "FP8 per tensor", 8),
    (ct(8, "float", "float-quantized", strategy="block", block_structure=[128, 128]),
     "FP8 in blocks of 128 x 128", 8 + 32 / 128**2),
    (ct(4, "float", "nvfp4-pack-quantized", strategy="tensor_group", group_size=16), "NVFP4", 4.5),
    (ct(4, "float", "mxfp4-pack-quantized", strategy="group", group_size=32), "MXFP4", 4.25),
    (BLOCKS, "FP8 in blocks of 128 x 128",
     8 + 32 / 128**2),
    ({"quant_method": "fp8", "activation_scheme": "static"}, "FP8 per tensor", 8),
    ({"quant_method": "fbgemm_fp8"}, "FP8 per channel", 8 + 32 / 4096),
    ({"quant_method": "modelopt", "quant_algo": "FP8"}, "FP8 per tensor", 8),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4", 4.5),
    ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}, "NVFP4", 4.5),
    (BNB, "bitsandbytes NF4", 4.5),
    ({**BNB, "bnb_4bit_use_double_quant": True}, "bitsandbytes NF4", 4 + (8 + 32 / 256) / 64),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes INT8", 8 + 32 / 4096),
    (MLX, "MLX 4-bit g64", 4.5),
    ({"bits": 4, "group_size": 32, "mode": "mxfp4"}, "MLX MXFP4", 4.25),
    (torchao("Int4WeightOnlyConfig", group_size=64), "torchao INT4", 4.5),
    ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "torchao INT8", 8 + 32 / 4096),
    (quark(dtype="fp8_e4m3", qscheme="per_tensor"), "FP8 per tensor", 8),
    (quark(dtype="fp4", qscheme="per_group", group_size=32), "MXFP4", 4.25),
    (HQQ, "HQQ 4-bit g64", 4.5),
    (AQLM, "AQLM 2-bit", 2 + 16 / 4096),
    ({"quant_method": "exl3", "bits": 3.5, "head_bits": 6}, "EXL3 3.5-bit", 3.5 + 16 / 4096),
]  # fmt: skip
NAMES = [f"{title} {index}" for index, (_, title, _) in enumerate(WRITERS)]
DEVICES = ("T4", "B200", "MI300X", "M3 Max")


def quantized(settings, shape: ModelShape | None = None) -> ModelShape:
    return replace(shape or released("Llama-3.1-8B"), quantization=settings)


def load(gpu="H100", engine="vllm", **changes) -> Workload:
    return replace(Workload(ENGINES[engine], find_gpu(gpu), 4096), **changes)


def stored_route(settings, shape=None, **where):
    shape = quantized(settings, shape)
    return route_of(shape, stored_format(shape).form, load(**where))


@pytest.mark.parametrize(("settings", "title", "bits"), WRITERS, ids=NAMES)
def test_a_writers_settings_give_the_title_and_the_bits_of_a_weight(settings, title, bits):
    stored = stored_format(quantized(settings))
    assert stored.title == title
    assert stored.form.rules.bits(0, SQUARE) == pytest.approx(bits, abs=1e-5)


@pytest.mark.parametrize("settings", [row[0] for row in WRITERS], ids=NAMES)
def test_no_line_of_a_quantized_checkpoint_quantizes_it(settings):
    shape = quantized(settings, small_shape())
    for engine in ENGINES:
        for gpu in DEVICES:
            at = load(gpu, engine)
            for one in candidates(shape, at, Requirements()):
                lines = commands("org/model", shape, one, at) if one.runs else ()
                assert one.form.ready or (lines == () and SOURCE_NEEDED in one.reasons)
                assert not any("quantiz" in line for line in lines)


@pytest.mark.parametrize("settings", [row[0] for row in WRITERS], ids=NAMES)
def test_the_stored_row_is_planned_once_and_comes_first_of_what_will_do(settings):
    shape = quantized(settings)
    forms = plan_formats(shape)
    assert [form.name for form in forms].count(STORED) == 1
    assert forms[0].name == STORED
    assert forms[0].ready
    assert not any(form.ready for form in forms[1:])
    ranked = candidates(quantized(settings, small_shape()), load(), Requirements())
    own = next(one for one in ranked if one.form.name == STORED)
    assert ranked[0] is own or not own.good


def test_linears_with_schemes_of_their_own_count_with_their_own_bits():
    own = {
        "model.layers.0.mlp.down_proj": Scheme(128, symmetric=True, bits=8),
        r"re:.*layers\.3\.mlp\.experts(\.|$)": Scheme(32),
    }
    rules = stored_format(quantized(config(LayerSchemes(Scheme(64), own), []))).form.rules
    down = LinearShape("mlp.down_proj", 4096, 4096)
    expert = LinearShape("mlp.experts.*.up_proj", 4096, 4096, "experts")
    assert rules.bits(0, down) == 8 + 16 / 128
    assert rules.bits(1, down) == 4 + 20 / 64
    assert (rules.bits(3, expert), rules.bits(4, expert)) == (4 + 20 / 32, 4 + 20 / 64)


def test_a_16_bit_model_is_its_own_stored_row():
    forms = plan_formats(released("Llama-3.1-8B"))
    assert [form.name for form in forms if form.ready] == ["fp16"]
    assert forms[0].name == "fp16"


def test_the_format_that_is_stored_already_is_not_offered_again():
    names = [form.name for form in plan_formats(quantized(AWQ))]
    assert "awq-g128" not in names
    assert "awq-g64" in names


@pytest.mark.parametrize(
    ("entry", "name", "index", "matches"),
    [
        ("lm_head", "mlp.gate_proj", 0, False),
        ("gate", "mlp.gate", 3, True),
        ("gate", "mlp.gate_proj", 3, False),
        ("mlp.gate", "mlp.gate_proj", 0, False),
        ("model.layers.3.self_attn", "self_attn.q_proj", 3, True),
        ("model.layers.3.self_attn", "self_attn.q_proj", 4, False),
        ("model.language_model.layers.3.self_attn*", "self_attn.q_proj", 3, True),
        ("model.layers.1.*", "mlp.up_proj", 1, True),
        ("model.layers.1*", "mlp.up_proj", 11, False),
        ("model.layers.0*", "mlp.up_proj", 0, True),
        ("model.layers.*.self_attn", "self_attn.o_proj", 7, True),
        ("*.attn.*", "self_attn.o_proj", 7, True),
        ("re:.*self_attn.*", "self_attn.o_proj", 7, True),
        ("re:.*mlp\\.(gate|up)_proj$", "mlp.up_proj", 7, True),
        ("re:.*mlp\\.(gate|up)_proj$", "mlp.down_proj", 7, False),
        ("re:model\\.layers\\.(0|1)\\..*", "mlp.down_proj", 2, False),
        ("layers.5.ffn.experts", "mlp.experts.*.up_proj", 5, True),
        ("backbone.layers.5.mixer.in_proj", "mixer.in_proj", 5, True),
        ("model.layers.5.mlp.experts.0.up_proj", "mlp.experts.*.up_proj", 5, True),
        ("mlp.shared_expert", "mlp.shared_expert.up_proj", 5, True),
        ("re:(", "mlp.up_proj", 0, False),
        ("re:(a+)+$", "mlp.up_proj", 0, False),
        (7, "mlp.up_proj", 0, False),
    ],
)
def test_an_entry_of_a_list_means_a_module_and_what_is_in_it(entry, name, index, matches):
    assert module_patterns([entry]).match(index, LinearShape(name, 64, 64)) is matches


SKIPPING = [
    ({**AWQ, "modules_to_not_convert": ["self_attn"]}),
    ({**GPTQ, "dynamic": {"-:.*self_attn.*": {}}}),
    ({**ct(4, strategy="group", group_size=128), "ignore": ["re:.*self_attn.*"]}),
    ({"quant_method": "fp8", "ignored_layers": ["model.layers.0.self_attn.q_proj",
      "model.layers.1.self_attn.q_proj"]}),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.layers.*.self_attn*"]}),
    ({**BNB, "llm_int8_skip_modules": ["self_attn"]}),
    ({**MLX, "model.layers.0.self_attn.q_proj": False, "model.layers.1.self_attn.q_proj": False}),
    ({**HQQ, "skip_modules": ["self_attn"]}),
    ({**torchao("Int4WeightOnlyConfig"), "modules_to_not_convert": ["self_attn"]}),
    ({**quark(dtype="int4"), "exclude": ["*self_attn*"]}),
    ({"quant_method": "mxfp4"}),
]  # fmt: skip


@pytest.mark.parametrize("settings", SKIPPING, ids=str)
def test_what_a_list_skips_stays_in_16_bit(settings):
    rules = stored_format(quantized(settings)).form.rules
    assert all(rules.bits(index, SQUARE) == 16 for index in (0, 1))


def test_modules_of_their_own_bits_are_counted_with_them():
    up = LinearShape("mlp.up_proj", 4096, 4096, "mlp")
    rows = (
        ({**MLX, "model.layers.0.mlp.up_proj": {"group_size": 64, "bits": 8}}, 8.5),
        ({**GPTQ, "dynamic": {r"+:.*\.0\..*up_proj": {"bits": 8}}}, 8 + 24 / 128 + 32 / 4096),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True,
          "extra_config": {"model.layers.0.mlp.up_proj": {"bits": 16}}}, 16),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {
            "model.layers.0.mlp.up_proj": {"quant_algo": "FP8"}}}, 8),
    )  # fmt: skip
    for settings, bits in rows:
        rules = stored_format(quantized(settings)).form.rules
        assert rules.bits(0, up) == pytest.approx(bits, abs=1e-5)
        assert rules.bits(1, up) != rules.bits(0, up)


def test_heads_and_embeddings_have_the_format_that_their_writer_gives_them():
    shape, sixteen = released("Llama-3.1-8B"), (16.0, 16.0)
    assert stored_format(quantized(AWQ)).form.rules.ends(shape) == sixteen
    assert stored_format(quantized(MLX)).form.rules.ends(shape) == (4.5, 4.5)
    eight = {**MLX, "model.embed_tokens": {"group_size": 64, "bits": 8}}
    assert stored_format(quantized(eight)).form.rules.ends(shape) == (8.5, 4.5)
    head = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {"lm_head": {"quant_algo": "NVFP4"}}}  # fmt: skip
    assert stored_format(quantized(head)).form.rules.ends(shape)[1] == 4.5


# Bytes of the files, 10^9: gpt-oss's own; mlx-community's by the model cards of exo; DeepSeek-V3's
# index, with its layer that predicts further tokens.
PUBLISHED = [
    ("gpt-oss-20b", {"quant_method": "mxfp4"}, 13.76),
    ("Qwen3-30B-A3B", {"group_size": 64, "bits": 4}, 16773 * 2**20 / 1e9),
    ("DeepSeek-V3", BLOCKS, 688.59),
]


@pytest.mark.parametrize(("model", "settings", "gigabytes"), PUBLISHED)
def test_a_stored_size_is_that_of_the_published_files(model, settings, gigabytes):
    shape = quantized(settings, released(model))
    assert stored_weights(shape, stored_format(shape).form).files / 1e9 == pytest.approx(
        gigabytes, rel=0.03
    )


def test_the_bytes_of_the_files_count_where_they_are_known():
    shape = replace(quantized(AWQ), stored_bytes=6_000_000_000)
    stored = stored_weights(shape, stored_format(shape).form)
    assert stored.total == stored.files == 6_000_000_000
    ahead = replace(shape, ahead=shape.parameters // 9)
    stored = stored_weights(ahead, stored_format(ahead).form)
    assert stored.files == pytest.approx(6_000_000_000, rel=1e-6)
    assert 0.85 * stored.files < stored.total < 0.95 * stored.files


def test_layers_ahead_have_the_format_of_experts_where_there_are_experts():
    settings = {**BLOCKS, "expert_dtype": "fp4"}
    mixture = quantized(settings, replace(released("gpt-oss-20b"), ahead=8 * 10**9))
    dense = quantized(settings, replace(small_shape(), ahead=8 * 10**9))
    sizes = [stored_weights(shape, stored_format(shape).form).ahead for shape in (mixture, dense)]
    assert [round(size / 1e9, 2) for size in sizes] == [4.25, 8.0]


def test_experts_in_mxfp4_are_padded_where_they_are_loaded():
    shape = quantized({"quant_method": "mxfp4"}, released("gpt-oss-20b"))
    form = stored_format(shape).form
    experts = shape.count(lambda linear: linear.part == "experts")
    assert padding(shape, form, 1) == pytest.approx(
        experts * 4.25 / 8 * (2944 * 3072 / 2880**2 - 1), rel=1e-6
    )
    weights = budget(shape, form, load()).items[0]
    assert "padding" in weights.formula
    assert weights.bytes > stored_weights(shape, form).total


@pytest.mark.parametrize(
    ("settings", "gpu", "kernel", "pace"),
    [
        (AWQ, "RTX 4090", "Marlin", "fast"),
        (ct(4, strategy="group", group_size=128), "H100", "Machete", "fast"),
        (BLOCKS, "H100", "DeepGEMM", "fast"),
        (BLOCKS, "RTX 4090", "Triton FP8", "fast"),
        (BLOCKS, "A100", "Marlin FP8", "fast"),
        (ct(4, "float", "nvfp4-pack-quantized"), "B200", "FlashInfer NVFP4", "fast"),
        (ct(4, "float", "nvfp4-pack-quantized"), "RTX 5090", "FlashInfer NVFP4", "fast"),
        (ct(4, "float", "nvfp4-pack-quantized"), "A100", "Marlin FP4", "fast"),
        (ct(4, "float", "nvfp4-pack-quantized"), "MI300X", "emulation", "slow"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "A100", "", "refused"),
        (ct(8, form="int-quantized", activations={"num_bits": 8}), "A100", "CUTLASS INT8", "fast"),
        (ct(8, form="int-quantized", activations={"num_bits": 8}), "B200", "Triton INT8", "fast"),
        (BNB, "RTX 4090", "", "refused"),
        (MLX, "RTX 4090", "", "refused"),
        ({"quant_method": "quark"}, "MI300X", "", "refused"),
    ],
)  # fmt: skip
def test_each_stored_format_has_the_kernel_of_its_device(settings, gpu, kernel, pace):
    route = stored_route(settings, gpu=gpu)
    assert (route.kernel, route.pace) == (kernel, pace)
    assert route.why


@pytest.mark.parametrize(
    ("gpu", "kernel"),
    [
        ("B200", "FlashInfer TRT-LLM"),
        ("H100", "Triton MXFP4"),
        ("A100", "Marlin"),
        ("RTX 5090", "Marlin"),
        ("MI300X", "Triton MXFP4"),
    ],
)
def test_experts_in_mxfp4_have_a_kernel_of_their_own(gpu, kernel):
    route = stored_route({"quant_method": "mxfp4"}, released("gpt-oss-20b"), gpu=gpu)
    assert (route.kernel, route.experts, route.pace) == (kernel, kernel, "fast")


def test_mxfp4_is_refused_before_ampere():
    route = stored_route({"quant_method": "mxfp4"}, released("gpt-oss-20b"), gpu="T4")
    assert route.pace == "refused"
    assert "from compute capability 8.0 on" in route.why


def test_blocks_of_fp8_are_not_cut_by_tensor_parallelism():

    shape = released("Qwen3-30B-A3B")  # experts of 768
    assert stored_route(BLOCKS, shape, tp=2).pace == "fast"
    route = stored_route(BLOCKS, shape, tp=4)
    assert route.pace == "refused"
    assert "768 outputs / 4 GPUs = 192, not a multiple of 128" in route.why
    assert route.do == (
        "serve with --tensor-parallel-size 2",
        "or with --enable-expert-parallel, which cuts no expert",
    )


def test_several_formats_have_the_pace_of_the_slowest_and_the_kernel_of_most_weights():
    layers = {
        f"model.layers.{i}.self_attn.{name}": {"quant_algo": "FP8"}
        for i in range(2)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    }
    layers |= {
        f"model.layers.{i}.mlp.{name}": {"quant_algo": "NVFP4"}
        for i in range(2)
        for name in ("gate_proj", "up_proj", "down_proj")
    }
    settings = {"quant_method": "modelopt", "quantized_layers": layers}
    mixed = quantized(settings, small_shape())
    assert stored_format(mixed).title == "NVFP4 + FP8 per tensor"
    assert stored_route(settings, small_shape(), gpu="B200").kernel == "FlashInfer NVFP4"
    assert stored_route(settings, small_shape(), gpu="A100").pace == "refused"  # ModelOpt's FP8


def test_settings_that_cannot_be_read_stop_the_plan_with_the_reason():
    route = stored_route({"quant_method": "new"})
    assert route.pace == "refused"
    assert (
        "how its weights are stored is not known: the method 'new' is not known here" in route.why
    )
    assert route.do == ("give a folder with its safetensors, or plan the 16-bit model",)
