"""Attribution: what each block and kind of linear costs is what the mixed whole models show."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.checkpoints import each_format
from helpers.faults import copied, edit
from helpers.rtn_checkpoints import rounded, rounded_toy
from helpers.runs import run
from helpers.tolerance import assert_within, kl_rounding, nats, worst
from helpers.toy_models import rewrite_json, toy_folder
from salient import api
from salient.core.errors import CalibrationError
from salient.core.metrics import compare_logits
from salient.core.progress import Progress, silent
from salient.core.quant import quantize
from salient.core.scheme import Scheme
from salient.models.proof import fold, weight_of
from salient.validate.attribution.block_damage import divergences, halved_errors, measure_damage
from salient.validate.attribution.measure import AttributionRequest, measure_attribution
from salient.validate.attribution.mixing import Mixer
from salient.validate.attribution.suggestions import worst_kinds
from salient.validate.attribution.unscale import find_scales
from salient.validate.cache import ValidationCache
from salient.validate.likelihood.streaming import text_tokens
from salient.validate.model_pair import ModelPair, open_pair
from salient.validate.render import render_stage
from salient.validate.stage import StageResult

WINDOWS, LENGTH = 2, 64
BLOCKS = [f"model.layers.{index}" for index in range(4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny Llama of four blocks; do not change it."""
    return toy_folder(tmp_path_factory.mktemp("attribution") / "model", num_hidden_layers=4)


@pytest.fixture(scope="module")
def plain(model) -> Path:
    """The model by plain rounding, in groups of 32; do not change it."""
    return rounded(model, model.with_name("plain"))


@pytest.fixture(scope="module")
def scaled(model, text) -> Path:
    """The model with AWQ's scales folded in; do not change it."""
    out = model.with_name("scaled")
    run(model, out, text, samples=4)
    return out


def opened(checkpoint: Path, model: Path) -> ModelPair:
    return open_pair(str(checkpoint), str(model), "cpu")


def attribute(checkpoint: Path, model: Path, text: Path, store: Path, **changes) -> StageResult:
    request = AttributionRequest((str(text),), **{"windows": WINDOWS, "length": LENGTH, **changes})
    return measure_attribution(
        opened(checkpoint, model), request, ValidationCache(store, resume=True), silent
    )


def windows_of(pair: ModelPair, text: Path) -> torch.Tensor:
    ids = text_tokens(pair, str(text), WINDOWS, LENGTH, ("--samples", "--window-length"))
    return ids.reshape(WINDOWS, LENGTH)


def whole(folder: Path) -> nn.Module:
    """All of a model or checkpoint, dequantized."""
    return api.load(str(folder))[0]


def kl_of(reference: nn.Module, other: nn.Module, ids: torch.Tensor) -> float:
    """Both models whole, window by window."""
    with torch.no_grad():
        both = [model(ids, use_cache=False).logits for model in (reference, other)]
    lost = [compare_logits(r, q, window).kl_sum for r, q, window in zip(*both, ids, strict=True)]
    return sum(lost) / ids.numel()


def assert_kl(actual: float, expected: float) -> None:
    assert abs(actual - expected) <= kl_rounding(expected, blocks=4)


def damage(folder: Path, name: str) -> None:
    """Multiply the scale of each group of the linear `name` by 0.3 to 3."""
    random = torch.Generator().manual_seed(0)

    def change(tensors):
        key = next(k for k in (f"{name}.scales", f"{name}.weight_scale") if k in tensors)
        factors = torch.rand(tensors[key].shape, generator=random) * 2.7 + 0.3
        tensors[key] = (tensors[key].float() * factors).to(tensors[key].dtype)

    edit(folder, change)


