"""Prefixes are stripped, and messages stay whole."""

import json

import pytest

from salient.diagnose.log.line_prefix import read_line

MESSAGE = "Falling back to unoptimized AWQ kernels."


@pytest.mark.parametrize(
    ("prefix", "process"),
    [
        ("", ""),
        ("INFO 11-21 01:25:22 config.py:254] ", ""),
        ("INFO 11-21 01:25:22 [config.py:254] ", ""),
        ("INFO 11-21 01:25:22 [v1/engine/core.py:133] ", ""),
        ("INFO 11-21 01:25:22.123 [config.py:254] ", ""),
        ("(Worker_TP0_EP0 pid=23664) WARNING 11-21 01:25:22 [a.py:9] ", "Worker_TP0_EP0 pid=23664"),
        ("(VllmWorker rank=1 pid=307) INFO 05-06 07:08:09 [a.py:1] ", "VllmWorker rank=1 pid=307"),
        ("(RayWorkerWrapper pid=3, ip=10.0.0.2) ", "RayWorkerWrapper pid=3, ip=10.0.0.2"),
        ("\x1b[36m(pid=12)\x1b[0m \x1b[32mINFO\x1b[0m 11-21 01:25:22 [a.py:1] ", "pid=12"),
        ("(head, rank=0, pid=18260) [2025-02-14 00:42:22 DP2 TP2] ", "head, rank=0, pid=18260"),
        (
            "2026-11-21T01:25:22.1Z stdout F (APIServer pid=1) INFO 11-21 01:25:22 [a.py:1] ",
            "APIServer pid=1",
        ),
        ("2026-11-21T01:25:22.123456789Z ", ""),
        ("2026-11-21 01:25:22,123 - vllm.engine - WARNING - ", ""),
        ("vllm-1  | ", ""),
        ("[pod/vllm-6c9f/vllm] INFO 11-21 01:25:22 [a.py:1] ", ""),
        ("Nov  1 01:25:22 node7 docker[44]: ", ""),
        ("[rank0]:[W1121 01:25:22.831867294 utils.cpp:68] Warning: ", ""),
        ("    ", ""),
        ("ERROR:    ", ""),
    ],
)
def test_prefixes_are_stripped(prefix, process):
    line = read_line(f"{prefix}{MESSAGE}\r".encode())
    assert (line.text, line.message, line.process) == (MESSAGE, MESSAGE, process)


@pytest.mark.parametrize(
    ("wrapped", "text"),
    [
        ("ValueError: {}", "ValueError: {}"),
        (
            "  Value error, {} [type=value_error, input_value=ArgsKwargs((), {{'a': 1}})]",
            "Value error, {}",
        ),
        ("torch.distributed.DistBackendError: {}", "torch.distributed.DistBackendError: {}"),
        (
            "ray.exceptions.RayTaskError(ValueError): {}",
            "ray.exceptions.RayTaskError(ValueError): {}",
        ),
        (
            "RuntimeError: Worker failed with error '{}",
            "RuntimeError: Worker failed with error '{}",
        ),
        (
            "/usr/lib/torch/cuda/__init__.py:230: UserWarning: {}",
            "/usr/lib/torch/cuda/__init__.py:230: UserWarning: {}",
        ),
    ],
)
def test_wrappers_are_stripped_from_the_message_but_not_the_text(wrapped, text):
    line = read_line(wrapped.format(MESSAGE).encode())
    assert (line.message, line.text) == (MESSAGE, text.format(MESSAGE))


@pytest.mark.parametrize("key", ["log", "message", "msg", "MESSAGE", "textPayload"])
def test_the_message_of_a_json_object_is_read(key):
    line = read_line(
        json.dumps({key: f"INFO 11-21 01:25:22 [a.py:1] {MESSAGE}\n", "x": 1}).encode()
    )
    assert line.message == MESSAGE


@pytest.mark.parametrize("text", ["{", "{}", '{"log": 3}', "{not json}", '{"a":' * 5000])
def test_text_that_only_looks_like_json_is_unchanged(text):
    assert read_line(text.encode()).text == text


def test_invalid_utf8_is_read():
    assert read_line(b"INFO 11-21 01:25:22 [a.py:1] \xff\xfe\x80" + MESSAGE.encode()).text.endswith(
        MESSAGE
    )
