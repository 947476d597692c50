"""A load test against a server whose delays and faults are known."""

import asyncio
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from helpers.toy_server import SSE_HEAD, Manner, toy_server
from salient.core.errors import RequestError
from salient.evals.load import runs
from salient.evals.load.plans import LoadPlan, Step, Target
from salient.evals.load.runs import GIVE_UP, measure_load, run_load

TEXT = "the quick brown fox jumps over the lazy dog " * 20
SMALL = {"prompt_tokens": 8, "output_tokens": 6, "warmups": 0, "text": TEXT}
SLACK = 60  # ms that a busy machine may add; a first chunk that comes late makes a gap shorter
HTML = b"<html><body>Welcome</body></html>\n"


def plan(*steps: Step, **given) -> LoadPlan:
    return LoadPlan(**{**SMALL, "steps": steps or (Step(1),), "requests": 4, **given})


def target(url: str, **given) -> Target:
    return Target(**{"url": url, "model": "toy", "timeout": 5.0, **given})


def test_times_are_those_of_the_server():
    with toy_server(Manner(first=0.1, gap=0.03)) as server:
        (found,) = run_load(target(server.url), plan(Step(2)))
    assert found.totals.completed == 4
    assert found.failed == 0
    assert 98 <= found.ttft.p50 <= 100 + SLACK
    assert 20 <= found.itl.p50 <= 30 + SLACK
    assert 20 <= found.tpot.mean <= 30 + SLACK
    assert 245 <= found.e2e.p50 <= 250 + 2 * SLACK
    assert found.totals.seconds == pytest.approx(0.5, abs=0.3)  # two rounds of 0.25 s


def test_one_tokens_time_is_the_rest_of_the_answer_over_the_rest_of_its_tokens():
    with toy_server(Manner(gap=0.04, tokens=3)) as server:
        (found,) = run_load(target(server.url), plan(requests=2))
    # 6 tokens in 2 chunks: one gap of 40 ms, which 5 tokens share
    assert 25 <= found.itl.p50 <= 40 + SLACK
    assert found.tpot.p50 == pytest.approx((found.e2e.p50 - found.ttft.p50) / 5)
    assert found.totals.output_tokens == 12


@pytest.mark.parametrize(("usage", "who", "output"), [(True, "server", 12), (False, "chunks", 6)])
def test_tokens_are_the_servers_own_count_and_else_chunks(usage, who, output):
    with toy_server(Manner(tokens=2, usage=usage)) as server:
        (found,) = run_load(target(server.url), plan(requests=2))
    assert (found.counted, found.totals.output_tokens) == (who, output)
    assert found.totals.input_tokens == 16
    assert found.total_rate == pytest.approx((16 + output) / found.totals.seconds)


@pytest.mark.parametrize("concurrency", [1, 3, 6])
def test_no_more_requests_are_under_way_than_the_step_says(concurrency):
    with toy_server(Manner(first=0.02)) as server:
        (found,) = run_load(target(server.url), plan(Step(concurrency), requests=12, warmups=9))
    assert server.seen.most == found.totals.peak == concurrency


def test_warm_up_is_sent_and_not_counted():
    with toy_server(Manner()) as server:
        found = run_load(target(server.url), plan(Step(1), Step(2), requests=5, warmups=3))
    assert [each.requests for each in found] == [5, 5]
    assert len(server.seen.bodies) == 16


def test_a_rate_spreads_requests_over_time():
    with toy_server(Manner()) as server:
        (found,) = run_load(
            target(server.url), plan(Step(rate=50, arrivals="constant"), requests=11)
        )
    assert found.requests == 11
    assert found.totals.seconds >= 0.2
    assert found.rate == 50


def test_a_step_of_seconds_starts_none_after_them_and_waits_for_the_last():
    with toy_server(Manner(first=0.1)) as server:
        (found,) = run_load(target(server.url), plan(requests=None, seconds=0.25))
    assert found.failed == 0
    assert 2 <= found.requests <= 3
    assert 0.25 <= found.totals.seconds < 0.25 + 0.1 + 0.3


@pytest.mark.parametrize(
    ("api", "path"), [("completions", "/v1/completions"), ("chat", "/v1/chat/completions")]
)
@pytest.mark.parametrize("framing", ["chunked", "closed"])
def test_both_apis_are_spoken_in_either_framing(api, path, framing):
    with toy_server(Manner(framing=framing)) as server:
        (found,) = run_load(
            target(server.url + "/v1/", api=api, api_key="k-1"), plan(requests=2, ignore_eos=False)
        )
    assert found.totals.completed == 2
    assert set(server.seen.paths) == {path}
    assert server.seen.headers[0]["authorization"] == "Bearer k-1"
    body = server.seen.bodies[0]
    assert (body["max_tokens"], body["stream"], body["model"]) == (6, True, "toy")
    assert "ignore_eos" not in body