def names_and_kl(rows: list[dict]) -> dict[str, float]:
    return {row["name"]: row["kl"] for row in rows}


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "qwen2_moe"])
def test_scales_that_were_folded_are_taken_out_exactly(kind, tmp_path):
    """Norms of weight and of 1 + weight, tied values, fused qkv, experts."""
    out = rounded_toy(tmp_path, kind, format="compressed-tensors")
    pair = opened(out, tmp_path / "model")
    ids = torch.randint(3, 250, (2, 16), generator=torch.Generator().manual_seed(1))
    skeleton, mixer = pair.reference.skeleton, Mixer(pair, ids)
    hidden, _ = skeleton.calls(ids)
    for index in range(len(skeleton.blocks)):
        reference = skeleton.block(index)
        groups = mixer._prober.groups(index, reference, hidden)
        folded = copy.deepcopy(reference)
        random = torch.Generator().manual_seed(2)
        for group in (group for group in groups if group.proven):
            scale = torch.ones(len(weight_of(reference, group.absorber)))
            drawn = (torch.rand(len(scale), generator=random) * 2 - 1).exp()
            scale[group.rows] = drawn[group.rows]
            fold(folded, group, scale)
        scales = find_scales(reference, folded, groups)
        assert not scales.doubts
        assert scales.columns
        for name in skeleton.linears(index):
            expected, scaled = (b.get_parameter(f"{name}.weight") for b in (reference, folded))
            # a scale is itself computed by a division of two rounded products
            for actual, right in (
                (scales.taken_out(name, scaled), expected),
                (scales.put_in(name, expected), scaled),
            ):
                assert_within(actual, right, worst(16) * right.abs())


def test_the_damage_of_a_block_and_a_kind_is_that_of_mixed_models(model, plain, text):
    pair = opened(plain, model)
    ids = windows_of(pair, text)
    damage = measure_damage(pair, ids, silent)
    reference, mixed, checkpoint = (whole(folder) for folder in (model, model, plain))
    assert_kl(damage.whole, kl_of(reference, checkpoint, ids))
    assert damage.outside < kl_rounding(0, 4)
    mixed.model.layers[2] = checkpoint.model.layers[2]
    assert_kl(damage.blocks[BLOCKS[2]], kl_of(reference, mixed, ids))
    mixed = whole(model)
    for own, other in zip(mixed.model.layers, checkpoint.model.layers, strict=True):
        own.mlp.down_proj = other.mlp.down_proj
    assert_kl(damage.kinds["mlp.down_proj"], kl_of(reference, mixed, ids))


def test_kinds_add_up_to_the_whole_where_scales_are_folded(model, scaled, text):
    pair = opened(scaled, model)
    damage = measure_damage(pair, windows_of(pair, text), silent)
    assert damage.doubts == {}
    norm = f"{BLOCKS[0]}.input_layernorm.weight"
    folded, own = (skeleton.files.read(norm) for skeleton in pair.skeletons)
    assert not torch.allclose(folded.float(), own.float(), rtol=0.05)
    for parts in (damage.blocks, damage.kinds):
        assert sum(parts.values()) == pytest.approx(damage.whole, rel=0.3)
    assert damage.together[0] == [f"self_attn.{n}_proj" for n in "qkv"]


@each_format
@pytest.mark.parametrize("kind", ["mlp.up_proj", "mlp.down_proj"])
def test_a_damaged_linear_is_named_by_its_block_and_its_kind(kind, format, model, text, tmp_path):
    out = rounded(model, tmp_path / "out", format=format)
    damage(out, f"{BLOCKS[1]}.{kind}")
    stage = attribute(out, model, text, tmp_path)
    blocks, kinds = names_and_kl(stage.to_dict()["blocks"]), names_and_kl(stage.to_dict()["kinds"])
    assert list(blocks) == BLOCKS
    assert max(blocks, key=blocks.__getitem__) == BLOCKS[1]
    assert next(iter(kinds)) == kind
    others = [kl for name, kl in kinds.items() if name != kind]
    assert kinds[kind] > 3 * max(others)
    assert render_stage(stage)[0][0].rows[0][0] == BLOCKS[1]
    assert render_stage(stage)[0][1].rows[0][0] == kind


def test_a_block_that_stands_out_looks_damaged_and_others_do_not(model, plain, text, tmp_path):
    out = copied(plain, tmp_path / "out")
    damage(out, f"{BLOCKS[1]}.mlp.down_proj")
    first, second, *_ = attribute(out, model, text, tmp_path).to_dict()["suggestions"]
    assert f"{BLOCKS[1]} looks damaged, not just rounded" in first["what"]
    assert f"`salient doctor {out}`" in first["what"]
    assert second["what"] == f"keep {BLOCKS[1]} in 16-bit (--skip '{BLOCKS[1]}.*')"
    sound = attribute(plain, model, text, tmp_path).to_dict()
    assert second["kl"] < 1.5 * sound["whole"]
    assert not any("damaged" in row["what"] for row in sound["suggestions"])


