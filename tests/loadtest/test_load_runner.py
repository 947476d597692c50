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
from salient.core.progress import Progress
from salient.loadtest import load_runner
from salient.loadtest.load_runner import MAX_FAILURES, run_load
from salient.loadtest.plan import LoadPlan, LoadStep, LoadTarget

TEXT = "the quick brown fox jumps over the lazy dog " * 20
SMALL = {"prompt_tokens": 8, "output_tokens": 6, "warmups": 0, "text": TEXT}
SLACK = 60  # ms that a busy machine may add; a first chunk that comes late makes a gap shorter
HTML = b"<html><body>Welcome</body></html>\n"


def plan(*steps: LoadStep, **options) -> LoadPlan:
    return LoadPlan(**{**SMALL, "steps": steps or (LoadStep(1),), "requests": 4, **options})


def target(url: str, **options) -> LoadTarget:
    return LoadTarget(**{"url": url, "model": "toy", "timeout": 5.0, **options})


def test_times_are_the_servers():
    with toy_server(Manner(first=0.1, gap=0.03)) as server:
        (result,) = run_load(target(server.url), plan(LoadStep(2)))
    assert result.completed == 4
    assert result.failed == 0
    assert 98 <= result.ttft.p50 <= 100 + SLACK
    assert 20 <= result.itl.p50 <= 30 + SLACK
    assert 20 <= result.tpot.mean <= 30 + SLACK
    assert 245 <= result.e2e.p50 <= 250 + 2 * SLACK
    assert result.seconds == pytest.approx(0.5, abs=0.3)  # two rounds of 0.25 s


def test_tpot_is_the_rest_of_the_answer_over_the_rest_of_its_tokens():
    with toy_server(Manner(gap=0.04, tokens=3)) as server:
        (result,) = run_load(target(server.url), plan(requests=2))
    # 6 tokens in 2 chunks: one gap of 40 ms, which 5 tokens share
    assert 25 <= result.itl.p50 <= 40 + SLACK
    assert result.tpot.p50 == pytest.approx((result.e2e.p50 - result.ttft.p50) / 5)
    assert result.output_tokens == 12


@pytest.mark.parametrize(("usage", "who", "output"), [(True, "server", 12), (False, "chunks", 6)])
def test_tokens_are_counted_by_the_server_or_else_by_chunks(usage, who, output):
    with toy_server(Manner(tokens=2, usage=usage)) as server:
        (result,) = run_load(target(server.url), plan(requests=2))
    assert (result.counted, result.output_tokens) == (who, output)
    assert result.input_tokens == 16
    assert result.total_rate == pytest.approx((16 + output) / result.seconds)


@pytest.mark.parametrize("concurrency", [1, 3, 6])
def test_concurrency_bounds_the_requests_in_flight(concurrency):
    with toy_server(Manner(first=0.1)) as server:
        (result,) = run_load(
            target(server.url), plan(LoadStep(concurrency), requests=12, warmups=9)
        )
    assert server.requests.most == result.peak == concurrency


def test_warm_up_requests_are_not_counted():
    with toy_server(Manner()) as server:
        results = run_load(
            target(server.url), plan(LoadStep(1), LoadStep(2), requests=5, warmups=3)
        )
    assert [result.requests for result in results] == [5, 5]
    assert len(server.requests.bodies) == 16


def test_a_rate_spreads_requests_over_time():
    with toy_server(Manner()) as server:
        (result,) = run_load(target(server.url), plan(LoadStep(rate=50), requests=11))
    assert result.requests == 11
    assert result.seconds >= 0.15  # the last of these arrivals is due after 0.17 s
    assert result.rate == 50


def test_a_timed_step_starts_no_late_request_and_waits_for_the_last():
    with toy_server(Manner(first=0.1)) as server:
        (result,) = run_load(target(server.url), plan(requests=None, seconds=0.25))
    assert result.failed == 0
    assert 2 <= result.requests <= 3
    assert 0.25 <= result.seconds < 0.25 + 0.1 + 0.3


