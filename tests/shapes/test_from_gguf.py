"""Laws of GGUF files: counted and sized by their headers, and planned as they are."""

import json
import struct

import pytest

from helpers.gguf_files import LLAMA_8B, llama_tensors, write_gguf
from helpers.shapes import released
from salient.core.errors import ModelError
from salient.plan.commands import commands
from salient.plan.device_names import find_gpu
from salient.plan.engine_profiles import ENGINES
from salient.plan.memory import Workload
from salient.plan.ranking import candidates
from salient.plan.requirements import Requirements
from salient.plan.stored_format import stored_format
from salient.plan.weight_formats import FORMATS, bytes_read, stored_weights
from salient.shapes.gguf_header import read_gguf_header
from salient.shapes.resolve import CONFIGS, full_name, resolve_shape


@pytest.fixture
def model(tmp_path):
    return write_gguf(tmp_path / "llama-Q4_K_M.gguf", LLAMA_8B, llama_tensors())


def test_a_gguf_file_has_the_shape_of_its_model_and_the_bytes_of_its_tensors(model):
    shape, origin = resolve_shape(str(model))
    known = released("Llama-3.1-8B")
    assert origin == f"the file {model}"
    assert (shape.parameters, shape.context) == (known.parameters, 131072)
    assert [block.linears for block in shape.blocks] == [block.linears for block in known.blocks]
    stored = stored_format(shape)
    assert stored.title == "GGUF Q4_K_M"
    assert stored_weights(shape, stored.form).total == shape.stored_bytes
    assert shape.stored_bytes / 1e9 == pytest.approx(4.92, rel=0.005)  # bartowski's file
    planned = bytes_read(known, FORMATS["q4_k_m"])
    assert bytes_read(shape, stored.form) == pytest.approx(planned, rel=0.001)


# A shipped model, llama.cpp's name of its family, and what its metadata have besides widths.
FAMILIES = [
    ("Qwen2.5-14B", "qwen2", {}),
    ("Qwen3-30B-A3B", "qwen3moe", {
        "attention.key_length": 128, "expert_count": 128, "expert_used_count": 8,
        "expert_feed_forward_length": 768}),
    ("Mixtral-8x7B-v0.1", "llama", {"expert_count": 8, "expert_used_count": 2}),
    ("gpt-oss-20b", "gpt-oss", {
        "attention.key_length": 64, "attention.sliding_window": 128, "expert_count": 32,
        "expert_used_count": 4}),
    ("DeepSeek-V3", "deepseek2", {
        "attention.key_length": 576, "attention.q_lora_rank": 1536, "attention.kv_lora_rank": 512,
        "attention.key_length_mla": 192, "attention.value_length_mla": 128,
        "rope.dimension_count": 64, "expert_count": 256, "expert_used_count": 8,
        "expert_shared_count": 1, "expert_feed_forward_length": 2048,
        "leading_dense_block_count": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "family", "more"), FAMILIES)
def test_metadata_give_the_counts_of_the_config(model, family, more, tmp_path):
    config = json.loads(next(CONFIGS.glob(f"*--{model}.json")).read_text())
    known = released(model)
    widths = {
        "embedding_length": "hidden_size", "block_count": "num_hidden_layers",
        "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "context_length": "max_position_embeddings",
    }  # fmt: skip
    values = {key: config[own] for key, own in widths.items()} | more
    metadata = {f"{family}.{key}": value for key, value in values.items()}
    tables = [
        (name, "Q4_K", (known.vocab, known.hidden))
        for name in ("token_embd.weight", "output.weight")
    ]
    metadata = {"general.architecture": family, **metadata}
    shape, _ = resolve_shape(str(write_gguf(tmp_path / "m.gguf", metadata, tables)))
    assert shape.parameters == known.parameters
    assert shape.values_per_token == known.values_per_token
    assert shape.exact


def test_llama_cpp_serves_the_file_itself_and_vllm_says_who_does(model):
    shape, _ = resolve_shape(str(model))
    at = Workload(ENGINES["llama.cpp"], find_gpu("M3 Max"), 4096)
    best = candidates(shape, at, Requirements())[0]
    assert best.form.name == "stored"
    name = full_name(str(model.parent))
    assert commands(name, shape, best, at) == (f"llama-server -m {model} -c 4096 -np 1 -ngl 99",)
    at = Workload(ENGINES["vllm"], find_gpu("RTX 4090"), 4096)
    own = next(one for one in candidates(shape, at, Requirements()) if one.form.name == "stored")
    assert own.route.pace == "refused"
    assert "run the file with llama.cpp" in own.route.do[0]


def test_a_folder_with_one_gguf_model_is_that_model_and_with_several_lists_them(model):
    assert resolve_shape(str(model.parent))[0].parameters == released("Llama-3.1-8B").parameters
    write_gguf(model.with_name("mmproj-F16.gguf"), {"general.architecture": "clip"}, [])
    resolve_shape(str(model.parent))
    write_gguf(model.with_name("llama-Q8_0.gguf"), LLAMA_8B, llama_tensors())
    with pytest.raises(ModelError, match=r"2 GGUF models: llama-Q4_K_M\.gguf, llama-Q8_0\.gguf"):
        resolve_shape(str(model.parent))


def test_shards_are_counted_together_and_a_missing_one_is_named(tmp_path):
    tensors = llama_tensors()
    first = write_gguf(tmp_path / "m-00001-of-00002.gguf", LLAMA_8B, tensors[:100])
    with pytest.raises(ModelError, match=r"'m-00002-of-00002\.gguf' is not in its folder"):
        resolve_shape(str(first))
    write_gguf(tmp_path / "m-00002-of-00002.gguf", {}, tensors[100:])
    assert resolve_shape(str(tmp_path))[0].stored_bytes == pytest.approx(4.92e9, rel=0.005)


def test_the_arrays_of_a_tokenizer_are_skipped(tmp_path):
    metadata = {**LLAMA_8B, "tokenizer.ggml.tokens": ["a", "bc"] * 50, "general.name": "Llama"}
    header = read_gguf_header(write_gguf(tmp_path / "m.gguf", metadata, llama_tensors(1)))
    assert header.metadata["general.name"] == "Llama"
    assert "tokenizer.ggml.tokens" not in header.metadata
    assert header.tensors[0].kind == "Q4_K"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0" * 64, "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "its version is 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "tensors and 0 entries"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1), "cannot be read as GGUF"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60), "a text of"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77), "type 77"),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**60),
            "'k' has",
        ),
    ],
)
def test_a_damaged_gguf_file_is_refused_with_its_fault(content, message, tmp_path):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        resolve_shape(str(tmp_path / "m.gguf"))