def test_options_leave_the_kl_of_mixed_models(model, plain, text, tmp_path):
    stage = attribute(plain, model, text, tmp_path)
    blocks = stage.to_dict()["blocks"]
    worst = max(range(4), key=lambda index: blocks[index]["kl"])
    reference, mixed = whole(model), whole(plain)
    ids = windows_of(opened(plain, model), text)
    block, kinds, *others = stage.to_dict()["suggestions"]
    own, mixed.model.layers[worst] = mixed.model.layers[worst], reference.model.layers[worst]
    assert block["measured"]
    assert_kl(block["kl"], kl_of(reference, mixed, ids))
    weights = sum(p.numel() for p in own.parameters() if p.ndim == 2)
    assert block["bytes"] == round(weights * (16 - (4 + 20 / 32)) / 8)
    mixed.model.layers[worst] = own
    assert kinds["what"].endswith(
        "(--skip self_attn.q_proj --skip self_attn.k_proj --skip self_attn.v_proj)"
    )
    for mine, theirs in zip(mixed.model.layers, reference.model.layers, strict=True):
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(mine.self_attn, name, getattr(theirs.self_attn, name))
    assert_kl(kinds["kl"], kl_of(reference, mixed, ids))
    assert others == []  # there is no group smaller than 32


def test_the_estimate_of_smaller_groups_is_the_output_error_of_plain_rounding(text, tmp_path):
    sizes = {"intermediate_size": 128, "num_hidden_layers": 1}
    model = toy_folder(tmp_path / "model", **sizes)
    out = rounded(model, tmp_path / "out", scheme="w4-g64")
    pair = opened(out, model)
    ids = windows_of(pair, text)
    mixed = Mixer(pair, ids).block(0, pair.reference.skeleton.calls(ids)[0])
    name = "mlp.down_proj"
    x = torch.randn(4096, 128, generator=torch.Generator().manual_seed(0))
    x *= torch.linspace(0.1, 2, 128)
    weight = mixed.reference.get_parameter(f"{name}.weight").data
    errors = [quantize(weight, Scheme(size), name=name).dequantize() - weight for size in (64, 32)]
    before, after = ((x @ error.t()).square().sum() for error in errors)
    ratio = halved_errors(mixed, {name: x}, Scheme(64))
    assert ratio == {name: pytest.approx(float(after / before), rel=0.02)}
    assert ratio[name] < 0.9
    damage = measure_damage(pair, ids, silent)
    assert damage.halved == pytest.approx(ratio[name], rel=0.1)
    data = attribute(out, model, text, tmp_path).to_dict()
    row = data["suggestions"][-1]
    assert row["what"].startswith("groups of 32 (--scheme w4-g32)")
    assert row["kl"] == pytest.approx(data["whole"] * damage.halved)
    assert not row["measured"]
    assert halved_errors(mixed, {name: x}, Scheme(32)) == {}


def test_a_fold_without_its_readers_is_a_doubt_and_no_figure(model, scaled, text, tmp_path):
    out = copied(scaled, tmp_path / "out")

    def unfold(tensors):
        name = f"{BLOCKS[3]}.post_attention_layernorm.weight"
        factors = torch.linspace(0.5, 2, len(tensors[name]))
        tensors[name] = (tensors[name] * factors).half()

    edit(out, unfold)
    data = attribute(out, model, text, tmp_path).to_dict()
    assert max(data["blocks"], key=lambda row: row["kl"])["name"] == BLOCKS[3]
    assert (
        f"could not be told apart in 1 blocks, which the kinds leave out ({BLOCKS[3]}:"
        in (data["notes"][0])
    )
    assert "post_attention_layernorm and what reads it disagree" in data["notes"][0]
    assert sum(row["kl"] for row in data["kinds"]) < data["whole"] / 2


def test_a_part_that_no_linear_explains_is_a_doubt_too(model, plain, text, tmp_path):
    """Here the blocks' rotary angles are not the reference's."""
    out = copied(plain, tmp_path / "out")
    rewrite_json(out / "config.json", rope_theta=50.0, rope_parameters=None)
    data = attribute(out, model, text, tmp_path).to_dict()
    assert "without their scales do not make the same block" in data["notes"][0]
    assert data["kinds"] == []


