"""What can be loaded runs as its weights say; what contradicts itself says where."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from helpers.engines import GREEDY, agree, never_dense, opened, prompt
from helpers.rtn_checkpoints import MIXED, rounded_toy
from helpers.tolerance import assert_within, coded_rounding, likely, model_rounding, worst
from helpers.toy_models import rewrite_json, save, tiny_model
from salient.core.errors import CheckpointError, ModelError, RequestError, ShapeError
from salient.core.model_files import SINGLE, read_json
from salient.core.scheme import Scheme
from salient.formats.checkpoint import open_checkpoint
from salient.kernels.cpu_library import Library, load_library
from salient.models.model_folder import load_dequantized
from salient.runtime.linear import HalfEmbedding, HalfLinear, QuantLinear
from salient.runtime.load_engine import EngineOptions, load
from salient.runtime.model_loader import load_model

CPU = torch.device("cpu")
IDS = prompt(24)
UP = "model.layers.1.mlp.up_proj"

needs_compiler = pytest.mark.skipif(
    not isinstance(load_library(), Library), reason=f"{load_library()}"
)


@pytest.fixture(autouse=True)
def no_dense_products(monkeypatch):
    never_dense(monkeypatch)


@pytest.fixture
def llama(tmp_path):
    return rounded_toy(tmp_path, "llama")


def off(folder, **options) -> float:
    """How far the opened checkpoint's logits are from those of its dequantized weights."""
    model, _ = load_dequantized(str(folder))
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, -1]
    actual = opened(folder, **options).engine.runner.prefill(0, IDS, 0)
    return float((actual - wanted).abs().max() / wanted.abs().max())


def loaded(folder, kernel: str = "auto"):
    return load_model(str(folder), CPU, torch.float32, kernel)


def rewrite(folder, drop: str = "", **changes: torch.Tensor) -> None:
    tensors = {n: t for n, t in load_file(folder / SINGLE).items() if n != drop} | changes
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def requantize(folder, **settings: object) -> None:
    old = read_json(folder / "config.json")["quantization_config"]
    rewrite_json(folder / "config.json", quantization_config=old | settings)


# What loads


@pytest.mark.parametrize("scheme", ["w4-g32", "w4-g32-sym"])
@pytest.mark.parametrize("format", ["awq", "compressed-tensors"])
@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_every_format_and_scheme_runs_with_its_weights(format, scheme, kernel, tmp_path):
    folder = rounded_toy(tmp_path, format=format, scheme=scheme)
    rounding = coded_rounding() if kernel == "auto" else model_rounding()
    assert off(folder, kernel=kernel) < rounding
    model = loaded(folder, kernel)
    assert sum(isinstance(m, QuantLinear) for m in model.module.modules()) == 14
    assert sum(model.kernels.values()) == 14
    ((name, _),) = model.kernels
    assert bool(model.merged) == (name == "cpu")
    assert bool(model.unmerged) == (name != "cpu")


def test_linears_with_schemes_of_their_own_run_with_their_weights(tmp_path):
    folder = rounded_toy(tmp_path, format="compressed-tensors", own=MIXED)
    assert off(folder) < coded_rounding()
    model = loaded(folder)
    schemes = {name: m.packed.scheme for name, m in model.module.named_modules()
               if isinstance(m, QuantLinear)}  # fmt: skip
    assert {n: s for n, s in schemes.items() if str(s) != "w4-g32"} == MIXED
    assert sum(count for (name, _), count in model.kernels.items() if name == "dense") >= 1


def test_siblings_whose_schemes_differ_are_not_joined(tmp_path):
    own = {"model.layers.0.self_attn.k_proj": Scheme(64)}
    folder = rounded_toy(tmp_path, format="compressed-tensors", own=own)
    assert off(folder) < coded_rounding()
    home = "model.layers.0.self_attn"
    assert loaded(folder).unmerged[home] == "their schemes differ"


def test_both_formats_give_the_same_bits(tmp_path):
    actual = []
    for format in ("awq", "compressed-tensors"):
        folder = rounded_toy(tmp_path / format, format=format)
        actual.append(opened(folder).engine.runner.prefill(0, IDS, 0))
    assert torch.equal(*actual)


