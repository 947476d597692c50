"""Logs that people reported: the first finding is the true cause; healthy logs have no error.

field/logs.toml has the cases; field/logs/ their lines, with names and paths replaced;
field/lines.toml single lines of other reports.
"""

import io
from pathlib import Path

import pytest
import tomli

from salient.diagnose.finding import BAD
from salient.diagnose.log.log_reader import LogReading, read_log, read_stream

FIELD = Path(__file__).with_name("field")
CASES = tomli.loads((FIELD / "logs.toml").read_text(encoding="utf-8"))
LINES = tomli.loads((FIELD / "lines.toml").read_text(encoding="utf-8"))["lines"]
# Logs without a failure, and what is slow in them.
HEALTHY = {
    "c42_slow_old_stats": [],
    "h1_awq70b_tp2_016": [],
    "h2_gptq_machete_010": [],
    "h4_sglang_run": [],
    "h6_mixtral_awq_03": ["awq-unoptimized"],
    "h8_awq_029_wsl_offline": [],
}


def reading(name: str) -> LogReading:
    return read_log(FIELD / "logs" / f"{name}.log")


def test_every_log_has_its_expectation():
    assert {path.stem for path in (FIELD / "logs").iterdir()} == CASES.keys() | HEALTHY.keys()


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_first_finding_of_a_failed_log_is_its_true_cause(name):
    case = CASES[name]
    first = reading(name).findings[0]
    assert (first.id, first.level in BAD) == (case["first"], True)
    text = " ".join(first.do)
    assert [part for part in case.get("steps", []) if part not in text] == []


@pytest.mark.parametrize("name", sorted(CASES))
def test_no_step_contradicts_what_the_log_states(name):
    steps = " ".join(step for f in reading(name).findings if f.level in BAD for step in f.do)
    assert [part for part in CASES[name].get("never", []) if part in steps] == []


@pytest.mark.parametrize("name", sorted(HEALTHY))
def test_a_healthy_log_has_no_error(name):
    assert [f.id for f in reading(name).findings if f.level in BAD] == HEALTHY[name]


@pytest.mark.parametrize(("source", "finding", "line"), LINES)
def test_a_reported_line_gives_its_finding_first(source, finding, line):
    findings = read_stream(io.BytesIO(f"{line}\n".encode()), "a.log", size=None).findings
    assert findings[0].id == finding, source
