"""The command line: exit codes, one JSON document, errors as messages alone, Ctrl-C."""

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.cli import invoke
from helpers.commands import Command
from helpers.toy_models import toy_folder, toy_text
from salient import __version__, api
from salient.cli import main
from salient.core.errors import ModelError, ResourceError

SMALL = ["--scheme", "w4-g32", "--samples", "6", "--sequence-length", "64"]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Commands set a handler for SIGTERM; a shell may have started us with SIGINT ignored."""
    before = [(s, signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, a text, and the model's checkpoint; do not change them."""
    folder = tmp_path_factory.mktemp("cli")
    actual = {
        "model": toy_folder(folder / "model"),
        "text": toy_text(folder),
        "out": folder / "out",
    }
    result = call("quantize", actual["model"], "-o", actual["out"], "--calibration", actual["text"])
    assert result.exit_code == 0, result.stderr
    return actual


def call(*arguments: object):
    message = [str(a) for a in arguments]
    return invoke(*message, *(SMALL if message[0] == "quantize" else []))


def test_the_version_is_printed_alone():
    result = call("--version")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"salient {__version__}\n", "")


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_names_every_command(arguments):
    result = invoke(*arguments)
    assert all(command in result.output for command in ("quantize", "inspect", "evaluate"))


def test_quantize_prints_one_json_document_and_nothing_else(small, tmp_path):
    out = tmp_path / "out"
    values = ("quantize", small["model"], "-o", out, "--calibration", small["text"], "--json")
    result = call(*values)
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["output"] == str(out)
    assert report["run"]["scheme"] == "w4-g32"
    assert (out / "salient.json").exists()


def test_quantize_prints_tables_that_name_layers_and_the_next_command(small, tmp_path):
    out = tmp_path / "out"
    result = call("quantize", small["model"], "-o", out, "--calibration", small["text"])
    assert (result.exit_code, result.stderr) == (0, "")
    for message in ("mlp.down_proj", "perplexity", "fell back to plain rounding"):
        assert message in result.stdout
    assert f"vllm serve {out}" in result.stdout.replace("\n", "")
    assert "\x1b" not in result.stdout  # no colours into a file


