"""Policies: valid files are read, faults are named, the shipped ones have their bounds."""

import re
from pathlib import Path

import pytest

from salient.core.errors import RequestError
from salient.validate.likelihood.measure import LikelihoodRequest
from salient.validate.policy.policy import (
    LARGEST_FILE,
    SHIPPED,
    STAGES,
    THRESHOLDS,
    Policy,
    read_policy,
)

WHOLE = """
use = "middle"
may_differ = ["rope"]

[likelihood]
kl_max = 0.1
minimum_windows = 9

[tasks]
minimum_examples = 50
retention_min = 0.9
significance = 0.01

[tasks.kinds.arithmetic]
retention_min = 0.8

[tasks.kinds.code]
minimum_examples = 20

[load]
ttft_p90_max_s = 2
"""


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_policy_has_the_values_of_its_file(tmp_path):
    assert read_policy(written(tmp_path, WHOLE)) == Policy(
        name="mine",
        use="middle",
        bounds={
            ("likelihood", "kl_max"): 0.1,
            ("tasks", "retention_min"): 0.9,
            ("load", "ttft_p90_max_s"): 2.0,
        },
        kinds={"arithmetic": 0.8},
        minimum_windows=9,
        examples={"code": 20},
        minimum_examples=50,
        significance=0.01,
        may_differ=("rope",),
    )


def test_every_threshold_can_be_set_to_its_ends(tmp_path):
    for pick in ("least", "most"):
        rows = [f"{t.stage}.{t.key} = {getattr(t, pick)}" for t in THRESHOLDS]
        own = read_policy(written(tmp_path, "\n".join(rows)))
        assert own.bounds == {(t.stage, t.key): getattr(t, pick) for t in THRESHOLDS}


def test_the_pessimistic_end_is_the_default(tmp_path):
    assert read_policy(written(tmp_path, "likelihood.kl_max = 1")).use == "upper"


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    assert read_policy(written(tmp_path, b"\xef\xbb\xbfuse = 'middle'\n" + WHOLE[15:].encode()))


# The shipped ones


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_has_a_rule_for_every_stage(name):
    policy = read_policy(name)
    assert policy.name == name
    assert {stage for stage, _ in policy.bounds} == set(STAGES)


@pytest.mark.parametrize("threshold", THRESHOLDS, ids=lambda t: t.key)
def test_a_stricter_shipped_policy_has_tighter_bounds(threshold):
    key = (threshold.stage, threshold.key)
    bounds = [p.bounds[key] for p in map(read_policy, SHIPPED) if key in p.bounds]
    assert len(bounds) in (0, len(SHIPPED))
    assert bounds == sorted(bounds, reverse=threshold.direction == "at least")
    assert len(set(bounds)) == len(bounds)


def test_a_stricter_shipped_policy_requires_more_examples():
    fewest = [read_policy(name).minimum_examples for name in SHIPPED]
    assert fewest == sorted(set(fewest), reverse=True)


def test_a_stricter_shipped_policy_requires_no_less_text():
    for name in ("minimum_windows", "minimum_tokens"):
        least = [getattr(read_policy(shipped), name) for shipped in SHIPPED]
        assert least == sorted(least, reverse=True)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_requires_no_more_text_than_a_run_measures(name):
    policy, request = read_policy(name), LikelihoodRequest()
    assert policy.minimum_windows == request.count
    assert policy.minimum_tokens == request.count * request.length


def test_only_the_strict_one_puts_the_burden_of_proof_on_the_server():
    assert [read_policy(name).use for name in SHIPPED] == ["upper", "middle", "middle"]


# What is refused

