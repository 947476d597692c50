"""Entries of skip lists are matched as vLLM and Transformers match them."""

import random

import pytest
from transformers.quantizers.quantizers_utils import should_convert_module

from helpers.faults import alarms, first, settings, text_of
from helpers.rtn_checkpoints import rounded_toy
from salient.core.model_files import SINGLE
from salient.diagnose.checkpoint.check import read_checkpoint
from salient.diagnose.checkpoint.ignore_lists import by_transformers, by_vllm

GATE, QUERY = "model.layers.0.mlp.gate_proj", "model.layers.0.self_attn.q_proj"
EXPERT = "model.layers.0.mlp.experts.3.gate_proj"


# What vLLM 0.32's is_layer_skipped(match_mode="substring") says of the joined module, run by hand.
@pytest.mark.parametrize(
    ("entry", "module", "skipped"),
    [
        ("mlp.gate", GATE, True),
        ("mlp.gate", EXPERT, False),
        ("gate", GATE, True),
        ("gate", EXPERT, False),
        ("q_proj", QUERY, True),
        ("qkv_proj", QUERY, True),
        ("gate_up", GATE, True),
        ("experts", EXPERT, True),
        ("lm_head", GATE, False),
        ("visual", GATE, False),
        ("layers.0.", GATE, True),
    ],
)
def test_an_awq_entry_is_a_piece_of_the_name_that_vllm_looks_up(entry, module, skipped):
    assert by_vllm(module, entry, "awq") is skipped


@pytest.mark.parametrize(
    ("entry", "skipped"),
    [(GATE, True), ("mlp.gate", False), ("re:.*gate_proj", True), ("re:gate_proj", False)],
)
def test_an_entry_of_ignore_is_a_whole_name_or_a_pattern(entry, skipped):
    assert by_vllm(GATE, entry, "compressed-tensors") is skipped


def test_an_awq_entry_is_matched_as_transformers_does():
    rng = random.Random(0)
    parts = (
        "model",
        "layers",
        "1",
        "11",
        "mlp",
        "gate",
        "gate_proj",
        "visual",
        ".*",
        "[01]",
        "a|b",
    )
    outcomes = set()
    for _ in range(2000):
        module = ".".join(rng.choices(parts[:8], k=rng.randint(1, 5)))
        entry = ".".join(rng.choices(parts, k=rng.randint(1, 3)))
        skipped = not should_convert_module(module, [entry])
        assert by_transformers(module, entry, "awq") is skipped, (module, entry)
        outcomes.add(skipped)
    assert outcomes == {True, False}


def test_an_entry_that_is_no_pattern_only_ends_names():
    assert by_transformers("a.b(", "b(", "awq")
    assert not by_transformers("b(.a", "b(", "awq")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A tiny mixture of experts whose routers stay at 16 bits."""
    return rounded_toy(tmp_path_factory.mktemp("moe"), "qwen3_moe")


def test_a_short_entry_that_names_only_routers_raises_no_alarm_where_none_is_hit(mixture):
    settings(mixture, modules_to_not_convert=["mlp.gate"])
    findings = read_checkpoint(mixture).findings
    assert [f.id for f in findings if f.level == "error"] == []


def test_an_entry_within_experts_names_misleads_older_readers_only(mixture):
    settings(mixture, modules_to_not_convert=["gate"])
    finding = first(mixture)
    assert (finding.id, finding.level) == ("skip-entry-hits-experts", "warning")
    assert "vLLM looks all experts up by one name" in finding.why


def test_routers_without_an_entry_get_one_that_fits(mixture):
    settings(mixture, modules_to_not_convert=["lm_head"])
    finding = first(mixture)
    assert (finding.id, finding.level) == ("skip-entry-missing", "warning")
    assert f"{SINGLE}: model.layers.0.mlp.gate.weight" in text_of(finding)
    line = next(step for step in finding.do if step.startswith("+"))
    assert "mlp.gate" in line
    assert '"gate"' not in line  # a piece of gate_proj


def test_an_entry_that_names_nothing_is_a_note(mixture):
    full = [f"model.layers.{i}.mlp.gate" for i in range(2)]
    settings(mixture, modules_to_not_convert=[*full, "model.layers.0.attention"])
    reading = read_checkpoint(mixture)
    assert alarms(reading) == []
    assert [f.title for f in reading.findings if f.id == "skip-entry-unused"] == [
        "modules_to_not_convert names 'model.layers.0.attention', and no module has that name"
    ]


def test_common_entries_are_no_fault_of_a_model_that_lacks_them(mixture):
    full = [f"model.layers.{i}.mlp.gate" for i in range(2)]
    settings(mixture, modules_to_not_convert=["lm_head", "model.embed_tokens", *full])
    assert "skip-entry-unused" not in [f.id for f in read_checkpoint(mixture).findings]
