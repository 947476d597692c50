"""Escape sequences in any foreign text reach no terminal raw, whatever the verb does with them."""

import contextlib
import io
import json
import logging
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from helpers.cli import CommandResult, invoke
from helpers.evidence_files import sealed_text
from helpers.faults import rewrite_header
from helpers.toy_models import toy_folder, toy_text
from salient.cli import console
from salient.cli.terminal import Terminal, guard_streams
from salient.core.evidence import EVIDENCE_FILE
from salient.core.model_files import SINGLE
from salient.core.report import Report, Table

# Title, colour, a C1 sequence, deletion, directions, a line that overwrites its own, rich's markup.
HOSTILE = (
    "x\x1b]2;owned\x07\x1b[35m\x9b2J\x7f\x08\u202e\u2066\rgood: all[bold red]!\x1b]8;;http://h\x07"
)
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
STYLES = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r")  # of rich
JSON_FILES = ("config.json", EVIDENCE_FILE, "tokenizer_config.json", "generation_config.json")
QUICK_VERBS = (["inspect"], ["doctor"], ["plan", "--gpu", "RTX 4090"], ["doctor", "--json"])


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = [(s, signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, a text, and the model's checkpoint; do not change them."""
    folder = tmp_path_factory.mktemp("terminal")
    paths = {"model": toy_folder(folder / "model"), "text": toy_text(folder), "out": folder / "out"}
    options = ("--scheme", "w4-g32", "--samples", 6, "--sequence-length", 64)
    result = invoke(
        "quantize", paths["model"], "-o", paths["out"], "--calibration", paths["text"], *options
    )
    assert result.exit_code == 0, result.stderr
    return paths


@pytest.fixture
def checkpoint(small: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(small["out"], tmp_path / "checkpoint"))


def check(result: CommandResult) -> CommandResult:
    """`result`, whose output has no raw control."""
    raw = RAW.search(result.output)
    assert raw is None, result.output[max(0, raw.start() - 200) : raw.end() + 50]
    assert result.exception is None
    return result


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a JSON document that is no container, and of each key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, (dict, list)) and inner:
            yield from leaves(inner, (*path, key))
        else:
            yield (*path, key)


def with_hostile(value: Any, path: tuple[Any, ...], *, as_key: bool) -> Any:
    """A copy of `value` with HOSTILE at `path`, or in place of its last key."""
    value = json.loads(json.dumps(value))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if as_key and isinstance(inner, dict):
        inner[HOSTILE] = inner.pop(path[-1])
    else:
        old = inner[path[-1]]
        inner[path[-1]] = f"{old}{HOSTILE}" if isinstance(old, str) else HOSTILE
    return value


@pytest.mark.parametrize("file", JSON_FILES)
def test_no_field_of_a_folder_reaches_the_terminal_raw(file, checkpoint):
    path, draw = checkpoint / file, random.Random(0)
    original = json.loads(path.read_text())
    paths = list(leaves(original))
    for place in draw.sample(paths, min(len(paths), 5)):
        for as_key in (False, True):
            changed = with_hostile(original, place, as_key=as_key)
            path.write_text(sealed_text(changed) if file == EVIDENCE_FILE else json.dumps(changed))
            for verb, *options in QUICK_VERBS:
                check(invoke(verb, checkpoint, *options))


def test_no_name_of_a_tensor_or_file_reaches_the_terminal_raw(checkpoint, tmp_path):
    def rename(header: dict[str, Any]) -> None:
        header[f"model.layers.0.{HOSTILE}.weight"] = header.pop("model.layers.0.mlp.up_proj.scales")
        header["model.norm.weight"]["dtype"] = HOSTILE

    rewrite_header(checkpoint / SINGLE, rename)
    (checkpoint / f"{HOSTILE.replace('/', '')}.safetensors").write_bytes(b"x" * 99)
    folder = Path(shutil.copytree(checkpoint, tmp_path / HOSTILE.replace("/", "")))
    for verb, *options in QUICK_VERBS:
        check(invoke(verb, checkpoint, *options))
        check(invoke(verb, folder, *options))
    check(invoke("push", folder, "me/model", "--dry-run"))


@pytest.mark.parametrize("kind", ["text", "template", "policy", "tasks", "settings", "log", "load"])
def test_no_foreign_file_reaches_the_terminal_raw(kind, small, checkpoint, tmp_path):
    file = tmp_path / f"{HOSTILE.replace('/', '')}.jsonl"
    row = {"messages": [{"role": HOSTILE, "content": HOSTILE}], HOSTILE: HOSTILE}
    file.write_text(f"{json.dumps(row)}\n{HOSTILE}\n")
    model, options = small["model"], ("--samples", 6, "--sequence-length", 64)
    if kind == "template":
        config = json.loads((checkpoint / "tokenizer_config.json").read_text())
        config["chat_template"] = "{{ raise_exception(messages[0].content) }}"
        (checkpoint / "tokenizer_config.json").write_text(json.dumps(config))
        (checkpoint / "chat_template.jinja").unlink(missing_ok=True)
    argv: dict[str, tuple[Any, ...]] = {
        "text": ("quantize", model, "-o", tmp_path / "o", "--calibration", file, *options),
        "template": ("generate", checkpoint, "-p", HOSTILE, "--chat"),
        "policy": ("validate", checkpoint, "--reference", model, "--policy", file),
        "tasks": ("validate", checkpoint, "--reference", model, "--tasks", file),
        "settings": ("doctor", "--config", file),
        "log": ("doctor", "--log", file),
        "load": ("load-test", f"http://127.0.0.1:1/{HOSTILE}"),
    }
    assert check(invoke(*argv[kind])).exit_code == 2


def check_files(folder: Path, *names: str) -> None:
    for name in names:
        text = (folder / name).read_text(encoding="utf-8")
        assert RAW.search(text) is None, name
        assert "owned" in text, name


def test_reports_of_hostile_tasks_hold_no_control(small, checkpoint, tmp_path):
    row = {"kind": HOSTILE, "prompt": f"{HOSTILE} = ", "expected": HOSTILE}
    tasks, report = tmp_path / "tasks.jsonl", tmp_path / "report"
    tasks.write_text(json.dumps(row) + "\n")
    options = ("--samples", 2, "--sequence-length", 64, "--report", report)
    argv = ("evaluate", checkpoint, "--reference", small["model"], "--tasks", tasks, *options)
    assert check(invoke(*argv)).exit_code == 0
    check_files(report, "report.md", "report.json", "report.html")


def test_a_hostile_source_makes_a_checkpoint_whose_texts_hold_no_control(small, tmp_path):
    source = Path(shutil.copytree(small["model"], tmp_path / HOSTILE.replace("/", "")))
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"_name_or_path": HOSTILE}))
    front = json.dumps({"license": HOSTILE, "tags": [HOSTILE], "base_model": HOSTILE})
    (source / "README.md").write_text(f"---\n{front}\n---\n{HOSTILE}\n")
    (source / f"{HOSTILE.replace('/', '')}.pkl").write_bytes(b"x")
    options = ("--scheme", "w4-g32", "--samples", 6, "--sequence-length", 64)
    out = tmp_path / "out"
    argv = ("quantize", source, "-o", out, "--calibration", small["text"], *options)
    assert check(invoke(*argv)).exit_code == 0
    check_files(out, "README.md", "config.json", "salient.json")
    check(invoke("inspect", out))