def test_a_changed_embedding_or_head_is_reported(model, plain, text, tmp_path):
    out = copied(plain, tmp_path / "out")
    random = torch.Generator().manual_seed(0)

    def change(tensors):
        head = tensors["lm_head.weight"]
        tensors["lm_head.weight"] = (head + torch.randn(head.shape, generator=random) / 8).half()

    edit(out, change)
    data = attribute(out, model, text, tmp_path).to_dict()
    assert data["outside"] > data["whole"] / 2
    assert (
        "the embedding, last norm or head is not the reference's"
        in (data["suggestions"][0]["what"])
    )


def test_short_memory_limits_the_windows(model, plain, text, tmp_path, monkeypatch):
    where = "salient.validate.attribution.measure.available_memory"
    one = (4 + 7 + 4) * LENGTH * 64 * 4  # variants, tokens, channels
    monkeypatch.setattr(where, lambda: 4 * one)
    data = attribute(plain, model, text, tmp_path).to_dict()
    assert data["windows"] == 1
    assert data["notes"][0].startswith("1 of 2 windows a text were taken")
    monkeypatch.setattr(where, lambda: 4 * one - 1)
    stage = attribute(plain, model, text, tmp_path)
    assert "hidden states of 15 variants" in stage.to_dict()["error"]
    assert render_stage(stage)[1] == [
        f"Attribution could not be measured: {stage.to_dict()['error']}"
    ]


def test_cached_parts_are_not_measured_again(model, plain, text, tmp_path):
    request = AttributionRequest((str(text),), WINDOWS, LENGTH)
    stages, taken = [], []
    for _ in range(2):
        store = ValidationCache(tmp_path, resume=True)
        stages.append(measure_attribution(opened(plain, model), request, store, silent))
        taken.append(store.reused)
    assert taken == [0, 2]  # no third part: the checkpoint does not say what it was calibrated on
    assert stages[0] == stages[1]


def test_progress_covers_all_passes(model, scaled, text, tmp_path):
    steps = []
    request = AttributionRequest((str(text),), WINDOWS, LENGTH)
    measure_attribution(
        opened(scaled, model),
        request,
        ValidationCache(tmp_path),
        Progress(lambda *step: steps.append(step[:2])),
    )
    assert steps == [(1000 * done // 4, 3000) for done in range(12)]


def test_experts_and_linears_of_one_input_are_skipped_together():
    together = [["q", "k", "v"], ["o"], ["mlp.experts.*.up"], ["mlp.experts.*.down"]]
    kl = {"q": 1.0, "k": 1.0, "v": 1.0, "o": 2.0}
    assert worst_kinds(kl, together) == (("q", "k", "v"), ("q", "k", "v"))
    experts = {"mlp.experts.*.up": 2.0, "mlp.experts.*.down": 2.0}
    assert worst_kinds(kl | experts, together) == (("mlp.experts.*",), tuple(experts))


def test_a_short_text_is_refused_before_anything_is_measured(model, plain, text, tmp_path):
    with pytest.raises(CalibrationError, match=r"9000 samples of 64 need .* Use --samples \d"):
        attribute(plain, model, text, tmp_path, windows=9000)


class Head:
    """Makes logits of hidden states that are logits, without the last token of the vocabulary."""

    def logits(self, ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([hidden[..., :-1], torch.full_like(hidden[..., :1], -torch.inf)], -1)


def test_tokens_that_a_head_masks_add_nothing():
    random = torch.Generator().manual_seed(0)
    clean, other = torch.randn(2, 2, 5, 9, generator=random)
    ids = torch.zeros(2, 5, dtype=torch.int64)
    kl = divergences(ids, Head(), clean, {"own": (Head(), clean), "other": (Head(), other)})
    log_r, log_q = (each[..., :-1].log_softmax(-1) for each in (clean, other))
    rounding = 2 * (nats(clean) + nats(other))
    assert kl["own"] == pytest.approx(0, abs=rounding)
    expected = (log_r.exp() * (log_r - log_q)).sum(-1).mean()
    assert kl["other"] == pytest.approx(float(expected), abs=rounding)
