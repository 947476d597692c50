"""Long context: each length's figures are the whole models' own, and no window runs needlessly."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.engines import never_dense, opened
from helpers.rtn_checkpoints import rounded
from helpers.tolerance import assert_figures, assert_within, kl_rounding, likely
from helpers.toy_models import toy_folder
from salient import api
from salient.core.errors import CalibrationError, ResourceError
from salient.core.metrics import LogitsComparison
from salient.core.progress import Progress, silent
from salient.validate import model_pair
from salient.validate.cache import ValidationCache
from salient.validate.context import long_windows, measure
from salient.validate.context.haystack import make_probes
from salient.validate.context.measure import (
    LENGTHS,
    ContextRequest,
    check_context,
    default_lengths,
    measure_context,
)
from salient.validate.context.positions import TokenFigures, compare_tokens, token_sums
from salient.validate.context.result import ContextResult, RetrievalResult
from salient.validate.context.retrieval import answer_probes, measure_retrieval, texts_of
from salient.validate.likelihood import streaming
from salient.validate.likelihood.streaming import logits_in_slices, run_both, text_tokens
from salient.validate.model_pair import ModelPair, open_pair
from salient.validate.render import render_stage

FEW = (64, 128, 256)
BARE = (64, 128)  # too short for a fact and a question of the toy's letters: no engine is opened
STEPS: list[tuple[int, int, str, str]] = []  # the progress of `shared`
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [8.0] * 8,
    "original_max_position_embeddings": 80,
    "factor": 4.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model and its rounded checkpoint; do not change them."""
    root = tmp_path_factory.mktemp("context")
    rounded(toy_folder(root / "model"), root / "rounded")
    return root


@pytest.fixture
def both(folder) -> ModelPair:
    return open_pair(str(folder / "rounded"), str(folder / "model"), "cpu")


@pytest.fixture(scope="module", autouse=True)
def no_dense_products():
    with pytest.MonkeyPatch.context() as patch:
        never_dense(patch)
        yield


@pytest.fixture(scope="module")
def shared(folder, text, tmp_path_factory) -> ContextResult:
    """Windows of FEW tokens, two of the longest, and hidden facts; do not change it."""
    both = open_pair(str(folder / "rounded"), str(folder / "model"), "cpu")
    store, request = (
        ValidationCache(tmp_path_factory.mktemp("shared")),
        ContextRequest(FEW, str(text), 2),
    )
    return measure_context(both, request, store, Progress(lambda *step: STEPS.append(step)))


def measured(
    both: ModelPair, text: Path, store: Path, *, resume: bool = False, **options: Any
) -> ContextResult:
    request = ContextRequest(text=str(text), **{"lengths": FEW, "windows": 2, **options})
    return measure_context(both, request, ValidationCache(store, resume), silent)


@cache
def whole(folder: Path) -> Any:
    """A model, all of it, in float32."""
    return api.load(str(folder))[0]


def direct(folder: Path, ids: torch.Tensor, start: int, length: int) -> TokenFigures:
    """Both models whole, in float32, over one window."""
    window = ids[start : start + length]
    with torch.no_grad():
        logits = [
            whole(folder / name)(window[None], use_cache=False).logits[0]
            for name in ("model", "rounded")
        ]
    return compare_tokens(*logits, ids[start + 1 : start + length + 1])


def expected(
    folder: Path, both: ModelPair, text: Path, length: int, starts: list[int]
) -> LogitsComparison:
    ids = text_tokens(both, str(text), None, 64, ("", ""))
    return LogitsComparison.of([token_sums(direct(folder, ids, start, length)) for start in starts])


def test_the_figures_of_each_length_are_those_of_the_whole_models(folder, both, text, shared):
    result = shared.to_dict()["lengths"]
    assert [row["length"] for row in result] == list(FEW)
    assert [row["windows"] for row in result] == [5, 4, 2]
    for row in result:
        starts = [row["length"] * n for n in range(row["windows"])]
        assert_figures(row, expected(folder, both, text, row["length"], starts).figures())
    assert list(result[0]["intervals"]) == list(result[0])[2:-1][1:]  # all figures but tokens
    assert result[1]["intervals"] == {}


def test_a_window_that_begins_a_longer_one_is_not_run(both, text, tmp_path, monkeypatch):
    ran = []
    run = streaming.run_both

    def noted(skeletons, ids, progress):
        ran.append(tuple(ids.shape))
        return run(skeletons, ids, progress)

    monkeypatch.setattr(long_windows, "run_both", noted)
    measured(both, text, tmp_path, lengths=BARE)
    # of 128: at 0, 128; of 64: not at 0, 128; of 32: the proof at 0, the last quarters at 96, 224
    assert ran == [(2, 128), (2, 64), (3, 32)]


