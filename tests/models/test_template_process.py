"""A chat template is a stranger's program: it renders as in Transformers, within limits."""

import os
import signal
import threading
import time

import pytest

from helpers import chat_templates
from helpers.chat_templates import ANSWER, CALL, RESULT, USER, WEATHER, with_template
from salient.core.errors import ModelError, ResourceError
from salient.models import template_process
from salient.models.template_process import ProcessPool, TemplateFault, render_template

TALK = {"messages": [USER, ANSWER], "add_generation_prompt": False}
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWING = (
    "{% set ns = namespace(x='aaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}"
)
WORDY = "{% for i in range(99999) %}{{ 'words ' * 1000 }}{% endfor %}"
TEMPLATES = [
    *(chat_templates.CHATML, chat_templates.SMOLVLM, chat_templates.QWEN_THINKING),
    *(chat_templates.MISTRAL, chat_templates.BOTH),
    "{% for m in messages %}\n  {%- if loop.first %}\n{{ m | tojson(indent=2) }}\n{%- endif %}\n"
    "{% endfor %}\n",
    "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{% generation %}{{ messages[0].content }}{% endgeneration %}{{ bos_token }}",
    "{{ dict(a=1, b='é') | tojson }}{{ strftime_now('%Y') }}{{ messages[0].thinking }}",
    "{{ 'a\\u00e9' | tojson(ensure_ascii=True) }}{{ [1, 2] | tojson(separators=(',', ':')) }}",
]


@pytest.mark.parametrize("template", TEMPLATES, ids=range(len(TEMPLATES)))
def test_a_template_renders_as_in_transformers(template):
    thinking = {**ANSWER, "reasoning": "It is winter.", "name": None}
    messages = [USER, CALL, RESULT, thinking]
    tokenizer = with_template(template)
    expected = tokenizer.apply_chat_template(messages, tools=[WEATHER], tokenize=False)
    variables = {
        **tokenizer.special_tokens_map,
        **{"messages": messages, "tools": [WEATHER], "add_generation_prompt": False},
    }
    assert render_template(template, variables) == expected


@pytest.mark.parametrize("text", ["😀 \u2028 \x00 é", "half \ud83d", "x" * 10**6])
def test_any_text_comes_back_as_it_went(text):
    assert render_template("{{ messages[0].content }}", {"messages": [{"content": text}]}) == text


def test_a_fixed_date_is_the_templates_today():
    template = "{{ strftime_now('%d %b %Y') }}"
    assert render_template(template, {"messages": []}, "2024-07-26") == "26 Jul 2024"


@pytest.mark.parametrize(
    ("template", "kind", "reason"),
    [
        ("{{ raise_exception('Only\nusers') }}", "demand", r"^Only users$"),
        ("a\n{% for", "fault", r"TemplateSyntaxError: .*line 2 of the template"),
        ("\n{{ messages[0].a.b }}", "fault", r"UndefinedError: .*'a' \(line 2 of the template"),
        ("{{ range(10**9) }}", "fault", r"OverflowError: Range too big"),
        ("{{ messages.append(1) }}", "fault", r"SecurityError"),
        ("{{ ''.__class__.__mro__ }}", "fault", r"SecurityError"),
        ("{{ namespace(_x=1) }}", "fault", r"SecurityError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fault", r"RecursionError"),
        ("{% include '/etc/passwd' %}", "fault", r"TypeError: no loader"),
        ("{{ 1 / 0 }}", "fault", r"ZeroDivisionError"),
        ("{{ raise_exception('\x1b[31mred') }}", "demand", "^\N{REPLACEMENT CHARACTER}\\[31mred$"),
        ("{{ 'a' * 10**10 }}", "memory", r"more memory than a conversation needs"),
        (GROWING, "memory", r"more memory"),
        (WORDY, "output", r"far more text than the conversation has"),
    ],
)
def test_a_fault_has_its_kind_and_reason(template, kind, reason):
    with pytest.raises(TemplateFault, match=reason) as raised:
        render_template(template, TALK)
    assert raised.value.kind == kind
    assert len(str(raised.value)) < 400
    assert render_template("{{ messages | length }}", TALK) == "2"


@pytest.mark.parametrize("template", [ENDLESS, "{{ (99999999 ** 99999999) % 7 }}"])
def test_a_template_that_never_ends_is_ended(template, monkeypatch):
    monkeypatch.setattr(template_process, "SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(TemplateFault, match="did not end within") as raised:
        render_template(template, TALK)
    assert raised.value.kind == "time"
    assert time.monotonic() - started < 20
    monkeypatch.undo()
    assert render_template("{{ messages | length }}", TALK) == "2"


def test_a_process_that_died_is_replaced():
    pool = ProcessPool()
    pool.render("a", {"messages": []}, None)
    (idle,) = pool._idle
    os.kill(idle._popen.pid, signal.SIGKILL)
    idle._popen.wait()
    assert pool.render("a", {"messages": []}, None) == "a"
    pool.close()


def test_the_processes_inherit_no_secret_of_the_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    pool = ProcessPool()
    pool.render("a", {"messages": []}, None)
    (idle,) = pool._idle
    with open(f"/proc/{idle._popen.pid}/environ", "rb") as file:
        assert b"secret" not in file.read()
    pool.close()


def test_a_rendering_that_gets_no_process_in_time_is_refused(monkeypatch):
    monkeypatch.setattr(template_process, "SECONDS", 2.0)
    monkeypatch.setattr(template_process, "WAIT_SECONDS", 0.1)
    pool = ProcessPool()

    def endless() -> None:
        with pytest.raises(TemplateFault):
            pool.render(ENDLESS, TALK, None)

    threads = [threading.Thread(target=endless) for _ in range(template_process.PROCESSES)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    with pytest.raises(ResourceError, match="busy with other conversations"):
        pool.render("a", TALK, None)
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert pool.render("a", TALK, None) == "a"
    pool.close()


def test_a_process_that_cannot_start_is_an_error_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(template_process, "CHILD", tmp_path / "absent.py")
    with pytest.raises(ModelError, match=r"No process could be started.* \(ulimit -u\)"):
        ProcessPool().render("a", {"messages": []}, None)