def test_a_dry_run_reports_and_writes_nothing(small, tmp_path):
    values = ("quantize", small["model"], "-o", tmp_path / "out", "--calibration", small["text"])
    result = call(*values, "--dry-run", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (report["linears"], report["calibration_tokens"]) == (14, 384)
    assert report["peak_memory_bytes"] > 0
    reported = call(*values, "--dry-run")
    assert reported.exit_code == 0
    assert "Nothing was written." in reported.stdout
    assert list(tmp_path.iterdir()) == []


def test_inspect_shows_format_scheme_and_evidence(small):
    result = call("inspect", small["out"], "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["format"], report["scheme"], report["quantized_linears"]) == (
        "awq",
        "w4-g32",
        14,
    )
    assert report["evidence"]["heldout"]["awq"]["kl"] > 0
    reported = call("inspect", small["out"])
    assert all(message in reported.stdout for message in ("w4-g32", "q_proj", "Held-out KL"))


def test_evaluate_prints_figures_of_each_text(small):
    values = ("evaluate", small["out"], "--reference", small["model"], "--text", small["text"])
    result = call(*values, "--samples", 2, "--sequence-length", 64, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    figures = json.loads(result.stdout)["likelihood"]["texts"][str(small["text"])]
    assert figures["tokens"] == 128
    assert 0 < figures["kl"] < 0.2
    reported = call(*values, "--samples", 2, "--sequence-length", 64)
    assert f"{figures['kl']:.4f}" in reported.stdout


def test_validate_exits_with_its_verdict(small, tmp_path):
    values = ("validate", small["out"], "--reference", small["model"], "--text", small["text"])
    values += (
        "--samples",
        8,
        "--sequence-length",
        64,
        "--load-test",
        "off",
        "--context-lengths",
        "off",
    )
    for bound, code, word in ((1.0, 0, "pass"), (1e-9, 1, "fail")):
        own = tmp_path / "own.toml"
        own.write_text(f'use = "middle"\n[likelihood]\nkl_max = {bound}\n')
        result = call(*values, "--tasks", "off", "--policy", own)
        assert (result.exit_code, result.stderr) == (code, "")
        assert f"Verdict: {word}. By own" in result.stdout
    own.write_text("[likelihood]\nkl_max = 1.0\n[tasks]\nretention_min = 0.5\n")
    hard = tmp_path / "hard.jsonl"
    hard.write_text('{"prompt": "a", "expected": "nothing says this"}\n')
    result = call(*values, "--tasks", hard, "--policy", own, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["verdict"]["verdict"] == "could not measure"


def missing(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def not_a_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def untouched(folder: Path) -> None:
    """The model is right."""


ERRORS = {
    "missing model": (missing, (), "ModelError", r"No model folder '.*'\. Use a folder with"),
    "unknown scheme": (
        untouched,
        ("--scheme", "w3-g7"),
        "ShapeError",
        r"Unknown scheme 'w3-g7'.*w4-g128",
    ),
    "too little text": (
        untouched,
        ("--samples", "5000", "--calibration-mix", "1"),
        "CalibrationError",
        r"has \d+ tokens, but 5000 samples of 64 need 320000\. Use --samples \d+",
    ),
    "a weight that is NaN": (
        not_a_number,
        (),
        "ModelError",
        r"'model\.layers\.1\.mlp\.up_proj\.weight' has 1 NaN or infinite values of 6144",
    ),
    "a truncated file": (
        truncated,
        (),
        "ModelError",
        r"model\.safetensors in .* cannot be read .*truncated or damaged: fetch it again\.",
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_its_message_alone_with_exit_code_2(kind, text, tmp_path):
    harm, options, name, message = ERRORS[kind]
    model, out = toy_folder(tmp_path / "model"), tmp_path / "out"
    harm(model)
    values = ["quantize", str(model), "-o", str(out), "--calibration", str(text), *SMALL, *options]
    reported = invoke(*values)
    assert (reported.exit_code, reported.stdout) == (2, "")
    assert re.fullmatch(rf"error: .*{message}.*\n", reported.stderr)  # one line, no traceback
    assert not out.exists()
    as_json = invoke(*values, "--json")
    assert as_json.exit_code == 2
    document = json.loads(as_json.stdout)
    assert document == {"error": name, "message": reported.stderr[len("error: ") : -1]}
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["inspect", "no/such/folder"], "No model folder"),
        (["evaluate", "no/such/folder", "--reference", "/none"], "No model folder"),
    ],
)
def test_every_command_ends_with_2_on_an_error(command, message):
    result = call(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_brackets_in_a_message_are_not_taken_for_markup(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise ResourceError("The disk of /data/[red]x[/red] is full")

    monkeypatch.setattr(api, "inspect", full)
    assert call("inspect", "x").stderr == "error: The disk of /data/[red]x[/red] is full\n"


def traceback_of(stderr: str) -> str:
    """The contents of the file that the message names."""
    path = re.search(r"The traceback is in (\S+\.txt)\.", stderr)
    assert path is not None, stderr
    return Path(path[1]).read_text()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            IndexError("list index\nout of range"),
            r"Unexpected IndexError: list index out of range\. .*report it",
        ),
        (KeyError("x"), r"Unexpected KeyError: 'x'\."),
        (RecursionError(), r"Unexpected RecursionError: RecursionError\."),
        (MemoryError(), r"Memory does not suffice \(MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory"), r"Memory does not suffice \(OutOfMemory"),
        (
            PermissionError(13, "Permission denied", "/x/y"),
            r"refused: Permission denied \(/x/y\)\.",
        ),
        (BrokenPipeError(32, "Broken pipe"), r"The system refused: Broken pipe\."),
        (SystemExit(1), r"Unexpected RuntimeError: a library called exit\(1\)"),
        (
            type("PanicException", (BaseException,), {})("a panic"),
            r"Unexpected PanicException: a p",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_unexpected_exception_ends_with_2_and_a_traceback_in_a_file(
    error, message, monkeypatch, tmp_path
):
    def bug(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in api.OPTIONS.keys() - {"load_engine"}:
        monkeypatch.setattr(api, name, bug)
        arguments = {"evaluate": ["x", "--reference", "y"], "validate": ["x", "--reference", "y"]}
        arguments |= {"panel": ["make", "x"]}
        arguments |= {"generate": ["x", "-p", "y"], "load_test": ["http://x"], "push": ["x", "y/z"]}
        result = invoke(name.replace("_", "-"), *arguments.get(name, ["x"]))
        assert (result.exit_code, result.stdout) == (2, ""), name
        assert re.fullmatch(rf"error: .*{message}.*\n", result.stderr), result.stderr
        text = traceback_of(result.stderr)
        assert text.startswith(f"salient {name.replace('_', '-')}")
        assert ", in bug\n" in text
    result = invoke("inspect", "x", "--json")
    document = json.loads(result.stdout)
    assert result.stderr == f"error: {document['message']}\n"


def test_a_traceback_that_cannot_be_written_is_shortened_to_its_last_line(monkeypatch):
    def bug(*_: object, **__: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(api, "inspect", bug)
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    assert "is in no file (No such file or directory); it ends with: IndexError: list index" in (
        call("inspect", "x").stderr
    )


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [
        (["plan", "smollm2-135m"], ""),
        (["plan", "smollm2-135m"], "1"),
        (["plan", "--help"], ""),
    ],
)
def test_a_closed_pipe_ends_with_0_or_141_and_a_full_disk_with_2(command, unbuffered):
    shell = shlex.join([sys.executable, "-m", "salient", *command])
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}

    def run(line: str) -> tuple[str, str]:
        result = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, env=environment, check=False
        )
        return result.stdout, result.stderr

    ends = ["0\n"] if "--help" not in command else ["0\n", "141\n"]  # a verdict is the verb's own
    assert run(f"{shell} | true; echo ${{PIPESTATUS[0]}}") in [(end, "") for end in ends]
    assert run(f"{shell} >&-; echo $?") == ("0\n", "")
    assert run(f"{shell} >/dev/null 2>&-; echo $?") == ("0\n", "")
    message = "error: Standard output cannot be written: No space left on device.\n"
    assert run(f"{shell} >/dev/full; echo $?") == ("2\n", message)
    if "--help" in command:
        assert run(f"{sys.executable} -m salient plan 2>/dev/full; echo $?") == ("2\n", "")


def test_half_a_surrogate_is_printed_escaped(monkeypatch):
    def odd(*_: object, **__: object) -> None:
        raise ModelError("the name is \ud83d")

    monkeypatch.setattr(api, "inspect", odd)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(SystemExit):
        main(["inspect", "x"])
    assert stream.buffer.getvalue() == b"error: the name is \\ud83d\n"


@pytest.mark.parametrize(
    "wrong",
    [["--samples", "0"], ["--samples", "many"], ["--no-such-option"], ["one", "more"]],
    ids=" ".join,
)
def test_arguments_that_cannot_be_parsed_end_with_2(wrong, tmp_path):
    result = invoke("quantize", "model", "-o", tmp_path / "out", *wrong)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_quantize_says_first_what_will_hurt_in_serving(small, caplog, tmp_path):
    result = call("quantize", small["model"], "--dry-run", "--json", "-o", tmp_path / "out")
    warned = json.loads(result.stdout)["warnings"]
    assert "cannot be cut over 2 GPUs" in warned[0]
    assert f"warning: {warned[0]}" in caplog.messages


def test_a_signal_ends_with_130_and_the_same_command_goes_on_quietly(text, tmp_path):
    """Ctrl-C, then a SIGTERM, then undisturbed: as a shell sees it, with no terminal."""
    model, out = toy_folder(tmp_path / "model", num_hidden_layers=6), tmp_path / "out"
    command = ("quantize", model, "-o", out, *SMALL, "--calibration", text)
    journal = tmp_path / "out.partial" / "journal.jsonl"

    def run(stop: signal.Signals | None, blocks: int) -> tuple[int, str, str]:
        """Start the command and send `stop` when `blocks` blocks are done."""
        with Command(*command, OMP_NUM_THREADS="1") as process:
            while stop and process.poll() is None:
                if journal.exists() and len(journal.read_text().splitlines()) > blocks:
                    process.send_signal(stop)
                    break
                time.sleep(0.005)
            code, stdout, stderr = process.communicate()
        reported = re.sub("^warning: .*\n", "", stderr)  # that a toy cannot be cut over GPUs
        return code, stdout, reported

    for stop, blocks in ((signal.SIGINT, 1), (signal.SIGTERM, 3)):
        message = "Interrupted. The same command resumes where this run stopped.\n"
        assert run(stop, blocks) == (130, "", message)
        assert not out.exists()
        assert blocks < len(journal.read_text().splitlines()) < 7
    code, stdout, stderr = run(None, 0)
    assert (code, stderr) == (0, "")
    assert "fell back to plain rounding" in stdout
    assert (out / "salient.json").exists()
    assert not journal.parent.exists()


def test_a_signal_that_a_library_turns_into_its_own_error_is_still_an_interruption(monkeypatch):
    def library(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise ModelError("the file is damaged") from None

    monkeypatch.setattr(api, "inspect", library)
    result = call("inspect", "x")
    assert result.exit_code == 130
    assert "Interrupted." in result.stderr
    assert "damaged" not in result.stderr


def test_a_signal_that_a_library_swallows_ends_the_run_at_its_next_step(monkeypatch):
    def library(*_: object, progress: api.Progress, **__: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        progress(0, 1, "continuing")
        raise AssertionError("it went on")

    monkeypatch.setattr(api, "quantize", library)
    assert call("quantize", "x").exit_code == 130