def test_growth_is_of_the_same_tokens_late_and_early(folder, both, text, shared):
    result = shared
    ids = text_tokens(both, str(text), None, 64, ("", ""))
    late = sum(direct(folder, ids, start, 256)[0, 192:].sum() for start in (0, 256))
    early = sum(direct(folder, ids, start, 64)[0].sum() for start in (192, 448))
    rounding = sum(kl_rounding(kl / 128) / (kl / 128) for kl in (late, early))  # of 128 tokens
    assert result.to_dict()["growth"]["value"] == pytest.approx(late / early, rel=rounding)
    measurement = result.measurements()[0]
    assert (measurement.what, measurement.sample) == ("kl_growth", 2)
    assert measurement.value == result.to_dict()["growth"]["value"]
    assert any(line.startswith("KL growth") for line in render_stage(result)[1])


def test_positions_run_from_the_first_to_the_last_of_the_longest(shared):
    data = shared.to_dict()
    places = data["positions"]
    assert data["positions_length"] == 256
    assert (places[0]["first"], places[-1]["last"], len(places)) == (0, 255, 32)
    assert all(a["last"] + 1 == b["first"] for a, b in pairwise(places))
    assert places[0]["windows"] > 5 > places[-1]["windows"]
    assert places[0]["interval"][0] < places[0]["kl"] < places[0]["interval"][1]
    assert places[-1]["interval"] is None


def test_a_model_that_rotates_long_texts_differently_has_every_window_run(tmp_path, text):
    changes = {"rope_parameters": LONG_ROPE, "max_position_embeddings": 400}
    model = toy_folder(tmp_path / "model", **changes)
    rounded(model, tmp_path / "rounded")
    both = open_pair(str(tmp_path / "rounded"), str(model), "cpu")
    result = measured(both, text, tmp_path / "store", lengths=BARE)
    assert any("otherwise than a short text" in note for note in result.to_dict()["notes"])
    for row in result.to_dict()["lengths"]:
        starts = [row["length"] * n for n in range(row["windows"])]
        assert_figures(row, expected(tmp_path, both, text, row["length"], starts).figures())


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_logits_in_slices_are_those_of_the_whole_window(kind, tmp_path, monkeypatch):
    model = toy_folder(tmp_path / "model", kind)
    both = open_pair(str(rounded(model, tmp_path / "rounded")), str(model), "cpu")
    window = torch.randint(3, 250, (50,), generator=torch.Generator().manual_seed(0))
    hidden = run_both(both.skeletons, window[None], silent)
    monkeypatch.setattr(streaming, "SLICE", 16)
    slices = list(logits_in_slices(both, window, [each[0] for each in hidden]))
    assert [(first, len(r)) for first, r, _ in slices] == [(0, 16), (16, 16), (32, 16), (48, 2)]
    for place, skeleton in enumerate(both.skeletons):
        whole = skeleton.logits(window[None], hidden[place])[0]
        joined = torch.cat([each[1 + place] for each in slices])
        assert_within(joined, whole, 2 * likely(64) * whole.abs().max())


def test_an_interrupted_run_resumes_with_the_cached_lengths(both, text, tmp_path):
    first = measured(both, text, tmp_path)
    retention = list(tmp_path.glob("*.json"))
    next(path for path in retention if path.name.startswith("context-64-")).unlink()
    store = ValidationCache(tmp_path, resume=True)
    request = ContextRequest(FEW, str(text), windows=2)
    again = measure_context(both, request, store, silent)
    assert again.to_dict() == first.to_dict()
    assert store.reused == len(retention) - 1 > 4


def test_the_references_answers_serve_other_checkpoints(folder, text, tmp_path):
    other = rounded(folder / "model", tmp_path / "other", "w4-g32-sym", "compressed-tensors")
    taken = []
    for checkpoint in (folder / "rounded", other):
        store = ValidationCache(tmp_path / "store")
        measure_retrieval(
            open_pair(str(checkpoint), str(folder / "model"), "cpu"), (256,), 0, store, silent
        )
        taken.append(store.reused)
    assert taken == [0, 4]  # of each text, the reference's answers


def test_a_random_model_finds_nothing_and_does_not_pass(shared):
    result = shared
    retention = result.measurements()[1]
    assert (retention.what, retention.value) == ("retrieval_retention", None)
    assert "the reference finds none of" in retention.why
    rows = result.to_dict()["retrieval"]["rows"]
    assert sum(row["count"] for row in rows) == result.to_dict()["retrieval"]["count"] >= 4
    assert result.to_dict()["retrieval"]["reference"] == 0


def test_questions_compute_their_text_once(folder):
    engine = opened(folder / "model", context_length=512, slots=1).engine
    encode = lambda text: engine.tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    probes = make_probes(encode, encode("a dark night " * 9), [], (256, 512), 0)
    result = answer_probes(engine, probes)
    assert len(result.answers) == len(probes) == 4
    questions = sum(60 for _ in probes)
    assert 480 < result.prompt_tokens < 512 + questions < sum(len(p.prompt) for p in probes)


def test_an_engine_without_prefix_reuse_answers_fewer_probes(folder):
    engine = opened(folder / "model", context_length=512, slots=1, fuse=False).engine
    assert not engine.runner.reuses_prefixes
    probes = make_probes(lambda text: [3 + len(word) for word in text.split()], [9], [], (512,), 0)
    result = answer_probes(engine, probes)
    answered = [probe for probe, a in zip(probes, result.answers, strict=True) if a is not None]
    assert (len(probes), len(answered)) == (10, 2)
    assert result.prompt_tokens == sum(len(probe.prompt) for probe in answered)