@pytest.mark.parametrize(
    ("api", "path"), [("completions", "/v1/completions"), ("chat", "/v1/chat/completions")]
)
@pytest.mark.parametrize("framing", ["chunked", "closed"])
def test_both_apis_work_in_both_framings(api, path, framing):
    with toy_server(Manner(framing=framing)) as server:
        (result,) = run_load(
            target(server.url + "/v1/", api=api, api_key="k-1"), plan(requests=2, ignore_eos=False)
        )
    assert result.completed == 2
    assert set(server.requests.paths) == {path}
    assert server.requests.headers[0]["authorization"] == "Bearer k-1"
    body = server.requests.bodies[0]
    assert (body["max_tokens"], body["stream"], body["model"]) == (6, True, "toy")
    assert "ignore_eos" not in body


def test_without_a_key_none_is_sent_and_no_prompt_is_repeated():
    with toy_server(Manner()) as server:
        run_load(target(server.url), plan(LoadStep(1), LoadStep(2), requests=20, warmups=2))
    assert all("authorization" not in headers for headers in server.requests.headers)
    assert all(body["ignore_eos"] is True for body in server.requests.bodies)
    assert len({body["prompt"] for body in server.requests.bodies}) == 44


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
    (Manner(raw=b""), "broken", "without sending a response"),
    (Manner(raw=b"HTTP/1.1 200 OK\r\nContent-T"), "broken", "without sending a response"),
    (Manner(dies=3), "broken", "peer closed connection"),
    (Manner(dies=3, framing="closed"), "broken", "after 3 chunks"),
    (Manner(raw=_events()), "malformed", "without events"),
    (Manner(raw=_page(b"200 OK", HTML)), "malformed", "text/html"),
    (Manner(raw=_page(b"200 OK", WORD, b"application/json")), "malformed", "application/json"),
    (Manner(raw=_events(b"{not json")), "malformed", "not a chunk"),
    (Manner(raw=_events(b"[1, 2]")), "malformed", "not a chunk"),
    (Manner(raw=_events(b'{"choices": ["x"]}')), "malformed", "not a chunk"),
    (Manner(raw=_events(b"[" * 100_000)), "malformed", "not a chunk"),
    (Manner(raw=b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "malformed", "illegal status line"),
    (
        Manner(raw=random.Random(0).randbytes(64).replace(b"\n", b"") + b"\n\n"),
        "malformed",
        "illegal",
    ),
    (Manner(raw=b"", again=b"x" * 10_000), "malformed", "buffer too long"),
    (Manner(raw=b"HTTP/1.1 200 OK\r\n", again=b"A: b\r\n" * 99), "malformed", "buffer too long"),
    (
        Manner(raw=SSE_HEAD + b"\r\n", again=b"data:" + b"x" * 9_999),
        "malformed",
        "exceeded the 262144 byte limit",
    ),
    (
        Manner(raw=SSE_HEAD + b"\r\n", again=b"data:x\n" * 9_999),
        "malformed",
        "exceeded the 262144 byte limit",
    ),
    (
        Manner(raw=SSE_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
        "malformed",
        "illegal chunk header",
    ),
    (Manner(raw=SSE_HEAD + b"Content-Length: -5\r\n\r\n"), "malformed", "Content-Length"),
    (
        Manner(raw=SSE_HEAD + b"\r\n", again=b"data: %s\n\n" % WORD),
        "endless",
        "longer than requested",
    ),
    (Manner(raw=_events(b'{"error": {"message": "out of memory"}}')), "error", "out of memory"),
    (Manner(raw=_events(b"[DONE]")), "empty", "no text"),
]


@pytest.mark.parametrize(("manner", "kind", "message"), FAULTS)
def test_a_failure_is_counted_by_its_kind(manner, kind, message):
    with toy_server(manner) as server:
        (result,) = run_load(
            target(server.url, timeout=0.3 if manner.hang else 5.0), plan(LoadStep(2))
        )
    assert [(f.kind, f.count) for f in result.failures] == [(kind, 4)]
    assert message in result.failures[0].message
    assert (result.requests, result.completed) == (4, 0)
    assert (result.ttft, result.itl, result.tpot, result.e2e) == (None, None, None, None)
    assert result.output_rate == 0
    assert result.summary.startswith(f"no request completed: 4 {kind}")


SILENT = b'{"choices": [{"text": "", "finish_reason": null}]}'
LAST = b'{"choices": [{"text": "", "finish_reason": "length"}]}'


def test_tokens_without_text_are_counted_within_an_answer():
    raw = _events(SILENT, WORD, SILENT, SILENT, WORD, SILENT, LAST, b"[DONE]")
    with toy_server(Manner(raw=raw)) as server:
        (result,) = run_load(target(server.url), plan(requests=3))
    assert (result.counted, result.failed) == ("chunks", 0)
    assert result.output_tokens == 3 * 5  # not the one before any text, nor the closing one


def test_comments_without_end_are_cut_off_by_the_timeout():
    with toy_server(Manner(raw=SSE_HEAD + b"\r\n", again=b": ping\n" * 100_000)) as server:
        (result,) = run_load(target(server.url, timeout=0.3), plan(requests=1))
    assert result.failures[0].kind == "timeout"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_missing_server_ends_the_step_early():
    notes = []
    (result,) = run_load(
        target(f"http://127.0.0.1:{_free_port()}"),
        plan(LoadStep(4), requests=1000),
        Progress(lambda done, total, action, note: notes.append(note)),
    )
    assert result.failures[0].kind == "refused"
    assert "Connect call failed" in result.failures[0].message
    assert MAX_FAILURES <= result.failed < MAX_FAILURES + 4
    assert "without an answer" in result.note
    assert "no request completed" in notes[-1]


def test_a_step_ends_before_its_times_fill_the_memory(monkeypatch):
    monkeypatch.setattr(load_runner, "MAX_GAPS", 20)
    with toy_server(Manner()) as server:
        (result,) = run_load(target(server.url), plan(requests=1000))
    assert result.requests == 4  # of 5 gaps each
    assert "the most that are stored" in result.note


def test_a_busy_client_is_noted(monkeypatch):
    monkeypatch.setattr(load_runner, "BUSY", 0.0)
    with toy_server(Manner()) as server:
        (result,) = run_load(target(server.url), plan(requests=2))
    assert result.failed == 0
    assert "of a core: times include its own delays" in result.note


def test_tls_to_a_plain_server_is_a_failure_with_a_message():
    with toy_server(Manner()) as server:
        (result,) = run_load(target(server.url.replace("http:", "https:")), plan(requests=1))
    assert result.completed == 0
    assert result.failures[0].kind == "refused"


def test_messages_of_servers_are_printable_and_short():
    page = _page(b"400 Bad", b"\x1b[31mred\x00\n" + b"x" * 5000)
    with toy_server(Manner(raw=page)) as server:
        (result,) = run_load(target(server.url), plan(requests=1))
    message = result.failures[0].message
    assert message.isprintable()
    assert len(message) <= 200


# Progress and interruption


def test_progress_counts_up_to_all_requests_of_all_steps():
    calls = []
    with toy_server(Manner()) as server:
        run_load(
            target(server.url),
            plan(LoadStep(1), LoadStep(2), requests=5),
            Progress(lambda *step: calls.append(step)),
        )
    dones = [done for done, *_ in calls]
    assert dones == sorted(dones)
    assert {total for _, total, *_ in calls} == {10}
    assert dones[-1] == 10
    assert "output tokens/s" in calls[-1][3]
    assert {"1 at once", "2 at once"} <= {doing for _, _, doing, _ in calls}


def test_an_interrupt_stops_at_once():
    program = textwrap.dedent("""
        import sys
        from salient.loadtest.plan import *
        from salient.loadtest.load_runner import run_load
        plan = LoadPlan(steps=(LoadStep(3),), requests=9, text="a b c", warmups=0)
        try:
            run_load(LoadTarget(sys.argv[1], "toy"), plan)
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
        while server.requests.under_way < 3 and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        started = time.perf_counter()
        out, err = run.communicate()
        watchdog.cancel()
    assert (out.strip(), err) == ("interrupted", "")
    assert time.perf_counter() - started < 2


async def _inside_a_loop() -> None:
    run_load(LoadTarget("http://localhost", "toy"), LoadPlan())


def test_a_running_loop_is_refused_with_advice():
    with pytest.raises(RequestError, match=r"asyncio\.to_thread"):
        asyncio.run(_inside_a_loop())


def test_the_load_test_imports_no_torch():
    code = "import sys, salient.loadtest.report; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers"} & set(run.stdout.split())