def test_a_log_with_escapes_is_quoted_without_them(tmp_path):
    log = tmp_path / "vllm.log"
    log.write_text(
        "INFO 11-21 01:38:10 [api_server.py:1] vLLM API server version 0.19.0\n"
        f"ERROR 11-21 01:38:11 [core.py:1] ValueError: The model {HOSTILE} is not supported\n"
        f"torch.OutOfMemoryError: CUDA out of memory. {HOSTILE}\n"
    )
    for options in ((), ("--json",)):
        check(invoke("doctor", "--log", log, *options))


def test_answers_of_a_model_reach_the_terminal_as_escapes(checkpoint):
    """A random model over bytes answers with controls soon."""
    sampled = ("--max-new-tokens", 200, "--temperature", 2.0, "--seed", 1)
    alone = check(invoke("generate", checkpoint, "-p", "Hello", *sampled))
    assert re.search(r"\\u00[019][0-9a-f]", alone.stdout)
    several = check(invoke("generate", checkpoint, "-p", HOSTILE, "-p", "b", *sampled))
    assert r"--- 1: x\u001b]2;owned" in several.stdout
    document = json.loads(check(invoke("generate", checkpoint, "-p", HOSTILE, "--json")).stdout)
    assert document["answers"][0]["prompt"] == HOSTILE
    typed = f"Hello{HOSTILE}\n/nothing{HOSTILE}\n/exit\n".replace("\r", "")
    check(invoke("chat", checkpoint, *sampled, typed=typed))


