"""A chat template that hangs or grows: chats are refused, and nothing else suffers."""

import contextlib
import signal
import threading
import time

import pytest

from helpers.commands import Command
from helpers.rtn_checkpoints import rounded_toy
from helpers.served_app import served
from salient.models import template_process
from salient.serve.app import AppSettings
from salient.serve.bounded_threads import ShortChats

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TALK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
PLAIN = {"prompt": "one two three", "max_tokens": 4, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = rounded_toy(tmp_path_factory.mktemp("served"))
    with served(folder, AppSettings("toy"), max_waiting=64, context_length=128) as running:
        yield running


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (ENDLESS, "did not end within"),
        ("{{ 'a' * 10**10 }}", "more memory"),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "far more text"),
        ("{{ range(10**9) }}", "OverflowError"),
        ("{{ raise_exception('No chats') }}", "rejects the conversation: No chats"),
        ({"tool_use": "a", "rag": "b"}, "none of them is named 'default'"),
    ],
)
def test_a_template_beyond_its_limits_is_a_400_that_names_them(
    template, reason, server, monkeypatch
):
    monkeypatch.setattr(template_process, "SECONDS", 0.3 if template == ENDLESS else 1.0)
    monkeypatch.setattr(server.engine.tokenizer, "chat_template", template)
    reply = server.request("/v1/chat/completions", TALK)
    assert reply.status == 400
    assert reason in reply.error["message"]
    assert server.request("/v1/completions", PLAIN).status == 200


def test_completions_are_answered_while_every_chat_hangs(server, monkeypatch):
    monkeypatch.setattr(template_process, "SECONDS", 1.5)
    monkeypatch.setattr(template_process, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(server.engine.tokenizer, "chat_template", ENDLESS)
    statuses: list[int] = []

    def chat() -> None:
        statuses.append(server.request("/v1/chat/completions", TALK).status)

    threads = [threading.Thread(target=chat) for _ in range(20)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert server.request("/v1/completions", PLAIN).status == 200
    assert any(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join()
    assert len(statuses) == 20
    assert set(statuses) <= {400, 429}


def test_more_waiting_chats_than_the_queue_takes_are_refused(server, monkeypatch):
    monkeypatch.setattr(ShortChats, "most", 0)
    reply = server.request("/v1/chat/completions", TALK)
    assert reply.status == 429
    assert "wait for the chat template" in reply.error["message"]


HANGING = """
import asyncio, threading, time
from salient.serve import http_server
from salient.serve.options import ServeOptions
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive(); await send({"type": "lifespan.startup.complete"})
        EARLY; await receive(); LATE
http_server.GRACE_SECONDS = 0.2
options = ServeOptions("", deadline=1)
on_start = lambda: print("ready", flush=True)
http_server.run_app(app, http_server.bind("127.0.0.1", 0), options, on_start)
"""


# What hangs before the signal, and after it; the exit code
HANGS = (
    ("0", "threading.Thread(target=time.sleep, args=[600]).start(); time.sleep(600)", 143),
    ("0", "9 ** 9 ** 9", -signal.SIGKILL),  # never lets another thread run
    # nor the handler of the signal
    ("asyncio.get_running_loop().call_later(0.3, lambda: 9 ** 9 ** 9)", "0", -signal.SIGKILL),
)


def test_a_server_ends_at_its_deadline_whatever_hangs():
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                Command("-c", HANGING.replace("EARLY", early).replace("LATE", late))
            )
            for early, late, _ in HANGS
        ]
        assert [server.stdout.readline() for server in servers] == ["ready\n"] * len(HANGS)
        time.sleep(0.5)
        for server in servers:
            server.send_signal(signal.SIGTERM)
        assert [server.wait(30) for server in servers] == [code for *_, code in HANGS]
