"""Laws of reading a config: it is counted as by Transformers' classes, or refused."""

import re
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from helpers.families import FAMILIES
from helpers.meta_models import ALIKE, ALL, FUSED, REMOTE, TINY_VISION, built
from helpers.toy_models import tiny_model
from salient.shapes.families import ARCHITECTURES, Family
from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import BlockShape, LinearShape, ModelShape

TOKENS = 5
each_family = pytest.mark.parametrize("kind", ALL)


def parameters_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, and the routers' corrections, which some classes keep as buffers."""
    buffers = {
        n: b for n, b in model.named_buffers() if n.endswith(("correction_bias", "expert_bias"))
    }
    return {**dict(model.named_parameters()), **buffers}


def language(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that are in no tower."""
    towers = ("visual", "vision", "projector", "connector", "image_newline", "audio")
    return {n: p for n, p in parameters_of(model).items() if not any(t in n for t in towers)}


def test_every_family_is_compared_with_a_class_of_transformers():
    compared = {ALIKE.get(kind, kind) for kind in ARCHITECTURES} - set(REMOTE)
    missing = compared - set(ALL) - {f"{kind}_text" for kind in ALL}
    assert not missing, f"Describe a tiny {missing} in FAMILIES of tests/helpers/families.py"
    assert all(family_named(a) is family_named(b) for a, b in ALIKE.items())


def family_named(kind: str) -> Family:
    return ARCHITECTURES[kind if kind in ARCHITECTURES else f"{kind}_text"]


@each_family
def test_a_family_has_as_many_parameters_as_its_class(kind):
    config, model = built(kind)
    shape = read_shape(config)
    assert shape.parameters - sum(shape.towers.values()) == sum(
        p.numel() for p in language(model).values()
    )
    assert shape.parameters == sum(p.numel() for p in parameters_of(model).values())
    assert shape.notes == () or "multi-token" in shape.notes[0]


BLOCK = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.(.+)$")
NO_LINEAR = ("A_log", "conv1d.weight", "conv.conv.weight")


def matrices(kind: str, model: torch.nn.Module) -> dict[int, Counter[tuple[int, ...]]]:
    """Of each block: how many experts and both sizes of each matrix, the smaller first."""
    blocks: dict[int, Counter[tuple[int, ...]]] = {}
    for name, parameter in language(model).items():
        match = BLOCK.search(name)
        if match is None:
            continue
        block = blocks.setdefault(int(match[1]), Counter())
        if kind in FUSED and name.endswith("gate_up_proj.weight"):
            out, width = parameter.shape
            block[1, *sorted((out // 2, width))] += 2
            continue
        stacked = "experts." in name and not name.endswith("bias")
        plain = parameter.ndim == 2 and name.endswith(".weight") and not name.endswith(NO_LINEAR)
        if plain or (stacked and parameter.ndim == 3):
            copies = parameter.shape[0] if parameter.ndim == 3 else 1
            block[copies, *sorted(parameter.shape[-2:])] += 1
    return blocks


def counted(block: BlockShape) -> Counter[tuple[int, ...]]:
    """The same of a shape's block; experts' gate and up count as the one that Transformers has."""
    sizes: Counter[tuple[int, ...]] = Counter()
    for linear in block.linears:
        joined = linear.copies > 1 and linear.joined == "gate_up_proj"
        if joined and linear.name.endswith(("up_proj", "w3")):
            continue
        out = linear.out * (2 if joined else 1)
        sizes[linear.copies, *sorted((out, linear.width))] += 1
    return sizes


@each_family
def test_every_linear_is_a_matrix_of_the_class_and_none_is_missing(kind):
    config, model = built(kind)
    shape = read_shape(config)
    expected = matrices(kind, model)
    assert {index: counted(block) for index, block in enumerate(shape.blocks)} == expected


@pytest.mark.parametrize(
    "kind",
    [
        "llama",
        "gpt2",
        "starcoder2",
        "phi",
        "phi3",
        "gemma3_text",
        "bloom",
        "opt",
        "gpt_oss",
        "glm4_moe",
    ],
)
def test_the_cache_of_a_token_is_that_of_transformers(kind):
    model = tiny_model(kind, **FAMILIES[kind].changes)
    ids = torch.arange(3, 3 + TOKENS)[None]
    cache = model(input_ids=ids, use_cache=True).past_key_values
    values = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    shape = read_shape(model.config.to_dict())
    assert shape.cache_values(TOKENS) == values
    assert all(b.cache.heads == cache.layers[0].keys.shape[1] for b in shape.blocks)


KINDS = {
    "full": "full_attention", "latent": "full_attention", "sliding": "sliding_attention",
    "chunked": "chunked_attention", "delta": "linear_attention", "linear": "linear_attention",
    "convolution": "conv",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma2", {}), ("gemma3_text", {}), ("cohere2", {}), ("exaone4", {}), ("olmo3", {}),
        ("gpt_oss", {}), ("llama4_text", {}), ("vaultgemma", {}), ("qwen3_next", {}),
        ("qwen3_5_text", {}), ("qwen2", {}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 3}),
        ("qwen3", {"use_sliding_window": False, "sliding_window": 16, "max_window_layers": 3}),
    ],
)  # fmt: skip
def test_windows_without_layer_types_are_where_transformers_puts_them(kind, changes):
    options = {"num_hidden_layers": 13, **changes}
    config = AutoConfig.for_model(kind, **options)
    written = {
        key: value for key, value in config.to_dict().items() if key != "layer_types"
    } | options
    blocks = read_shape(written).blocks
    assert [KINDS[block.kind.split()[0]] for block in blocks] == config.layer_types
    windows = {b.cache.window for b in blocks if b.kind.startswith(("sliding", "chunked"))}
    assert windows <= {written.get("sliding_window"), written.get("attention_chunk_size")} - {None}


@pytest.mark.parametrize(("kind", "pattern", "letters"), [
    ("gemma3_text", 3, "LLGLLGL"), ("exaone4", "LLG", "LLGLLGG"), ("cohere2", 2, "LGLGLGL"),
])  # fmt: skip
def test_a_pattern_of_windows_is_read_as_its_family_writes_it(kind, pattern, letters):
    config = AutoConfig.for_model(kind, num_hidden_layers=7).to_dict()
    written = {**config, "layer_types": None, "sliding_window_pattern": pattern}
    full = [block.cache.window is None for block in read_shape(written).blocks]
    assert full == [letter == "G" for letter in letters]


def shape_of(kind: str, **changes: Any) -> ModelShape:
    return read_shape({**built(kind)[0], **changes})


def test_mistrals_window_holds_in_every_block():
    assert {b.cache.window for b in shape_of("mistral", sliding_window=8).blocks} == {8}
    assert {b.cache.window for b in shape_of("mistral", sliding_window=None).blocks} == {None}


@pytest.mark.parametrize("kind", ["mamba2", "qwen3_next", "minimax", "lfm2", "jamba", "falcon_h1"])
def test_a_mixer_caches_a_state_and_no_tokens(kind):
    blocks = [b for b in shape_of(kind).blocks if any(x.part == "mixer" for x in b.linears)]
    assert blocks
    for block in blocks:
        parallel = any(linear.part == "attention" for linear in block.linears)
        assert block.cache.state > 0
        assert (block.cache.values > 0) == parallel


@pytest.mark.parametrize(
    "kind", ["mamba2", "qwen3_next", "jamba", "falcon_h1", "nemotron_h", "granitemoehybrid", "lfm2"]
)
def test_a_state_is_the_one_of_transformers_but_for_the_newest_input(kind):
    """vLLM keeps kernel - 1 inputs of a convolution, Transformers one more."""
    model = tiny_model(kind, **FAMILIES[kind].changes)
    output = model(input_ids=torch.arange(3, 3 + TOKENS)[None], use_cache=True)
    layers = (getattr(output, "past_key_values", None) or output.cache_params).layers
    states = [block.cache.state for block in read_shape(model.config.to_dict()).blocks]
    expected = []
    for layer in layers:
        conv = [state[..., 1:].numel() for state in getattr(layer, "conv_states", {}).values()]
        own = [s.numel() for s in getattr(layer, "recurrent_states", {}).values() if s is not None]
        expected.append(sum(conv) + sum(own))
    assert states == expected
    assert any(states)


def test_latent_attention_is_whole_on_every_gpu():
    cache = shape_of("deepseek_v3").blocks[0].cache
    assert (cache.values, cache.heads) == (32 + 8, 1)


def linear_of(shape: ModelShape, name: str) -> LinearShape:
    return next(linear for linear in shape.linears if linear.name == name)


@pytest.mark.parametrize(
    ("kind", "name", "split", "joined", "part"),
    [
        ("llama", "self_attn.q_proj", "out", "qkv_proj", "attention"),
        ("llama", "self_attn.o_proj", "in", "", "attention"),
        ("llama", "mlp.gate_proj", "out", "gate_up_proj", "mlp"),
        ("llama", "mlp.down_proj", "in", "", "mlp"),
        ("phi3", "self_attn.qkv_proj", "out", "", "attention"),
        ("phi3", "mlp.gate_up_proj", "out", "", "mlp"),
        ("opt", "fc1", "out", "", "mlp"),
        ("mixtral", "block_sparse_moe.experts.*.w1", "out", "gate_up_proj", "experts"),
        ("mixtral", "block_sparse_moe.experts.*.w2", "in", "", "experts"),
        ("mixtral", "block_sparse_moe.gate", "none", "", "router"),
        ("gpt_oss", "mlp.experts.*.up_proj", "out", "gate_up_proj", "experts"),
        ("qwen2_moe", "mlp.shared_expert.down_proj", "in", "", "shared experts"),
        ("qwen2_moe", "mlp.shared_expert_gate", "none", "", "router"),
        ("deepseek_v3", "self_attn.q_a_proj", "none", "fused_qkv_a_proj", "attention"),
        ("deepseek_v3", "self_attn.kv_b_proj", "out", "", "attention"),
        ("qwen3_next", "linear_attn.in_proj_qkvz", "out", "", "mixer"),
        ("qwen3_5_text", "linear_attn.in_proj_z", "out", "in_proj_qkvz", "mixer"),
        ("mamba2", "mixer.in_proj", "out", "", "mixer"),
        ("jamba", "mamba.out_proj", "in", "", "mixer"),
    ],
)
def test_a_linear_is_cut_and_joined_as_engines_do(kind, name, split, joined, part):
    linear = linear_of(shape_of(kind), name)
    assert (linear.split, linear.joined, linear.part) == (split, joined, part)
    assert linear.unquantized == (part == "router")


def test_routers_stay_unquantized_and_experts_are_counted_by_those_chosen():
    shape = shape_of("qwen3_moe")
    router, expert = (linear_of(shape, n) for n in ("mlp.gate", "mlp.experts.*.gate_proj"))
    assert router.unquantized
    assert not expert.unquantized
    assert (expert.copies, expert.active) == (8, 2)


@pytest.mark.parametrize("method", ["awq", "compressed-tensors", "mxfp4", "fp8"])
def test_a_quantized_config_has_the_shape_of_the_model_and_its_own_settings(method):
    settings = {"quant_method": method, "bits": 4}
    shape = shape_of("gpt_oss", quantization_config=settings)
    plain = shape_of("gpt_oss")
    assert shape.quantization == settings
    assert (shape.blocks, shape.parameters) == (plain.blocks, plain.parameters)


def test_an_unknown_family_is_counted_roughly_as_a_llama():
    config = built("llama")[0]
    shape = read_shape({**config, "model_type": "novel"})
    assert shape.blocks == read_shape(config).blocks
    assert shape.rough == ("model type 'novel' is unknown, counted as a decoder like Llama",)
    assert shape.low < shape.parameters < shape.high


def test_a_type_of_no_family_is_counted_by_the_name_of_its_class():
    config = built("deepseek_v4")[0]
    renamed = {**config, "model_type": "novel", "architectures": ["DeepseekV4ForCausalLM"]}
    assert read_shape(renamed).blocks == read_shape(config).blocks


def test_an_unknown_family_with_experts_and_odd_blocks_says_what_is_missing():
    config = {**built("qwen3_moe")[0], "model_type": "novel"}
    assert linear_of(read_shape(config), "mlp.experts.*.down_proj").copies == 8
    odd = {**built("llama")[0], "model_type": "novel", "layer_types": ["mamba", "attention"]}
    assert "1 blocks have no attention of a known kind" in read_shape(odd).notes[-1]


def test_a_text_part_may_leave_out_what_its_class_has_as_usual():
    """LLaVA 1.5 7B: its text part says no more than the kind and the vocabulary."""
    tower = {"model_type": "clip_vision_model", **TINY_VISION}
    config = {
        "model_type": "llava",
        "text_config": {"model_type": "llama", "vocab_size": 32064},
        "vision_config": tower,
    }
    usual = AutoConfig.for_model("llava", **{k: v for k, v in config.items() if k != "model_type"})
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(usual)
    assert read_shape(config).parameters == sum(p.numel() for p in model.parameters())


def test_towers_of_an_unknown_kind_are_a_rough_number_with_a_note():
    config = {**built("llava")[0], "audio_config": {"d_model": 8, "encoder_layers": 2}}
    shape = read_shape(config)
    assert shape.towers["audio tower"] == 2 * 12 * 64
    assert shape.notes == (
        "its audio tower is of an unknown kind: counted roughly, as plain blocks",
    )
