"""Fusion is proven: blocks that do anything else than their parts say are not fused, and C++ blocks
give what the definition in PyTorch gives."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

from helpers.engines import GREEDY, agree, never_dense, opened, prompt
from helpers.rtn_checkpoints import rounded_toy
from helpers.tolerance import coded_rounding, model_rounding, unit_roundoff
from salient.kernels.cpu_library import Library, load_library
from salient.models.model_folder import load_dequantized
from salient.runtime.fusion import native_blocks
from salient.runtime.fusion import verify as fusing
from salient.runtime.fusion.trace import max_row_error
from salient.runtime.fusion.verify import fuse
from salient.runtime.model_loader import load_model
from salient.runtime.runner import FusedRunner

CPU = torch.device("cpu")
IDS = prompt(28)
WHOLE = "the model runs as Transformers has it"
ROPE = {"rope_type": "default", "rope_theta": 1e4}
# What is changed in a tiny config: every way in which the blocks of fused families differ.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "q/k norms": ("qwen3", {}),
    "window": ("mistral", {"sliding_window": 6}),
    "window of one": ("mistral", {"sliding_window": 1}),
    "windows and rotary by block": ("exaone4", {}),
    "scores and logits capped": ("gemma2", {"attn_logit_softcapping": 1.5}),
    "scaled embedding of odd width": ("gemma3_text", {"hidden_size": 96}),
    "partial rotary": ("phi3", {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}}),
    "stretched rotary": (
        "llama",
        {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.0}},
    ),
    "multipliers": (
        "granite",
        {
            "residual_multiplier": 0.3,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "attention_multiplier": 0.5,
        },
    ),
    "one head": ("llama", {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64}),
    "key heads apart": ("llama", {"num_key_value_heads": 4}),
    "experts": ("qwen3_moe", {}),
    "a shared expert": ("glm4_moe", {}),
}
has_library = isinstance(load_library(), Library)
needs_compiler = pytest.mark.skipif(not has_library, reason=f"{load_library()}")


@pytest.fixture(autouse=True)
def no_dense_products(monkeypatch):
    never_dense(monkeypatch)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    @functools.cache
    def of(case: str):
        kind, changes = CASES[case]
        return rounded_toy(tmp_path_factory.mktemp("case"), kind, changes)

    return of


@pytest.fixture
def llama(folders):
    return load_model(str(folders("plain")), CPU, torch.float32)


def why_not(model: Any, capacity: int = 64) -> str:
    """Why `model` is not fused; '' if it is."""
    fused, audit = fuse(model, capacity)
    assert (fused is None) == (not audit.fused)
    return "".join(how for what, how in audit.findings if what == WHOLE)


def runner_of(model: Any, kv_dtype: torch.dtype = torch.float32, *, cpp: bool) -> FusedRunner:
    fused, _ = fuse(model, 65)
    assert fused is not None
    if cpp:
        assert fused.native is None
    else:
        fused.native = "to compare"
    return FusedRunner(model, fused, 3, 64, kv_dtype, compiled=False)


def answers_of(runner: FusedRunner) -> Tensor:
    """Logits of a prompt, of another in two pieces, and of steps of both together."""
    built = [runner.prefill(2, IDS, 0)]
    runner.prefill(0, IDS[:9], 0)
    built.append(runner.prefill(0, IDS[9:13], 9))
    for step in range(3):
        built += runner.decode([2, 0], [5 + step, 7 + step], [len(IDS) + step, 13 + step])
    return torch.stack(built)


def off(actual: Tensor, wanted: Tensor) -> float:
    return float(((actual - wanted).abs().amax(-1) / wanted.abs().amax(-1)).max())


# What is fused is right


@pytest.mark.parametrize("case", CASES)
def test_fused_blocks_give_the_logits_of_the_dequantized_weights(case, folders):
    built = opened(folders(case))
    assert built.audit.fused
    model, _ = load_dequantized(str(folders(case)))
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
    runner = built.engine.runner
    actual = [runner.prefill(0, IDS[:20], 0)]
    actual += [runner.decode([0], [IDS[at]], [at])[0] for at in range(20, len(IDS))]
    assert off(torch.stack(actual), wanted[19:]) < coded_rounding()


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_cpp_blocks_equal_pytorch_blocks(case, folders):
    model = load_model(str(folders(case)), CPU, torch.float32)
    actual, wanted = (answers_of(runner_of(model, cpp=cpp)) for cpp in (True, False))
    assert off(actual, wanted) < coded_rounding()


@needs_compiler
@pytest.mark.parametrize("kv_dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["plain", "window", "partial rotary", "experts"])
def test_cpp_and_pytorch_store_the_same_keys_and_values_in_16_bits(case, kv_dtype, folders):
    """One between two 16-bit numbers may fall to either side."""
    model = load_model(str(folders(case)), CPU, torch.float32)
    actual, wanted = (answers_of(runner_of(model, kv_dtype, cpp=cpp)) for cpp in (True, False))
    assert off(actual, wanted) < coded_rounding() + unit_roundoff(kv_dtype)
    assert off(actual, answers_of(runner_of(model, cpp=True))) > 1e-5


@needs_compiler
def test_neither_threads_nor_rows_of_one_call_change_a_bit(folders, llama, monkeypatch):
    runner = runner_of(llama, cpp=True)
    wanted = answers_of(runner)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(answers_of(runner), wanted)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(native_blocks, "MOST_ROWS", 5)
    assert torch.equal(answers_of(runner), wanted)


@needs_compiler
def test_a_sequence_gives_the_same_bits_in_any_batch(llama):
    runner = runner_of(llama, cpp=True)
    for slot in range(3):
        runner.prefill(slot, IDS[slot : 12 + slot], 0)
    together = runner.decode([1, 0, 2], [5, 6, 7], [12, 12, 12])
    for slot in range(3):
        runner.prefill(slot, IDS[slot : 12 + slot], 0)
    alone = [runner.decode([slot], [token], [12])[0] for slot, token in ((1, 5), (0, 6), (2, 7))]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_activations_are_fused_in_pytorch_and_near(dtype, folders):
    built, exact = opened(folders("plain"), dtype=dtype), opened(folders("plain"))
    assert built.audit.fused
    what = f"the C++ blocks take float32 on the CPU, not torch.{dtype} on cpu"
    assert ("run in PyTorch", what) in built.audit.findings
    actual, wanted = (o.engine.runner.prefill(0, IDS, 0) for o in (built, exact))
    bound = model_rounding(width=1, dtype=getattr(torch, dtype))
    assert 0 < off(actual[None], wanted[None]) < bound


@needs_compiler
def test_linears_of_a_kernel_without_row_views_run_apart(folders):
    built = opened(folders("plain"), kernel="dense")
    findings = {what for what, _ in built.audit.findings}
    assert {"q, k, v apart", "gate, up apart"} <= findings
    how = next(how for what, how in built.audit.findings if what == "run in PyTorch")
    assert "q, k, v or gate, up are not joined" in how
    home = built.model.unmerged["model.layers.0.mlp"]
    assert home == "the kernel 'dense' cannot split its rows"
    answers = [o.engine.generate([IDS], GREEDY)[0] for o in (built, opened(folders("plain")))]
    assert agree(*answers)


def test_without_the_library_blocks_run_in_pytorch_with_the_reason(folders, monkeypatch):
    wanted = opened(folders("plain")).engine.generate([IDS], GREEDY)[0]
    monkeypatch.setattr(native_blocks, "load_library", lambda: "no compiler here")
    built = opened(folders("plain"), dtype="float32")
    how = "no C++ kernels: no compiler here"
    assert ("run in PyTorch", how) in built.audit.findings
    assert built.engine.runner.how == "fused blocks, PyTorch"
    assert agree(built.engine.generate([IDS], GREEDY)[0], wanted)


@needs_compiler
def test_cpp_blocks_with_wrong_results_are_not_run(llama, monkeypatch):
    monkeypatch.setattr(
        native_blocks.NativeBlocks, "__call__", lambda self, hidden, batch: hidden * 2
    )
    fused, audit = fuse(llama, 64)
    assert fused is not None
    assert fused.native is not None
    assert "after 2 blocks" in fused.native
    assert ("run in PyTorch", fused.native) in audit.findings


# What would be wrong is not fused


def test_the_untouched_model_is_fused(llama):
    assert why_not(llama) == ""


def more_residual(block: Any) -> None:
    block.register_forward_hook(lambda module, args, out: out + 0.03 * (out - args[0]))


def louder_attention(block: Any) -> None:
    block.self_attn.register_forward_hook(lambda m, args, out: (out[0] * 1.05, *out[1:]))


def another_activation(block: Any) -> None:
    block.mlp.act_fn.forward = nn.functional.gelu  # still an nn.SiLU to whoever asks


def more_in_the_mlp(block: Any) -> None:
    block.mlp.register_forward_hook(lambda module, args, out: out + args[0] * 0.05)


def no_rms_norm(block: Any) -> None:
    norm = block.input_layernorm
    norm.forward = lambda x: nn.functional.layer_norm(x, x.shape[-1:], norm.weight)


def a_window_of_its_own(block: Any) -> None:
    ahead = torch.ones(12, 12).tril().triu(-3).bool()[None, None]
    own = block.self_attn.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **{**kwargs, "attention_mask": ahead})

    block.self_attn.forward = forward


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "alter",
    [
        more_residual,
        louder_attention,
        another_activation,
        more_in_the_mlp,
        no_rms_norm,
        a_window_of_its_own,
    ],
)
def test_a_block_that_computes_more_than_its_known_parts_is_disproven(alter, index, llama):
    alter(llama.module.model.layers[index])
    message = f"model.layers.{index} computes more than its known parts: run fused, its output "
    assert message in why_not(llama)


def test_q_and_k_norms_that_are_swapped_are_disproven(folders):
    model = load_model(str(folders("q/k norms")), CPU, torch.float32)
    assert why_not(model) == ""
    attention = model.module.model.layers[1].self_attn
    own = attention.forward

    def swap() -> None:
        attention.q_norm, attention.k_norm = attention.k_norm, attention.q_norm

    def forward(*args: Any, **kwargs: Any) -> Any:
        swap()
        try:
            return own(*args, **kwargs)
        finally:
            swap()

    attention.forward = forward
    assert "model.layers.1 computes more than its known parts" in why_not(model)


def test_an_interleaved_rotary_embedding_is_disproven(llama, monkeypatch):
    def rotate(x: Tensor) -> Tensor:
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

    monkeypatch.setattr(modeling_llama, "rotate_half", rotate)
    assert "model.layers.0 computes more than its known parts" in why_not(llama)


def test_attention_sinks_are_refused_by_name(llama):
    attention = llama.module.model.layers[1].self_attn
    attention.sinks = nn.Parameter(torch.zeros(4))
    assert why_not(llama) == "model.layers.1: its attention has sinks"


def test_a_cap_of_scores_that_is_only_named_is_disproven(llama):
    llama.module.model.layers[1].self_attn.attn_logit_softcapping = 1.5
    assert "model.layers.1 computes more than its known parts" in why_not(llama)


def test_a_difference_late_in_a_text_is_disproven(llama):
    """A scale of the scores that grows beyond a position, as long contexts are trained with."""
    attention = llama.module.model.layers[1].self_attn
    own = attention.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = own(*args, **kwargs)
        return (out[0] * 1.1, *out[1:]) if int(kwargs["position_ids"].max()) > 40 else out

    attention.forward = forward
    assert why_not(llama, capacity=40) == ""
    message = (
        "model.layers.1 computes otherwise from position 52 on: run fused, its output differs by"
    )
    assert message in why_not(llama, capacity=64)


def test_a_window_wider_than_the_proofs_text_is_preserved(folders):
    """The proof is shorter than any real window, and must not miss one for that."""
    for case, wanted in (("window", [6, 6]), ("windows and rotary by block", [8, 0])):
        model = load_model(str(folders(case)), CPU, torch.float32)
        for wide in (None, 4096):
            if wide:
                model.config.sliding_window = wide
            fused, _ = fuse(model, 64)
            assert fused is not None
            windows = [parts.attention.window for parts in fused.parts]
            assert windows == [wide if wide and window else window for window in wanted]
            assert model.config.sliding_window == wide or not wide


def test_chunks_of_attention_are_disproven(llama):
    """A config that names chunks, in a model that does mask by them."""
    llama.config.attention_chunk_size = 4096
    chunks = torch.arange(12) // fusing.PROOF_WINDOW
    mask = (torch.ones(12, 12).tril() * (chunks[:, None] == chunks)).bool()[None, None]
    attention = llama.module.model.layers[0].self_attn
    own = attention.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        narrow = llama.config.attention_chunk_size < 12
        return own(*args, **{**kwargs, **({"attention_mask": mask} if narrow else {})})

    attention.forward = forward
    assert "model.layers.0 computes more than its known parts" in why_not(llama)
    assert llama.config.attention_chunk_size == 4096


def test_angles_that_depend_on_the_length_of_the_text_are_refused(tmp_path):
    rope = {**ROPE, "rope_type": "dynamic", "factor": 2.0}
    changes = {"rope_parameters": rope, "max_position_embeddings": 128}
    folder = rounded_toy(tmp_path, "llama", changes)
    model = load_model(str(folder), CPU, torch.float32)
    assert why_not(model, capacity=100) == ""
    assert why_not(model, capacity=200) == "its rotary angles depend on the length of the text"


def test_large_channels_do_not_hide_what_is_missing(folders):
    """Real models have a few channels a thousand times larger than what a block adds."""
    model = load_model(str(folders("plain")), CPU, torch.float32)
    with torch.no_grad():
        model.module.model.embed_tokens.weight[:, 0] = 6e4
    assert why_not(model) == ""
    louder_attention(model.module.model.layers[1])
    assert "model.layers.1 computes more than its known parts" in why_not(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_difference_is_relative_to_what_a_row_adds(dtype):
    inputs = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    inputs[:, 0] = 1000
    added = torch.randn(4, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    added[:, 0] = 0
    wanted = inputs + added
    assert max_row_error(wanted, wanted, inputs) == 0
    wrong = wanted.clone()
    wrong[2, 1:] = inputs[2, 1:]
    allowed = fusing.TOLERANCES[dtype]
    assert max_row_error(wrong, wanted, inputs) > 20 * allowed
    assert float((wrong - wanted).abs().max() / wanted.abs().max()) < 1e-2  # it was hidden
    rounded = wanted.clone()
    rounded[1, 0] = torch.nextafter(rounded[1, 0], rounded.new_tensor(torch.inf))
    assert max_row_error(rounded, wanted, inputs) < allowed
    wrong[0, 3] = float("nan")
    assert not max_row_error(wrong, wanted, inputs) <= allowed


def test_an_embedding_or_head_that_does_more_is_disproven(llama):
    first = llama.module.model.layers[0]
    handle = first.register_forward_pre_hook(lambda module, args: (args[0] + 0.1, *args[1:]))
    assert "its embedding computes more than its known parts" in why_not(llama)
    handle.remove()

    def squared(module: Any, args: Any, out: Any) -> Any:
        out.logits = out.logits + 0.01 * out.logits**2
        return out

    llama.module.register_forward_hook(squared)
    assert "its head computes more than its known parts" in why_not(llama)


def test_the_audit_counts_what_was_fused(folders):
    _, audit = fuse(load_model(str(folders("experts")), CPU, torch.float32), 64)
    assert audit.fused
    assert 0 <= audit.error < fusing.NATIVE_TOLERANCE
    assert audit.findings[("norms and residuals", "")] == 2
    message = "Qwen3MoeSparseMoeBlock runs as Transformers has it"
    assert audit.findings[("MLP not fused", message)] == 2


def test_a_proof_that_fails_leaves_the_model_as_it_was(llama):
    more_residual(llama.module.model.layers[1])
    hooks = [len(m._forward_hooks) for m in llama.module.modules()]
    assert why_not(llama)
    assert [len(m._forward_hooks) for m in llama.module.modules()] == hooks
