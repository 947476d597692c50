"""Laws of a memory budget: exact caches, monotone fits, and bounds that are the true ones."""

from dataclasses import replace

import pytest

from helpers.shapes import released, small_shape
from salient.core.errors import RequestError
from salient.plan.device_names import find_gpu
from salient.plan.engine_profiles import (
    ENGINES,
    GIB,
    find_engine,
    kv_bytes,
    logits_bytes,
    step_bytes,
    step_sizes,
)
from salient.plan.gpus import gpu_of_memory
from salient.plan.memory import (
    Workload,
    YarnOverride,
    budget,
    most_states,
    sequence_bytes,
    utilization,
    weights_share,
)
from salient.plan.weight_formats import FORMATS, stored_weights
from salient.shapes.model_shape import CacheShape, ModelShape

AWQ = FORMATS["awq-g128"]


def load(engine="vllm", gib=24.0, context=4096, **changes) -> Workload:
    return replace(Workload(ENGINES[engine], gpu_of_memory(gib), context), **changes)


def with_cache(shape, *caches: CacheShape):
    blocks = tuple(replace(b, cache=c) for b, c in zip(shape.blocks, caches, strict=True))
    return replace(shape, blocks=blocks)


def test_a_cache_is_layers_times_heads_times_bytes_in_whole_blocks():
    # 2 blocks x (keys + values) x 2 heads x 64 x 2 bytes; 100 tokens are 7 blocks of 16
    assert sequence_bytes(small_shape(), load(), 100) == 2 * 2 * 2 * 64 * 2 * 112
    assert sequence_bytes(small_shape(), load("llama.cpp"), 100) == 2 * 2 * 2 * 64 * 2 * 100


def test_a_window_caches_no_more_than_its_tokens():
    shape = with_cache(small_shape(), CacheShape(256, 2, window=512), CacheShape(256, 2))
    full = sequence_bytes(small_shape(), load(), 4096) // 2
    assert sequence_bytes(shape, load(), 4096) == full + full * 512 // 4096


def test_a_recurrent_state_does_not_grow_with_the_context():
    shape = with_cache(small_shape(), CacheShape(state=1000), CacheShape(state=1000))
    assert sequence_bytes(shape, load(), 1) == sequence_bytes(shape, load(), 4096) == 2 * 1000 * 4


@pytest.mark.parametrize(("tp", "share"), [(1, 1), (2, 1 / 2), (4, 1 / 2), (8, 1 / 2)])
def test_heads_are_divided_whole_and_each_gpu_holds_at_least_one(tp, share):
    assert (
        sequence_bytes(small_shape(), load(tp=tp), 1024)
        == sequence_bytes(small_shape(), load(), 1024) * share
    )


def test_a_latent_cache_is_whole_on_every_gpu():
    shape = with_cache(small_shape(), CacheShape(576, 1), CacheShape(576, 1))
    assert sequence_bytes(shape, load(tp=8), 1024) == sequence_bytes(shape, load(), 1024)


@pytest.mark.parametrize("kind", ["fp8", "fp8_e5m2"])
def test_an_fp8_cache_takes_half(kind):
    half = sequence_bytes(small_shape(), load(kv_dtype=kind), 1024)
    assert 2 * half == sequence_bytes(small_shape(), load(), 1024)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_largest_context_is_the_last_that_fits(engine):
    shape = released("Llama-3.1-8B")
    workload = load(engine, 10.0)
    memory = budget(shape, AWQ, workload)
    block = workload.engine.block
    room = memory.available - (memory.taken - memory.items[-1].bytes)
    assert 0 < memory.largest_context < shape.context
    assert sequence_bytes(shape, workload, memory.largest_context) <= room
    assert sequence_bytes(shape, workload, memory.largest_context + block) > room


def test_the_largest_context_is_never_more_than_the_models_own():
    assert budget(small_shape(), AWQ, load(gib=80.0)).largest_context == small_shape().context


def test_the_most_sequences_are_the_last_that_fit():
    shape = released("Llama-3.1-8B")
    most = budget(shape, AWQ, load(gib=16.0)).most_sequences
    assert most > 1
    assert budget(shape, AWQ, load(gib=16.0, sequences=most)).fits
    assert not budget(shape, AWQ, load(gib=16.0, sequences=most + 1)).fits


def test_a_model_that_does_not_fit_leaves_no_room():
    memory = budget(released("Llama-3.1-70B"), FORMATS["fp16"], load(gib=24.0))
    assert not memory.fits
    assert memory.largest_context == memory.most_sequences == 0


def test_every_item_has_a_formula_and_a_source():
    for name in ("Gemma-3-27b-it".lower(), "DeepSeek-V3", "gpt-oss-20b"):
        for engine in ENGINES:
            for item in budget(released(name), AWQ, load(engine)).items:
                assert item.bytes > 0
                assert item.formula
                assert item.source


