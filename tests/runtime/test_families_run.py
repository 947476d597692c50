"""Every family runs from its 4-bit checkpoint: as fused blocks where that is proven, else as
Transformers has it, with the reason said."""

import functools
from dataclasses import replace

import pytest
import torch

from helpers.engines import GREEDY, agree, never_dense, opened, prompt
from helpers.families import FAMILIES
from helpers.rtn_checkpoints import rounded_toy
from helpers.tolerance import coded_rounding
from salient.diagnose.checkpoint.check import read_checkpoint
from salient.models.model_folder import load_dequantized
from salient.runtime import engine as engines
from salient.runtime.sampling_params import SamplingParams

# The first words that say why a family is not fused
UNFUSED = {
    **dict.fromkeys(("phi", "stablelm", "starcoder2", "phimoe"), "its LayerNorm is no RMS norm"),
    "olmo": "its OlmoLayerNorm is no RMS norm",
    "nemotron": "its NemotronLayerNorm1P is no RMS norm",
    **dict.fromkeys(("olmo2", "olmoe"), "its q_norm is over 64 channels, not those of a head"),
    "opt": "its OPTDecoderLayer has no post_attention_layernorm",
    "falcon_h1": "its FalconH1DecoderLayer has no post_attention_layernorm",
    "gpt2": "its GPT2Block has no self_attn",
    "gpt_neox": "its GPTNeoXLayer has no self_attn",
    "gptj": "its GPTJBlock has no self_attn",
    "falcon": "its FalconDecoderLayer has no self_attn",
    "bloom": "its BloomBlock has no self_attn",
    "mpt": "its MptBlock has no self_attn",
    "qwen3_next": "its Qwen3NextDecoderLayer has no self_attn",
    "qwen3_5_moe_text": "its Qwen3_5MoeDecoderLayer has no self_attn",
    "jamba": "its JambaMambaDecoderLayer has no self_attn",
    "nemotron_h": "its NemotronHBlock has no self_attn",
    "granitemoehybrid": "its GraniteMoeHybridDecoderLayer has no self_attn",
    "lfm2": "its Lfm2DecoderLayer has no self_attn",
    "mamba2": "its Mamba2Block has no self_attn",
    "granitemoe": "its GraniteMoeDecoderLayer has no mlp",
    "minimax": "its MiniMaxLightningAttention has no o_proj",
    "deepseek_v3": "its DeepseekV3Attention has no head_dim",
    "glm4_moe_lite": "its Glm4MoeLiteAttention has no head_dim",
    **dict.fromkeys(
        ("cohere", "cohere2", "gpt_oss"), "its rotary embedding turns other pairs of channels"
    ),
    **dict.fromkeys(
        ("deepseek_v2", "llama4_text"),
        "its rotary angles come from elsewhere than a rotary embedding",
    ),
    **dict.fromkeys(
        ("glm", "glm4", "helium", "ernie4_5_moe", "hunyuan_v1_dense", "hunyuan_v1_moe"),
        "computes more than its known parts: run fused, its output differs by",
    ),
    **dict.fromkeys(
        ("qwen2_vl", "qwen3_vl", "llava", "gemma3"),
        "it takes more than text, and positions are then not a simple count",
    ),
}
FUSED = [kind for kind in FAMILIES if kind not in UNFUSED]
UNQUANTIZED = {  # MLPs that run as Transformers has them, between fused attention
    "arcee": "ArceeMLP",
    "mixtral": "MixtralSparseMoeBlock",
    "qwen2_moe": "Qwen2MoeSparseMoeBlock",
    "qwen3_moe": "Qwen3MoeSparseMoeBlock",
    "glm4_moe": "Glm4MoeMoE",
}
IN_ONE_PIECE = ("jamba", "minimax")  # Transformers forgets a state between two pieces
IDS = prompt(28)


FEW = replace(GREEDY, max_new_tokens=6)


def prompts(kind: str) -> SamplingParams:
    """16 tokens of what runs fused, fewer of what runs one sequence at a time."""
    return FEW if kind in UNFUSED else GREEDY


