"""Calibration texts from public reports: each row of people's files is right, or refused by name.

The reports are named by repository and issue; `quantize --dry-run` reads what a run reads.
"""

import json

import pytest

from helpers.chat_templates import (
    ANSWER,
    CALL,
    CHATML,
    GEMMA,
    MISTRAL,
    QWEN_THINKING,
    RESULT,
    SMOLVLM,
    TOOL_ROW,
    USER,
)
from helpers.runs import run
from helpers.toy_models import byte_tokenizer, toy_folder
from salient import api
from salient.core.errors import SalientError

SYSTEM = {"role": "system", "content": "Be kind."}
PARTS = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
FAULTS = {
    "unsloth#334: a system role that the template does not know": (
        GEMMA,
        [{"messages": [SYSTEM, USER, ANSWER]}],
        r"line 1: .* System role not supported\. .* Move the system text",
    ),
    "unsloth#334: two user turns in a row": (
        GEMMA,
        [{"messages": [USER, ANSWER]}, {"messages": [USER, USER]}],
        r"line 2: .* must alternate .* Merge neighbouring messages of one role",
    ),
    "ds4#386: tools and calls that the template does not write": (
        CHATML,
        [TOOL_ROW],
        r"line 1: .* does not write messages\[1\]\.tool_calls: 'get_weather'",
    ),
    "llm-compressor#2680: reasoning that the template does not write": (
        CHATML,
        [{"messages": [USER, ANSWER | {"reasoning_content": "Winter there."}]}],
        r"line 1: .* does not write messages\[1\]\.reasoning_content",
    ),
    "OpenAI's rows: a message without content and calls": (
        CHATML,
        [{"messages": [USER, {"role": "assistant", "content": None}]}],
        r"line 1: messages\[1\] \(assistant\) has no 'content'",
    ),
    "lm-evaluation-harness#2129: several templates, no default": (
        {"tool_use": MISTRAL, "rag": MISTRAL},
        [{"messages": [USER, ANSWER]}],
        r"line 1: .*the templates 'rag', 'tool_use' and none of them is named 'default'",
    ),
    "AutoAWQ#508: rows without text": (
        None,
        [{"text": ""}] * 50,
        r"50 of 50 documents have no token of their own: .* \(line 1, line 2, .* and 45 more\)",
    ),
    "half a surrogate": (
        None,
        [{"text": "a"}, {"text": "\ud83d"}],
        r"line 2: text holds half a character at position 0",
    ),
    "one null among good rows": (
        None,
        [{"text": "abc"}, {"text": None}, {"text": "def"}],
        r"line 2: found 'text'; 'text' is null\. Give it a string, or remove the row",
    ),
    "NULs alone": (None, [{"text": "\x00" * 900}] * 9, r"9 of 9 documents have no token"),
    "one letter": (None, [{"text": "a" * 9000}] * 9, r"9 of 9 documents have no token"),
}
GOOD = {
    "gpt4all#3255: tool calls with ids": (MISTRAL, TOOL_ROW, '"id": abcdefghi'),
    "OpenAI's rows: calls without content": (QWEN_THINKING, TOOL_ROW, "<tool_call>get_weather"),
    "llm-compressor#1939: content lists for a template that iterates them": (
        SMOLVLM,
        {"messages": [PARTS, ANSWER]},
        "<s>userWhat is it?</s><s>assistantCold and clear today.</s>",
    ),
    "llm-compressor#1939: strings for a template that iterates lists": (
        SMOLVLM,
        {"messages": [USER, ANSWER]},
        "<s>userWhat is the weather in Oslo?</s>",
    ),
    "transformers#31691: lists for a template that needs strings": (
        CHATML,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, ANSWER]},
        "<|im_start|>user\nWhy?<|im_end|>",
    ),
    "reasoning": (
        QWEN_THINKING,
        {"messages": [USER, ANSWER | {"thinking": "Winter there."}]},
        "<think>Winter there.</think>Cold and",
    ),
}


@pytest.fixture
def model(tmp_path):
    return toy_folder(tmp_path / "model")


def with_template(folder, template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def rows_file(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("report", FAULTS)
def test_a_file_at_fault_is_refused_by_row_and_field(report, model, tmp_path):
    template, rows, message = FAULTS[report]
    with_template(model, template)
    path = rows_file(tmp_path, rows)
    with pytest.raises(SalientError, match=r"rows\.jsonl" + ".*" + message):
        run(model, tmp_path / "out", path, dry_run=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("report", GOOD)
def test_a_conversation_is_calibrated_whole(report, model, tmp_path, monkeypatch):
    template, row, expected = GOOD[report]
    with_template(model, template)
    path = rows_file(tmp_path, [row] * 40)
    batches = []
    monkeypatch.setattr("salient.awq.job.check_vocabulary", lambda ids, *_: batches.append(ids))
    run(model, tmp_path / "out", path, samples=2, sequence_length=480, dry_run=True)
    assert expected in byte_tokenizer().decode(batches[0].flatten())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"\xef\xbb\xbfOne line here\r\n\r\nAnother one, more"),
        ("a.jsonl", json.dumps({"text": "One huge document. " * 5000}).encode()),
        ("a.jsonl", b'{"text": "NUL \\u0000 inside, and more text"}\n' * 20),
        ("a.jsonl", json.dumps({"messages": [USER | {"content": 12345}, CALL, RESULT]}).encode()),
        ("a.json", json.dumps([{"text": "An array of rows, indeed"}] * 20, indent=1).encode()),
        ("a.csv", b"id,text\n" + b'1,"Text, with a comma"\n' * 20),
    ],
)
def test_what_was_right_stays_right(name, content, model, tmp_path):
    with_template(model, MISTRAL)
    (tmp_path / name).write_bytes(content * (1 if b"{" in content[:2] or name == "a.json" else 20))
    rows = {"samples": 1, "sequence_length": 64}
    run(model, tmp_path / "out", tmp_path / name, dry_run=True, **rows)


def test_a_few_empty_rows_among_good_ones_are_named_and_harmless(model, tmp_path):
    rows = [{"text": "The cat sat on the mat."}, {"text": ""}, {"text": "The dog ran."}] * 20
    report = run(model, tmp_path / "out", rows_file(tmp_path, rows), dry_run=True)
    assert any("20 of 60 documents have no token" in each for each in report.data["warnings"])


def test_evaluate_refuses_the_same_texts(model, tmp_path, text):
    run(model, tmp_path / "out", text)
    cases = [
        *((rows, message) for template, rows, message in FAULTS.values() if template is None),
        ([{"messages": [SYSTEM, USER, ANSWER]}], "System role not supported"),
    ]
    with_template(model, GEMMA)
    for rows, message in cases:
        path = rows_file(tmp_path, rows)
        with pytest.raises(SalientError, match=message):
            api.evaluate(tmp_path / "out", reference=model, text=[str(path)], sequence_length=64)


def test_a_checkpoint_that_is_not_quantized_is_compared_with_a_word_on_it(model, tmp_path, text):
    options = {"text": [str(text)], "samples": 5, "sequence_length": 64}
    report = api.evaluate(model, reference=model, **options).report
    assert report.lines[0] == f"{model} is not quantized: two 16-bit models are compared."