def test_gpus_share_the_matrices_and_each_holds_the_norms():
    shape = small_shape()
    stored = stored_weights(shape, AWQ)
    whole = stored.unquantized + stored.other
    assert weights_share(stored, 1) == stored.total
    assert weights_share(stored, 2) == whole + (stored.total - whole) / 2


@pytest.mark.parametrize(
    ("gpu", "tokens", "sequences"),
    # vLLM 0.32, engine/arg_utils.py, the server's defaults
    [("RTX 4090", 2048, 256), ("H100", 8192, 1024), ("A100", 2048, 256), ("B200", 16384, 1024)],
)
def test_a_step_of_vllm_has_the_size_of_its_defaults(gpu, tokens, sequences):
    assert step_sizes(ENGINES["vllm"], find_gpu(gpu), 1000, 1) == (tokens, sequences)


@pytest.mark.parametrize(
    ("model", "published"),
    # "PyTorch activation peak memory takes ..." of vLLM 0.6 to 0.8 with 256 sequences
    [("Llama-3.1-8B", 1.19), ("Qwen2.5-14B", 1.42), ("Qwen3-8B", 1.45)],
)
def test_the_sampler_takes_the_memory_of_published_profiles(model, published):
    shape = released(model)
    size = logits_bytes(shape, ENGINES["vllm"], 2048, 256) / GIB
    assert size == pytest.approx(published, rel=0.05)
    assert step_bytes(shape, 2048, 1) < size * GIB


def test_llama_cpps_batch_takes_what_its_log_says():
    # "CUDA0 compute buffer size = 258.50 MiB" for Llama-3-8B: 512 tokens x 128256 words x 4 bytes
    size = logits_bytes(released("Llama-3.1-8B"), ENGINES["llama.cpp"], 512, 1)
    assert size / 2**20 == pytest.approx(258.5, rel=0.05)


def test_apples_gpus_may_take_three_quarters_of_the_memory():
    assert utilization(ENGINES["llama.cpp"], find_gpu("M3 Max")) == 0.75


@pytest.mark.parametrize(
    ("knob", "item"),
    [
        ({"max_num_seqs": 8}, "activations"),
        ({"max_num_seqs": 8, "max_num_batched_tokens": 1024}, "activations"),
        ({"language_model_only": True}, "weights"),
        ({"eager": True}, "CUDA graphs"),
    ],
)
def test_each_knob_lowers_the_memory_of_its_item_only(knob, item):
    shape = replace(released("Llama-3.1-8B"), towers={"vision tower": 10**9})
    plain, changed = (
        {one.what: one.bytes for one in budget(shape, AWQ, load(**knobs)).items}
        for knobs in ({}, knob)
    )
    assert changed.pop(item, 0) < plain.pop(item)
    assert changed == plain


def test_utilization_is_the_share_of_the_memory_that_is_available():
    memory = budget(released("Llama-3.1-8B"), AWQ, load(utilization=0.5))
    assert memory.available == 12 * GIB


def test_yarn_lifts_the_bound_of_the_context():
    override = YarnOverride(4.0, 4096, {"rope_type": "yarn"})
    memory = budget(small_shape(), AWQ, load(gib=80.0, rope=override))
    assert memory.largest_context == 16384


@pytest.mark.parametrize("gpu", ["DGX Spark", "AGX Thor", "AGX Orin", "Strix Halo"])
@pytest.mark.parametrize("engine", ENGINES)
def test_memory_that_the_system_shares_is_not_taken_whole(gpu, engine):
    assert find_gpu(gpu).unified
    assert utilization(ENGINES[engine], find_gpu(gpu)) == 0.85


def hybrid(layers: int, attention: int) -> ModelShape:
    """Layers of delta rule with the states of Qwen3.5-27B, every few of them attention."""
    full = small_shape().blocks[0]
    delta = replace(full, cache=CacheShape(state=48 * 128 * 128 + 10240 * 3))
    blocks = [full if n % (layers // attention) == 0 else delta for n in range(layers)]
    return replace(small_shape(), blocks=tuple(blocks))


def test_states_have_the_blocks_of_a_published_log():
    # Qwen3.8-27B in FP8 on an RTX PRO 6000: 939 blocks in about 49 GiB
    memory = budget(hybrid(64, 16), AWQ, load(gib=96.0))
    fixed = sum(item.bytes for item in memory.items[:-1])
    memory = replace(memory, available=fixed + 49 * GIB)
    assert most_states(hybrid(64, 16), load(), memory) == pytest.approx(939, rel=0.1)
    assert most_states(small_shape(), load(), memory) is None


def test_an_unknown_engine_or_cache_type_is_refused_with_the_known_ones():
    with pytest.raises(
        RequestError, match=r"Unknown engine 'tgi'.*vllm, sglang, transformers, llama\.cpp"
    ):
        find_engine("tgi")
    with pytest.raises(RequestError, match=r"vllm has no KV cache in 'q8_0'.*auto, bfloat16"):
        kv_bytes(ENGINES["vllm"], "q8_0")