class Ran:
    """A family's 4-bit checkpoint, opened, and what its engine says to one prompt after another."""

    def __init__(self, kind, folder):
        self.folder = folder
        self.opened = opened(folder)
        self.engine, self.audit = self.opened.engine, self.opened.audit
        self.first, self.second = (
            self.engine.generate([IDS[:length]], prompts(kind))[0] for length in (20, 12)
        )


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    never_dense(patch)

    @functools.cache
    def of(kind: str) -> Ran:
        return Ran(kind, rounded_toy(tmp_path_factory.mktemp(kind), kind))

    yield of
    patch.undo()


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_gives_the_logits_of_its_dequantized_weights(kind, ran):
    model, _ = load_dequantized(str(ran(kind).folder))
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
    runner = ran(kind).engine.runner
    actual = [runner.prefill(1, IDS[:20], 0)]
    actual += [runner.decode([1], [IDS[at]], [at])[0] for at in range(20, len(IDS))]
    errors = (torch.stack(actual) - wanted[19:]).abs().amax(-1) / wanted[19:].abs().amax(-1)
    rounding = coded_rounding(4)
    assert float(errors.median()) < rounding
    assert float(errors.max()) < 20 * rounding  # a router that chose between equals


@pytest.mark.parametrize("kind", FAMILIES)
def test_fused_families_are_known_and_others_have_a_reason(kind, ran):
    audit = ran(kind).audit
    whole = [how for (what, how) in audit.findings if what.startswith("the model runs as")]
    if kind in UNFUSED:
        assert not audit.fused
        assert len(whole) == 1
        assert UNFUSED[kind] in whole[0]
    else:
        assert audit.fused, f"UNFUSED of this file should have {kind!r}: {whole}"
        assert not whole
        assert ("run as C++ calls", "") in audit.findings or any(
            what == "run in PyTorch" and "no C++ kernels" in how for what, how in audit.findings
        )
    unquantized = [how for (what, how) in audit.findings if what == "MLP not fused"]
    expected = [f"{UNQUANTIZED[kind]} runs as Transformers has it"] if kind in UNQUANTIZED else []
    assert unquantized == expected


@pytest.mark.parametrize("kind", FUSED)
def test_fused_blocks_choose_the_tokens_of_transformers_own(kind, ran):
    apart = opened(ran(kind).folder, fuse=False)
    assert apart.audit.findings == {
        ("the model runs as Transformers has it", "fusion was switched off"): 1
    }
    assert agree(ran(kind).first, apart.engine.generate([IDS[:20]], GREEDY)[0])


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_prompt_in_pieces_is_answered_as_in_one(kind, ran, monkeypatch):
    monkeypatch.setattr(engines, "CHUNK", 7)
    runner, pieces = ran(kind).engine.runner, []
    prefill = runner.prefill
    monkeypatch.setattr(
        runner, "prefill", lambda slot, ids, start: pieces.append(ids) or prefill(slot, ids, start)
    )
    engine = engines.Engine(runner, ran(kind).opened.model.tokenizer, frozenset())
    answer = engine.submit(IDS[:20], prompts(kind))
    while not answer.finished:
        engine.step()
    assert len(pieces) == (1 if kind in IN_ONE_PIECE else 3)
    assert agree(answer, ran(kind).first)


@pytest.mark.parametrize("kind", FAMILIES)
def test_sequences_together_are_answered_as_alone(kind, ran):
    first, second = ran(kind).engine.generate([IDS[:20], IDS[:12]], prompts(kind))
    assert agree(first, ran(kind).first)
    assert agree(second, ran(kind).second)


@pytest.mark.parametrize("kind", FUSED)
def test_a_prefix_that_is_there_gives_what_a_fresh_engine_gives(kind, ran):
    runner, tokenizer = ran(kind).engine.runner, ran(kind).opened.model.tokenizer
    engine = engines.Engine(runner, tokenizer, frozenset())
    engine.generate([[*IDS[:12], IDS[12] + 1, *prompt(9, seed=5)]], GREEDY)
    answer = engine.generate([IDS[:20]], GREEDY)[0]
    assert answer.reused == 12
    assert agree(answer, ran(kind).first)


@pytest.mark.parametrize("kind", FAMILIES)
def test_doctor_finds_nothing_wrong_with_a_familys_checkpoint(kind, ran):
    actual = read_checkpoint(ran(kind).folder).findings
    assert {finding.level for finding in actual} <= {"good", "note"}