@pytest.mark.parametrize(
    "skip", [("down_proj",), ("*.0.self_attn.q_proj",), ("layers.1.*",), ("gate_proj", "o_proj")]
)
def test_skipped_linears_run_at_16_bits(skip, tmp_path):
    folder = rounded_toy(tmp_path, skip=skip)
    assert off(folder) < coded_rounding()
    layers = loaded(folder).module.model.layers
    remaining = {f"model.layers.{n}" for n, m in layers.named_modules() if isinstance(m, nn.Linear)}
    settings = read_json(folder / "config.json")["quantization_config"]
    assert remaining == {name for name in settings["modules_to_not_convert"] if "layers" in name}


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_biases_are_added(kind, tmp_path):
    changes = {} if kind == "qwen2" else {"attention_bias": True, "mlp_bias": True}
    folder = rounded_toy(tmp_path, kind, changes)
    attention = loaded(folder).module.model.layers[0].self_attn
    assert all(getattr(attention, name).bias is not None for name in ("q_proj", "k_proj", "v_proj"))
    assert off(folder) < coded_rounding()
    without = {n: torch.zeros_like(t) for n, t in load_file(folder / SINGLE).items() if "bias" in n}
    before = opened(folder).engine.runner.prefill(0, IDS, 0)
    rewrite(folder, **without)
    assert not torch.allclose(opened(folder).engine.runner.prefill(0, IDS, 0), before, rtol=0.01)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_embedding_and_head_stay_at_16_bits_and_exact(tied, dtype, tmp_path):
    folder = rounded_toy(tmp_path, changes={"tie_word_embeddings": tied}, dtype=dtype)
    assert ("lm_head.weight" in open_checkpoint(folder).files) != tied
    module = loaded(folder).module
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
    assert isinstance(embedding, HalfEmbedding)
    assert isinstance(head, HalfLinear)
    assert embedding.weight.dtype == head.weight.dtype == dtype
    assert (embedding.weight.data_ptr() == head.weight.data_ptr()) == tied
    assert off(folder) < coded_rounding()


@needs_compiler
@pytest.mark.parametrize("kind", ["gemma", "gemma3_text"])
def test_an_embedding_of_16_bits_is_scaled_in_the_activations_type(kind, tmp_path):
    """Gemma multiplies by the root of its width: 9.798, which bfloat16 would make 9.8125."""
    folder = rounded_toy(tmp_path, kind, {"hidden_size": 96}, dtype=torch.bfloat16)
    embedding = loaded(folder).module.get_input_embeddings()
    assert embedding.weight.dtype == torch.bfloat16
    assert embedding(torch.tensor([3])).dtype == torch.float32
    exact, _ = load_dequantized(str(folder))
    wanted = exact.get_input_embeddings()(torch.arange(320))
    assert_within(embedding(torch.arange(320)), wanted, worst(2) * wanted.abs())
    assert off(folder) < coded_rounding()


def test_an_embedding_that_16_bits_do_not_hold_stays_as_it_is(llama):
    rewrite_json(llama / "config.json", dtype="bfloat16")
    module = loaded(llama).module
    assert module.get_input_embeddings().weight.dtype == torch.float32
    assert off(llama) < coded_rounding()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_16_bit_model_runs_without_codes(dtype, tmp_path):
    folder = save(tiny_model(), tmp_path / "model", dtype)
    model = loaded(folder)
    assert not model.kernels
    assert not any(isinstance(m, QuantLinear) for m in model.module.modules())
    assert off(folder) < model_rounding()


@needs_compiler
def test_only_the_codes_are_in_memory(llama):
    linear = loaded(llama).module.model.layers[0].self_attn.o_proj
    assert linear.packed.bytes < linear.packed.out * linear.packed.width
    assert not list(linear.parameters())
    assert linear.weight.shape == (64, 64)


def test_generation_settings_come_with_the_checkpoint(llama):
    (llama / "generation_config.json").write_text('{"eos_token_id": [2, 77]}')
    assert load(str(llama), EngineOptions(context_length=64)).engine.ends == {2, 77}


def test_the_context_is_the_models_unless_it_is_long(tmp_path):
    short = rounded_toy(tmp_path / "a")
    long = rounded_toy(tmp_path / "b", changes={"max_position_embeddings": 10**5})
    assert load(str(short), EngineOptions(slots=1)).engine.context == 512
    assert load(str(long), EngineOptions(slots=1)).engine.context == 8192
    assert load(str(long), EngineOptions(slots=1, context_length=9000)).engine.context == 9000