def test_retention_counts_the_references_right_answers():
    probes = make_probes(lambda t: [ord(c) for c in t], [97], [], (2048, 4096), 0)
    reference = [True] * 10 + [False] * 10
    quantized = [True] * 8 + [False] * 9 + [True] * 3
    result = RetrievalResult(probes, reference, quantized, {})
    assert result.totals == (10, 11)
    retention = result.retention
    assert retention.middle == pytest.approx(1.1)
    assert retention.low < 1.1 < retention.high
    rows = [vars(row) for row in result.rows]
    assert [(r["length"], r["count"]) for r in rows] == [(2048, 1)] * 10 + [(4096, 1)] * 10
    assert sum(r["quantized"] for r in rows if r["length"] == 2048) == 8
    assert RetrievalResult(probes, [False] * 20, quantized, {}).retention is None


def test_short_lengths_are_in_more_texts_than_long_ones():
    texts = texts_of((512, 2048, 8192), "cpu")
    assert texts == [[512, 2048, 8192], [512, 2048], [512], [512]]


def test_without_memory_to_generate_the_windows_are_still_measured(
    both, text, tmp_path, monkeypatch
):
    monkeypatch.setattr(model_pair, "free_memory", lambda _: 1000)
    result = measured(both, text, tmp_path, lengths=(256,), windows=1)
    assert result.to_dict()["lengths"][0]["kl"] > 0
    assert "GiB are free" in result.to_dict()["retrieval"]["error"]
    assert result.measurements()[1].value is None
    assert "GiB are free" in result.measurements()[1].why
    assert any("could not be searched for" in line for line in render_stage(result)[1])


# What does not fit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"lengths": (64, 1024)},
            r"--context-lengths 1024 is longer than the model's 512 positions",
        ),
        ({"lengths": (16, 64)}, r"--context-lengths 16 is too short .* at least 64"),
        ({"windows": 0}, "0 windows of 256 tokens. Give 1 or more"),
    ],
)
def test_an_invalid_request_is_refused_before_anything_runs(options, message, both, text):
    request = ContextRequest(text=str(text), **{"lengths": FEW, **options})
    with pytest.raises(CalibrationError, match=message):
        check_context(both, request)


def test_a_short_text_drops_lengths_and_names_what_fits(both, text, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text(text.read_text()[:200])
    result = measured(both, short, tmp_path / "store")
    assert [row["length"] for row in result.to_dict()["lengths"]] == [64, 128]
    assert "256 tokens left out: the text holds 192" in result.to_dict()["notes"]
    short.write_text(text.read_text()[:70])
    with pytest.raises(CalibrationError, match=r"holds 64 tokens, .* is 64.*at most 63"):
        measured(both, short, tmp_path / "store")


@pytest.mark.parametrize(
    ("longest", "lengths"),
    [(None, LENGTHS), (131072, LENGTHS), (4096, LENGTHS[:3]), (2047, (512,)), (300, (300,))],
)
def test_the_default_lengths_are_those_that_the_model_allows(longest, lengths):
    assert default_lengths(longest) == lengths


def test_lengths_left_out_are_noted(tmp_path, text):
    model = toy_folder(tmp_path / "model", max_position_embeddings=100)
    both = open_pair(str(rounded(model, tmp_path / "rounded")), str(model), "cpu")
    result = measured(both, text, tmp_path / "store", lengths=(), windows=1)
    assert [row["length"] for row in result.to_dict()["lengths"]] == [100]
    message = "512, 2048, 4096, 8192 tokens left out: the model has 100 positions"
    assert result.to_dict()["notes"] == [message]
    assert f"{message}." in render_stage(result)[1]


def test_attention_with_all_scores_in_memory_is_bounded(tmp_path, text, monkeypatch):
    model = toy_folder(tmp_path / "model", "gemma2")
    both = open_pair(str(rounded(model, tmp_path / "rounded")), str(model), "cpu")
    needed = {n: long_windows.needed_memory(both, n) for n in BARE}
    assert needed[128] == 4 * needed[64] > 128 * 128 * 4 * 4
    monkeypatch.setattr(measure, "free_memory", lambda device: 3 * needed[64])
    result = measured(both, text, tmp_path / "store", lengths=BARE)
    assert [row["length"] for row in result.to_dict()["lengths"]] == [64]
    assert any("128 tokens left out: attention takes" in note for note in result.to_dict()["notes"])
    monkeypatch.setattr(measure, "free_memory", lambda device: needed[64])
    with pytest.raises(ResourceError, match=r"64 tokens left out: attention takes .* are free"):
        measured(both, text, tmp_path / "store", lengths=BARE)


def test_fused_attention_needs_no_square(both):
    assert long_windows.needed_memory(both, 8192) == 0


def test_progress_rises_to_its_end(shared):
    shares = [done / total for done, total, *_ in STEPS]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.8 < shares[-1] <= 1
    assert {"reference", "checkpoint"} <= {doing.split(", ")[-1] for _, _, doing, _ in STEPS}