def test_without_a_key_none_is_sent_and_no_prompt_comes_twice():
    with toy_server(Manner()) as server:
        run_load(target(server.url), plan(Step(1), Step(2), requests=20, warmups=2))
    assert all("authorization" not in headers for headers in server.seen.headers)
    assert all(body["ignore_eos"] is True for body in server.seen.bodies)
    assert len({body["prompt"] for body in server.seen.bodies}) == 44


# Failures


def _page(status: bytes, body: bytes, kind: bytes = b"text/html") -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


def _events(*data: bytes) -> bytes:
    return SSE_HEAD + b"\r\n" + b"".join(b"data: %s\n\n" % each for each in data)


WORD = b'{"choices": [{"text": "word"}]}'
FAULTS = [
    (Manner(raw=_page(b"404 Not Found", HTML)), "HTTP 404", "Welcome"),
    (Manner(raw=_page(b"503 Service Unavailable", b"")), "HTTP 503", "Service Unavailable"),
    (Manner(raw=b"HTTP/1.1 307 Away\r\nLocation: /x\r\n\r\n"), "HTTP 307", "Away"),
    (Manner(raw=b"HTTP/1.1 500 Oh\r\nContent-Length: 99\r\n\r\n"), "HTTP 500", "Oh"),
    (Manner(raw=b"", hang=True), "timeout", "within 0.3 s"),
    (Manner(raw=_events(WORD), hang=True), "timeout", "within 0.3 s"),
    (Manner(raw=b""), "broken", "before an answer"),
    (Manner(raw=b"HTTP/1.1 200 OK\r\nContent-T"), "broken", "within a line"),
    (Manner(dies=3), "broken", "the connection ended"),
    (Manner(dies=3, framing="closed"), "broken", "after 3 chunks"),
    (Manner(raw=_events()), "malformed", "text/event-stream"),
    (Manner(raw=_page(b"200 OK", HTML)), "malformed", "text/html"),
    (Manner(raw=_page(b"200 OK", WORD, b"application/json")), "malformed", "application/json"),
    (Manner(raw=_events(b"{not json")), "malformed", "not JSON"),
    (Manner(raw=_events(b"[1, 2]")), "malformed", "no object"),
    (Manner(raw=_events(b'{"choices": ["x"]}')), "malformed", "no object"),
    (Manner(raw=_events(b"[" * 100_000)), "malformed", "not JSON"),
    (Manner(raw=b"SSH-2.0-OpenSSH_9.6\r\n"), "malformed", "SSH-2.0"),
    (
        Manner(raw=random.Random(0).randbytes(64).replace(b"\n", b"") + b"\n"),
        "malformed",
        "no HTTP answer",
    ),
    (Manner(raw=b"", again=b"x" * 10_000), "malformed", "a line of more than"),
    (Manner(raw=b"HTTP/1.1 200 OK\r\n", again=b"A: b\r\n" * 99), "malformed", "headers"),
    (Manner(raw=SSE_HEAD + b"\r\n", again=b"data:" + b"x" * 9_999), "malformed", "an event of"),
    (Manner(raw=SSE_HEAD + b"\r\n", again=b"data:x\n" * 9_999), "malformed", "an event of"),
    (Manner(raw=SSE_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "malformed", "a chunk"),
    (Manner(raw=SSE_HEAD + b"Content-Length: -5\r\n\r\n"), "malformed", "Content-Length"),
    (Manner(raw=SSE_HEAD + b"\r\n", again=b"data: %s\n\n" % WORD), "endless", "asked for"),
    (Manner(raw=_events(b'{"error": {"message": "out of memory"}}')), "error", "out of memory"),
    (Manner(raw=_events(b"[DONE]")), "empty", "no text"),
]


@pytest.mark.parametrize(("manner", "kind", "words"), FAULTS)
def test_a_failure_is_counted_as_what_it_is(manner, kind, words):
    with toy_server(manner) as server:
        (found,) = run_load(target(server.url, timeout=0.3 if manner.hang else 5.0), plan(Step(2)))
    assert [(f.kind, f.count) for f in found.totals.failures] == [(kind, 4)]
    assert words in found.totals.failures[0].words
    assert (found.requests, found.totals.completed) == (4, 0)
    assert (found.ttft, found.itl, found.tpot, found.e2e) == (None, None, None, None)
    assert found.output_rate == 0
    assert found.words.startswith(f"no request completed: 4 {kind}")


SILENT = b'{"choices": [{"text": "", "finish_reason": null}]}'
LAST = b'{"choices": [{"text": "", "finish_reason": "length"}]}'


def test_tokens_that_end_no_character_are_counted_between_those_that_do():
    said = _events(SILENT, WORD, SILENT, SILENT, WORD, SILENT, LAST, b"[DONE]")
    with toy_server(Manner(raw=said)) as server:
        (found,) = run_load(target(server.url), plan(requests=3))
    assert (found.counted, found.failed) == ("chunks", 0)
    assert found.totals.output_tokens == 3 * 5  # not the one before any text, nor the closing one


def test_comments_without_end_are_cut_off():
    with toy_server(Manner(raw=SSE_HEAD + b"\r\n", again=b": ping\n" * 100_000)) as server:
        (found,) = run_load(target(server.url), plan(requests=1))
    assert found.totals.failures[0].kind == "endless"


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def test_a_server_that_is_not_there_refuses_and_the_step_ends_early():
    notes = []
    (found,) = run_load(
        target(f"http://127.0.0.1:{_free_port()}"),
        plan(Step(4), requests=1000),
        lambda done, total, doing, note: notes.append(note),
    )
    assert found.totals.failures[0].kind == "refused"
    assert GIVE_UP <= found.failed < GIVE_UP + 4
    assert "without an answer" in found.note
    assert "no request completed" in notes[-1]


def test_a_step_ends_before_its_times_outgrow_the_memory(monkeypatch):
    monkeypatch.setattr(runs, "MOST_GAPS", 20)
    with toy_server(Manner()) as server:
        (found,) = run_load(target(server.url), plan(requests=1000))
    assert found.requests == 4  # of 5 gaps each
    assert "the most that are kept in memory" in found.note


def test_http_where_tls_is_spoken_is_a_failure_with_words():
    with toy_server(Manner()) as server:
        (found,) = run_load(target(server.url.replace("http:", "https:")), plan(requests=1))
    assert found.totals.completed == 0
    assert found.totals.failures[0].kind == "refused"


def test_server_words_are_plain_and_short():
    page = _page(b"400 Bad", b"\x1b[31mred\x00\n" + b"x" * 5000)
    with toy_server(Manner(raw=page)) as server:
        (found,) = run_load(target(server.url), plan(requests=1))
    words = found.totals.failures[0].words
    assert words.isprintable()
    assert len(words) <= 200


# Progress and interruption


def test_progress_counts_up_to_all_requests_of_all_steps():
    told = []
    with toy_server(Manner()) as server:
        run_load(
            target(server.url),
            plan(Step(1), Step(2), requests=5),
            lambda done, total, doing, note: told.append((done, total, doing, note)),
        )
    dones = [done for done, *_ in told]
    assert dones == sorted(dones)
    assert {total for _, total, *_ in told} == {10}
    assert dones[-1] == 10
    assert "output tokens/s" in told[-1][3]
    assert {"1 at once", "2 at once"} <= {doing for _, _, doing, _ in told}


def test_an_interrupt_ends_at_once_and_drops_connections():
    program = textwrap.dedent("""
        import sys
        from salient.evals.load.plans import *
        from salient.evals.load.runs import run_load
        plan = LoadPlan(steps=(Step(3),), requests=9, text="a b c", warmups=0)
        try:
            run_load(Target(sys.argv[1], "toy"), plan)
        except KeyboardInterrupt:
            print("interrupted")
    """)
    with toy_server(Manner(raw=b"", hang=True)) as server:
        run = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        watchdog = threading.Timer(8, run.kill)
        watchdog.start()
        while server.seen.under_way < 3 and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        started = time.perf_counter()
        out, err = run.communicate()
        watchdog.cancel()
    assert (out.strip(), err) == ("interrupted", "")
    assert time.perf_counter() - started < 2


async def _inside_a_loop() -> None:
    run_load(Target("http://localhost", "toy"), LoadPlan())


def test_a_running_loop_is_told_which_function_it_needs():
    with pytest.raises(RequestError, match="await measure_load"):
        asyncio.run(_inside_a_loop())
    assert asyncio.iscoroutinefunction(measure_load)


def test_the_load_test_imports_no_torch():
    words = "import sys, salient.evals.load.runs, salient.evals.load.foreign; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers"} & set(run.stdout.split())