def test_usage_errors_and_unexpected_ones_show_escapes(monkeypatch):
    for argv in ((HOSTILE,), ("plan", HOSTILE, f"--{HOSTILE}"), ("plan", "a", "--tp", HOSTILE)):
        assert check(invoke(*argv)).exit_code == 2
    monkeypatch.setattr(
        "salient.api.inspect", lambda *_, **__: (_ for _ in ()).throw(KeyError(HOSTILE))
    )
    stderr = check(invoke("inspect", "x")).stderr
    path = re.search(r"The traceback is in (\S+\.txt)\.", stderr)
    assert path is not None
    assert RAW.search(Path(path[1]).read_text()) is None


def test_logging_and_warnings_of_libraries_pass_the_writer(monkeypatch):
    def noisy(*_: object, **__: object) -> None:
        handler = logging.StreamHandler()
        logging.getLogger("foreign").addHandler(handler)
        logging.getLogger("foreign").error("%s", HOSTILE)
        logging.getLogger("foreign").removeHandler(handler)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", _show_warning)
            warnings.warn(HOSTILE, stacklevel=1)
        sys.stderr.writelines([HOSTILE, HOSTILE])
        raise KeyError

    monkeypatch.setattr("salient.api.inspect", noisy)
    assert check(invoke("inspect", "x")).stderr.count("owned") == 4


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"{message}\n")


def on_terminal(*argv: object) -> str:
    """What a process of `salient` writes to a terminal."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "salient", *map(str, argv)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment):
        os.close(child)
        output = b""
        with contextlib.suppress(OSError):  # the child's end
            while piece := os.read(parent, 65536):
                output += piece
    os.close(parent)
    return output.decode()


def test_a_terminal_gets_no_sequence_but_those_of_rich(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"]["modules_to_not_convert"] = [HOSTILE]
    config["hidden_act"] = HOSTILE
    (checkpoint / "config.json").write_text(json.dumps(config))
    output = on_terminal("doctor", checkpoint)
    assert "owned" in output
    assert STYLES.search(output)
    assert RAW.search(STYLES.sub("", output)) is None
    assert "\x1b[35m" not in output
    assert "\x1b]8" not in output


def test_text_under_a_progress_bar_is_escaped(capsys, monkeypatch):
    """A bar redirects the streams and would read escape sequences as styles and links."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    guard_streams()
    with console._bar(Terminal(stderr=True), shown=True) as progress:
        progress(1, 2, HOSTILE, HOSTILE)
        print(HOSTILE)
    shown = "".join(capsys.readouterr())
    assert "owned" in shown
    assert RAW.search(STYLES.sub("", shown)) is None
    assert "\x1b]8" not in shown


def test_reports_show_escapes_on_every_console_with_straight_columns():
    table = Table(HOSTILE, (HOSTILE, "b"), [(HOSTILE, "1"), ("y", HOSTILE)], (HOSTILE,))
    out = io.StringIO()
    Report({}, [table], [HOSTILE]).show(Console(file=out, width=400))
    assert RAW.search(out.getvalue()) is None
    assert out.getvalue().count("[bold red]!") == 5
    rows = [line for line in out.getvalue().splitlines() if line[0] in "┏┃│└"]
    assert len({len(row) for row in rows}) == 1


def test_a_line_feed_in_a_foreign_text_begins_no_line_of_a_report():
    out = io.StringIO()
    Report({}, lines=["Verdict of a\nVerdict: pass"]).show(Console(file=out))
    assert out.getvalue() == "Verdict of a\\nVerdict: pass\n"