UNKNOWN = [
    ("likelyhood.kl_max = 1", "unknown key 'likelyhood'. Did you mean likelihood? It takes use, "),
    ("zzz = 1", "unknown key 'zzz'. It takes use, may_differ, likelihood, tasks, context, load."),
    ("[likelihood]\nkl_mx = 1", "unknown key 'likelihood.kl_mx'. Did you mean kl_max? It takes"),
    ("[load]\nttft_max_s = 1", "'load.ttft_max_s'. Did you mean ttft_p90_max_s?"),
    ("[tasks]\nretention = 1", "'tasks.retention'. Did you mean retention_min?"),
    ("[load]\nkinds = {}", "unknown key 'load.kinds'"),
    (
        "[tasks.kinds.code]\nretention_max = 1",
        "'tasks.kinds.code.retention_max'. Did you mean retention_min? It takes retention_min, "
        "minimum_examples.",
    ),
]
MISFITS = [
    ("use = 'lower'", "use: 'lower' does not fit. Give 'upper' (the pessimistic end"),
    ("use = []", "use: [] does not fit"),
    (
        "may_differ = ['tokenizer']",
        "['tokenizer'] does not fit. Give a list of chat_template, stop",
    ),
    ("may_differ = 'rope'", "may_differ: 'rope' does not fit. Give a list of"),
    ("likelihood = 3", "likelihood: 3 does not fit. Give a table: [likelihood] on a line"),
    ("[likelihood]\nkl_max = '0.1'", "likelihood.kl_max: '0.1' does not fit. Give a number from 0"),
    ("[likelihood]\nkl_max = true", "likelihood.kl_max: True does not fit"),
    ("[likelihood]\nkl_max = nan", "likelihood.kl_max: nan does not fit"),
    ("[likelihood]\nkl_max = inf", "likelihood.kl_max: inf does not fit"),
    ("[likelihood]\nkl_max = -0.1", "likelihood.kl_max: -0.1 does not fit"),
    (
        "[likelihood]\ntop1_min = 95",
        "likelihood.top1_min: 95 does not fit. Give a number from 0 to 1",
    ),
    (
        "[context]\nkl_growth_max = 0.9",
        "context.kl_growth_max: 0.9 does not fit. Give a number from 1",
    ),
    ("[load]\nitl_p90_max_s = 0", "load.itl_p90_max_s: 0 does not fit. Give a number from 0.0001"),
    (
        "[likelihood]\nminimum_windows = 4",
        "minimum_windows: 4 does not fit. Give a whole number fr",
    ),
    (
        "[likelihood]\nminimum_tokens = 0",
        "minimum_tokens: 0 does not fit. Give a whole number from 1",
    ),
    ("[tasks]\nminimum_examples = 1.5", "tasks.minimum_examples: 1.5 does not fit. Give a whole"),
    ("[tasks]\nminimum_examples = 0", "tasks.minimum_examples: 0 does not fit"),
    ("[tasks]\nsignificance = 5", "tasks.significance: 5 does not fit. Give a number from 1e-06"),
    ("[tasks]\nretention_min = 0x" + "f" * 5000, "retention_min: a huge number does not fit"),
    ("[tasks]\nkinds = 1", "tasks.kinds: 1 does not fit. Give a table: [tasks.kinds]"),
    ("[tasks.kinds]\ncode = 0.9", "tasks.kinds.code: 0.9 does not fit. Give a table"),
    ("[tasks.kinds.code]\nretention_min = 2", "tasks.kinds.code.retention_min: 2 does not fit"),
    ("[tasks.kinds.code]\nminimum_examples = -1", "tasks.kinds.code.minimum_examples: -1 does not"),
    ("\n".join(f"[tasks.kinds.k{i}]" for i in range(101)), "tasks.kinds: 101 kinds. Give at most"),
]
NO_TOML = [
    ("[likelihood]\nkl_max = \n", "is not TOML: Invalid value (at line 2, column 10)"),
    ("a = 1\n[x\n", "(at line 2, column 3)"),
    ("a = " + "[" * 5000, "is not TOML: maximum recursion depth"),
    ("a = " + "9" * 5000, "is not TOML: Exceeds the limit"),
    (b"\xff\xfe", "is not UTF-8 text (byte 0). Save it as UTF-8"),
    ("#" * (LARGEST_FILE + 1), "has more than 64 KiB"),
]
CONTRADICTIONS = [
    ("", "has no rule. Give at least one of likelihood.kl_max"),
    ("use = 'upper'\n[tasks]\nsignificance = 0.05", "has no rule"),
    (
        "[load]\nerror_rate_max = 1\n[likelihood]\nminimum_tokens = 9",
        "likelihood.minimum_tokens: decides nothing without a kl_max. Give likelihood.kl_max too",
    ),
    (
        "[likelihood]\nkl_max = 1\n[tasks]\nminimum_examples = 9",
        "tasks.minimum_examples: decides nothing without a retention_min. Give",
    ),
    (
        "[tasks.kinds.a]\nretention_min = 0.9\n[tasks.kinds.b]\nminimum_examples = 9",
        "tasks.kinds.b.minimum_examples: decides nothing without a retention_min",
    ),
]
FAULTS = UNKNOWN + MISFITS + NO_TOML + CONTRADICTIONS


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[message[:40] for _, message in FAULTS])
def test_a_fault_names_the_file_and_what_fits(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(RequestError, match=re.escape(message)) as caught:
        read_policy(path)
    assert f"Policy {path}" in str(caught.value)
    assert len(str(caught.value)) < len(path) + 600


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "strikt",
            "No policy 'strikt'. Did you mean strict? Shipped are strict, balanced, lenient",
        ),
        ("mine.toml", "No policy 'mine.toml'. Shipped are strict, balanced, lenient; or give"),
        ("", "is a folder"),
        (".", "Policy '.' is a folder. Give the .toml file in it."),
        ("/dev/null", "Policy '/dev/null' is no regular file"),
        ("a\0b", "olicy 'a\\x00b'"),
        ("x" * 5000, "olicy 'xxx"),
        ("~nobody-of-this-name/mine.toml", "No policy '~nobody"),
    ],
    ids=lambda text: text[:12].replace("\0", "NUL"),
)
def test_an_unknown_name_lists_the_shipped_policies(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=re.escape(message)):
        read_policy(name)


def test_a_file_of_the_same_name_does_not_hide_a_shipped_policy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("strict").write_text("likelihood.kl_max = 9", encoding="utf-8")
    assert read_policy("strict").bounds["likelihood", "kl_max"] < 1
    assert read_policy("./strict").bounds["likelihood", "kl_max"] == 9
