"""Load: the worst step is judged; a server that fails is figures or an undecided rule, no pass."""

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.engines import never_dense, opened
from helpers.rtn_checkpoints import rounded_toy
from helpers.toy_server import Manner, toy_server
from salient.core.errors import RequestError
from salient.core.intervals import Interval
from salient.core.progress import silent
from salient.loadtest.plan import LoadPlan, LoadStep
from salient.loadtest.result import FailureCount, LatencySummary, LoadResult
from salient.validate.cache import ValidationCache
from salient.validate.load.embedded_target import run_embedded
from salient.validate.load.measure import PLAN, LoadRequest, check_load, measure_load
from salient.validate.load.result import LoadTestStageResult
from salient.validate.model_pair import open_pair
from salient.validate.policy.policy import Policy, read_policy
from salient.validate.policy.verdict import judge

SMALL = LoadPlan(
    steps=(LoadStep(1), LoadStep(3)),
    requests=4,
    warmups=1,
    prompt_tokens=24,
    output_tokens=6,
    text="a b c",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return rounded_toy(tmp_path_factory.mktemp("load"))


@pytest.fixture(scope="module")
def pair(folder):
    return open_pair(str(folder), str(folder.parent / "model"), "cpu")


@pytest.fixture(autouse=True)
def no_dense_products(monkeypatch):
    never_dense(monkeypatch)


def result(concurrency=1, completed=10, failed=0, p90=100.0, tokens=1000) -> LoadResult:
    latency = LatencySummary(p90, p90, p90, p90) if completed else None
    return LoadResult(
        tool="salient",
        concurrency=concurrency,
        rate=None,
        ttft=latency,
        itl=latency,
        tpot=latency,
        e2e=latency,
        seconds=10.0,
        completed=completed,
        input_tokens=100,
        output_tokens=tokens,
        failures=(FailureCount("refused", failed),) if failed else (),
    )


# The embedded engine


def measurements_of(steps):
    return LoadTestStageResult("embedded", "toy", steps[0].tool, tuple(steps)).measurements()


def test_the_embedded_engine_answers_every_request_at_every_step(folder):
    engine = opened(folder, slots=3, context_length=64).engine
    results = run_embedded(engine, SMALL, silent)
    assert [r.concurrency for r in results] == [1, 3]
    for figures in results:
        assert (figures.completed, figures.failed) == (4, 0)
        assert figures.output_tokens == 4 * 6
        assert 4 * 10 < figures.input_tokens <= 4 * 24
        assert figures.ttft.p50 < figures.e2e.p50
        assert figures.tpot.mean * 5 == pytest.approx(figures.e2e.mean - figures.ttft.mean)
    assert results[1].peak == 3
    assert not engine.busy


def test_the_embedded_engine_reuses_no_prefix_of_a_prompt(folder):
    engine = opened(folder, slots=3, context_length=64).engine
    requests = []
    submit = engine.submit
    engine.submit = lambda *arguments: requests.append(submit(*arguments)) or requests[-1]
    run_embedded(engine, SMALL, silent)
    assert len(requests) == 10
    assert max(answer.reused for answer in requests) <= 1


def test_the_embedded_engine_ends_in_time_where_seconds_are_set(folder):
    engine = opened(folder, slots=1, context_length=64).engine
    plan = replace(SMALL, steps=(LoadStep(1),), requests=None, seconds=0.2, warmups=0)
    (figures,) = run_embedded(engine, plan, silent)
    assert figures.completed >= 1
    assert figures.seconds < 5


def test_the_embedded_engine_has_no_rate(folder):
    engine = opened(folder, context_length=64).engine
    with pytest.raises(RequestError, match="tested by concurrency"):
        run_embedded(engine, replace(SMALL, steps=(LoadStep(1, rate=1.0),)), silent)


def test_the_stage_has_the_figures_of_the_embedded_engine(pair):
    stage = measure_load(pair, LoadRequest(plan=SMALL), ValidationCache(), silent)
    assert stage.to_dict()["target"] == "embedded"
    assert [step["completed"] for step in stage.to_dict()["steps"]] == [4, 4]
    assert {m.what: m.value for m in stage.measurements()}["error_rate"] == 0.0
    assert judge(read_policy("lenient"), stage.measurements(), ["load"]).word == "pass"


# What is judged


def test_the_worst_step_is_judged_and_the_best_throughput():
    steps = [result(1, p90=50.0, tokens=100), result(8, 9, 1, p90=900.0, tokens=5000)]
    figures = {m.what: m for m in measurements_of(steps)}
    assert figures["error_rate"].value == pytest.approx(0.1)
    assert figures["error_rate"].interval.low < 0.1 < figures["error_rate"].interval.high
    assert figures["ttft_p90"].value == figures["itl_p90"].value == pytest.approx(0.9)
    assert figures["throughput"].value == 500


def test_a_strict_policy_needs_the_intervals_of_a_load_test():
    strict = read_policy("strict")
    timed = LatencySummary(100.0, 100.0, 100.0, 100.0, Interval(90.0, 100.0, 120.0))
    few, many = (
        [replace(result(n, completed=count), ttft=timed, itl=timed) for n in (1, 4, 8)]
        for count in (16, strict.load_requests // 3)
    )
    verdicts = [judge(strict, measurements_of(each), ["load"]).word for each in (few, many)]
    assert verdicts == ["could not measure", "pass"]
    own = Policy("own", "upper", {("load", "ttft_p90_max_s"): 0.11})
    (rule,) = judge(own, measurements_of(many), ["load"]).rules
    assert (rule.passed, rule.interval.high) == (None, pytest.approx(0.12))
    (rule,) = judge(own, measurements_of([result(1)]), ["load"]).rules
    assert (rule.passed, rule.interval) == (None, None)


def test_a_load_test_sends_the_requests_that_its_policy_needs():
    plan = LoadRequest(requests=read_policy("strict").load_requests).load_plan
    assert plan.requests * len(plan.steps) >= 381
    assert LoadRequest(requests=read_policy("lenient").load_requests).load_plan == PLAN


def test_a_long_load_test_bounds_its_figures(folder):
    engine = opened(folder, slots=8, context_length=64).engine
    plan = replace(SMALL, steps=(LoadStep(8),), requests=40, output_tokens=3)
    (figures,) = run_embedded(engine, plan, silent)
    for latency in (figures.ttft, figures.itl):
        interval = latency.p90_interval
        assert 0 < interval.low <= latency.p90 <= interval.high < 1e6
    interval = figures.output_rate_interval
    assert 0 < interval.low < figures.output_rate < interval.high


def test_times_are_not_measured_where_many_requests_failed():
    figures = {m.what: m for m in measurements_of([result(1), result(4, 8, 2, p90=10.0)])}
    assert figures["error_rate"].value == pytest.approx(0.2)
    for name in ("ttft_p90", "itl_p90", "throughput"):
        assert figures[name].value is None
        assert figures[name].why == "2 of 10 requests failed with 4 at once"


def test_a_step_without_an_answer_leaves_the_others_times_undecided():
    figures = {m.what: m for m in measurements_of([result(1), result(4, 0, 0, tokens=0)])}
    assert figures["error_rate"].value == 1.0
    assert figures["throughput"].value is figures["ttft_p90"].value is None


def test_times_that_a_tool_does_not_report_are_undecided():
    figures = {m.what: m for m in measurements_of([replace(result(1), itl=None, tool="guidellm")])}
    assert (figures["itl_p90"].value, figures["itl_p90"].why) == (
        None,
        "guidellm does not report it",
    )
    assert figures["ttft_p90"].value == pytest.approx(0.1)


@pytest.mark.parametrize("steps", [[result(1, 0, 20, tokens=0)], [result(1, 0, 0, tokens=0)]])
def test_a_server_that_answers_nothing_never_passes(steps):
    figures = measurements_of(steps)
    assert {m.what: m.value for m in figures}["ttft_p90"] is None
    assert judge(read_policy("lenient"), figures, ["load"]).word != "pass"


@pytest.mark.parametrize(
    ("manner", "kind"),
    [
        (Manner(dies=2), "broken"),
        (Manner(raw=b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), "500"),
        (Manner(raw=b"", hang=True), "timeout"),
    ],
    ids=["dies", "refuses", "hangs"],
)
def test_a_server_that_fails_on_the_way_fails_the_rule(manner, kind, pair, monkeypatch):
    monkeypatch.setattr("salient.validate.load.measure.TIMEOUT", 0.2)
    with toy_server(manner) as server:
        request = LoadRequest(server.url, "toy", SMALL)
        stage = measure_load(pair, request, ValidationCache(), silent)
    assert {m.what: m.value for m in stage.measurements()}["error_rate"] == 1.0
    verdict = judge(read_policy("lenient"), stage.measurements(), ["load"])
    assert verdict.word == "fail"
    assert any(kind.split()[0] in str(step["failures"]) for step in stage.to_dict()["steps"])


def test_a_server_that_streams_is_timed(pair):
    with toy_server(Manner(gap=0.001)) as server:
        request = LoadRequest(server.url, "toy", SMALL)
        stage = measure_load(pair, request, ValidationCache(), silent)
        assert {body["model"] for body in server.requests.bodies} == {"toy"}
    assert stage.to_dict()["target"] == server.url
    assert judge(read_policy("lenient"), stage.measurements(), ["load"]).word == "pass"


# Requests


@pytest.mark.parametrize("target", ["embeded", "localhost:8000", "ftp://x", ""])
def test_an_invalid_target_names_what_fits(target, pair):
    with pytest.raises(RequestError, match=r"--load-test: .* Or 'embedded', or 'off'"):
        check_load(pair, LoadRequest(target))
