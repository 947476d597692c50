"""The scripts of examples/ run, on toys."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.rtn_checkpoints import rounded_toy
from helpers.vllm_process import stand_in

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = {"scheme": "w4-g32", "samples": 6}


def script(name: str) -> dict[str, Any]:
    """The functions of an example."""
    return runpy.run_path(str(EXAMPLES / name))


@pytest.fixture(scope="module")
def checkpoint(toy, tmp_path_factory):
    """A toy quantized by examples/quantize.py."""
    output = tmp_path_factory.mktemp("example") / "out"
    assert script("quantize.py")["main"](str(toy), str(output), **SMALL) > 0
    return output


def test_the_evidence_is_read(checkpoint, capsys):
    script("read_evidence.py")["main"](str(checkpoint))
    shown = capsys.readouterr().out
    assert "w4-g32, 6 samples" in shown
    assert "as written: KL" in shown


def test_a_validation_in_ci_writes_the_summary(checkpoint, toy, tmp_path, monkeypatch, capsys):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.chdir(tmp_path)
    code = script("validate_in_ci.py")["main"](str(checkpoint), str(toy), samples=8)
    unsure = "passed: None" in capsys.readouterr().out  # an interval that holds the bound
    assert code in ((2,) if unsure else (0, 1))
    assert "likelihood" in summary.read_text("utf-8").lower()


def test_the_command_that_serves_with_vllm_is_accepted(tmp_path):
    """The example's command line, printed instead of run, with a stand-in for vLLM."""
    folder = rounded_toy(tmp_path / "model")
    command = script("serve_with_vllm.py")["serve_command"](
        str(folder), sys.executable, "--print-command", "--json"
    )
    environment = {**os.environ, "PYTHONPATH": str(stand_in(tmp_path / "vllm"))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])["command"]
    assert "vllm" in " ".join(printed)


@pytest.mark.usefixtures("short_search")
def test_the_demo_runs(toy, tmp_path, capsys):
    model = shutil.copytree(toy, tmp_path / "model")
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}", "utf-8")
    script("demo.py")["main"](str(tmp_path), str(model), "w4-g32")
    assert "The whole demo took" in capsys.readouterr().out


def test_every_example_has_a_test():
    tested = Path(__file__).read_text("utf-8")
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert not [name for name in names if f'"{name}"' not in tested]