def test_16_bit_keys_and_values_give_close_logits(llama):
    built = opened(llama, kv_dtype="bfloat16")
    assert built.engine.runner.cache.dtype == torch.bfloat16
    exact = opened(llama).engine.runner.prefill(0, IDS, 0)
    error = float((built.engine.runner.prefill(0, IDS, 0) - exact).abs().max() / exact.abs().max())
    assert 0 < error < likely(2, torch.bfloat16)  # of keys and of values
    answers = [built.engine.generate([IDS], GREEDY)[0] for _ in range(2)]
    assert agree(*answers)


# What does not


def test_a_missing_tensor_is_named(llama):
    rewrite(llama, drop=f"{UP}.qzeros")
    with pytest.raises(CheckpointError, match=rf"has no tensor '{UP}\.qzeros': the checkpoint is"):
        loaded(llama)


def test_missing_codes_are_named(llama):
    rewrite(llama, drop=f"{UP}.qweight")
    with pytest.raises(ModelError, match=rf"has no tensor '{UP}\.weight'"):
        loaded(llama)


def test_codes_of_another_shape_than_the_configs_are_refused(llama):
    rewrite_json(llama / "config.json", intermediate_size=128)
    message = r"'model\.layers\.0\.mlp\.gate_proj' has codes for \[96, 64\], but config\.json makes"
    with pytest.raises(CheckpointError, match=message + r" it \[128, 64\]\..*fetch the checkpoint"):
        loaded(llama)


def test_scales_of_other_groups_than_the_configs_are_refused(llama):
    requantize(llama, group_size=64)
    message = (
        r"has scales \[\d+, 2\] and zeros .* at w4-g64 need .*Correct group_size in config.json"
    )
    with pytest.raises(CheckpointError, match=message):
        loaded(llama)


def test_other_bits_are_refused(llama):
    requantize(llama, bits=3)
    with pytest.raises(CheckpointError, match=r"bits=3, group_size=32\. Salient reads AutoAWQ"):
        loaded(llama)


def test_an_odd_group_size_lists_the_known_schemes(llama):
    requantize(llama, group_size=48)
    with pytest.raises(ShapeError, match=r"Unknown scheme 'w4-g48'\. Known schemes: w4-g128, "):
        loaded(llama)


def test_an_unknown_method_is_an_error_with_the_known_ones(llama):
    requantize(llama, quant_method="hqq")
    message = r"is quantized with 'hqq'\. Salient reads 16-bit models and: awq, compressed-tensors"
    with pytest.raises(CheckpointError, match=message):
        loaded(llama)


def test_a_kernel_that_does_not_support_the_layers_is_an_error(llama):
    message = (
        r"The kernel 'torch-int4' does not support a layer of 128 x 64: it is fast in bfloat16 only"
    )
    with pytest.raises(ModelError, match=message):
        loaded(llama, "torch-int4")


def test_no_folder_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="No model folder"):
        loaded(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu9"}, r"Device 'tpu9' cannot be used \("),
        ({"dtype": "int8"}, r"Unknown dtype 'int8'\. Use auto, float32, bfloat16, float16\."),
        ({"kv_dtype": "fp8"}, r"Unknown kv_dtype 'fp8'\. Use auto, float32, "),
        ({"compile": "yes"}, r"compile='yes'\. Give one of auto, on, off\."),
        ({"slots": 0}, r"0 sequences at once\. Give at least 1\."),
        ({"context_length": 1}, r"A context of 1 tokens\. Give at least 2\."),
        (
            {"context_length": 513},
            r"A context of 513 tokens, but the model was made for 512\. Give at m",
        ),
    ],
)
def test_an_invalid_option_is_an_error_with_valid_values(options, message, toy):
    with pytest.raises(RequestError, match=message):
        load(str(toy), EngineOptions(**options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_an_absent_gpu_is_an_error(toy):
    with pytest.raises(RequestError, match=r"Device 'cuda:1' cannot be used"):
        load(str(toy), EngineOptions(device="cuda:1"))


def test_a_dequantized_model_of_an_unknown_type_is_refused_before_it_is_read(tmp_path):
    with pytest.raises(RequestError, match=r"Unknown dtype 'int8'\. Use auto, float32"):
        load_dequantized(str(tmp_path), dtype="int8")
