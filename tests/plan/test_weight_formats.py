"""Laws of stored sizes: bits add up, and planned bytes are those of real files."""

from dataclasses import replace

import pytest

from helpers.shapes import released, small_shape
from salient.plan.gguf_types import BITS, gguf_bits
from salient.plan.weight_formats import FORMATS, bytes_read, stored_weights
from salient.shapes.model_shape import LinearShape

# Sizes of published files, 10^9 bytes: the GGUF files of the "bartowski" repositories on the Hub
# (Mixtral's made after experts were merged), the AWQ files of Qwen and of "hugging-quants".
PUBLISHED = [
    ("Llama-3.1-8B", "q4_0", 4.66),
    ("Llama-3.1-8B", "q4_k_m", 4.92),
    ("Llama-3.1-8B", "q5_k_m", 5.73),
    ("Llama-3.1-8B", "q8_0", 8.54),
    ("Llama-3.1-8B", "awq-g128", 5.73),
    ("Qwen2.5-14B", "q4_k_m", 8.99),
    ("Qwen2.5-14B", "q5_k_m", 10.51),
    ("Qwen2.5-14B", "q8_0", 15.70),
    ("Qwen2.5-14B", "awq-g128", 9.98),
    ("Mistral-Small-24B-Instruct-2501", "q4_k_m", 14.33),
    ("Mistral-Small-24B-Instruct-2501", "q8_0", 25.05),
    ("Llama-3.1-70B", "q4_k_m", 42.52),
    ("Llama-3.1-70B", "q5_k_m", 49.95),
    ("Llama-3.1-70B", "awq-g128", 39.77),
    ("Mixtral-8x7B-v0.1", "q4_k_m", 28.45),
    ("Mixtral-8x7B-v0.1", "q8_0", 49.62),
    ("Qwen3-30B-A3B", "q4_k_m", 18.56),
    ("Qwen3-8B", "q5_k_m", 5.85),
    ("phi-4", "q4_k_m", 9.05),
    ("gemma-3-27b-it", "q4_k_m", 16.55),
]


@pytest.mark.parametrize(("model", "form", "gigabytes"), PUBLISHED)
def test_a_planned_size_is_that_of_the_published_files(model, form, gigabytes):
    stored = stored_weights(released(model), FORMATS[form])
    text = stored.total - stored.towers  # GGUF keeps a vision tower in a file of its own
    assert text / 1e9 == pytest.approx(gigabytes, rel=0.005)


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_a_stored_size_is_the_sum_of_its_parts_and_what_is_read_is_no_more(form):
    shape = small_shape()
    stored = stored_weights(shape, form)
    parts = (stored.linears, stored.unquantized, stored.embedding, stored.head, stored.other)
    assert stored.total == sum(parts) + stored.towers
    assert bytes_read(shape, form) <= stored.total - stored.embedding + 1


@pytest.mark.parametrize(
    ("form", "bits"),
    # 4 + 20/g; 4-bit codes and a float32 for 64; blocks of ggml-common.h: 18, 34 bytes for 32
    [("fp16", 16), ("awq-g128", 4.15625), ("awq-g64", 4.3125), ("awq-g32", 4.625), ("nf4", 4.5),
     ("q4_0", 4.5), ("q8_0", 8.5)],
)  # fmt: skip
def test_bits_a_weight_are_those_of_the_format(form, bits):
    shape = small_shape()
    assert stored_weights(shape, FORMATS[form]).linears * 8 == bits * shape.count(lambda _: True)


def test_a_matrix_whose_inputs_the_group_does_not_divide_stays_unquantized_and_is_named():
    shape = small_shape()
    odd = LinearShape("mlp.down_proj", 256, 480, "mlp", "in")
    blocks = tuple(replace(b, linears=(*b.linears[:-1], odd)) for b in shape.blocks)
    stored = stored_weights(replace(shape, blocks=blocks), FORMATS["awq-g128"])
    assert stored.unfit == ("mlp.down_proj: 480 inputs",)
    assert stored.unquantized == 2 * odd.weights * 2
    assert not stored_weights(replace(shape, blocks=blocks), FORMATS["awq-g32"]).unfit


def test_a_tied_head_is_stored_once_and_read_all_the_same():
    tied = small_shape(head=0)
    for form in (FORMATS["fp16"], FORMATS["awq-g128"]):
        assert (
            stored_weights(small_shape(), form).total - stored_weights(tied, form).total
            == 1000 * 256 * 2
        )
        assert bytes_read(small_shape(), form) == bytes_read(tied, form)


def test_more_sequences_read_more_experts_up_to_all():
    experts = LinearShape("mlp.experts.*.up_proj", 64, 256, "experts", copies=8, active=2)
    shape = small_shape()
    shape = replace(shape, blocks=tuple(replace(b, linears=(experts,)) for b in shape.blocks))
    form = FORMATS["fp16"]
    read = [bytes_read(shape, form, rows) - shape.head * 2 for rows in (1, 2, 64)]
    every = shape.count(lambda _: True) * 2
    assert read[0] == every * 2 / 8
    assert read[1] == pytest.approx(every * (1 - (6 / 8) ** 2))
    assert read[2] == pytest.approx(every)


@pytest.mark.parametrize(
    ("block", "bytes_of_block", "weights_of_block"),
    # sizeof of the structs of ggml-common.h
    [("Q4_0", 18, 32), ("Q5_0", 22, 32), ("Q5_1", 24, 32), ("Q8_0", 34, 32),
     ("Q4_K", 144, 256), ("Q5_K", 176, 256), ("Q6_K", 210, 256)],
)  # fmt: skip
def test_a_gguf_block_has_the_bytes_of_its_struct(block, bytes_of_block, weights_of_block):
    assert BITS[block] == 8 * bytes_of_block / weights_of_block


def test_a_width_that_256_does_not_divide_falls_back_to_blocks_of_32():
    linear = LinearShape("self_attn.q_proj", 576, 576)
    assert gguf_bits("q4_k_m", linear, 1, more=False) == BITS["Q5_0"]
    assert gguf_bits("q5_k_m", linear, 1, more=False) == BITS["Q5_1"]
    assert gguf_bits("q4_0", linear, 1, more=False) == BITS["Q4_0"]
    assert gguf_bits("q4_0", replace(linear, width=100), 1, more=False) is None
