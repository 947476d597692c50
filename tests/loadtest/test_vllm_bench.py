"""A load test by `vllm bench serve`: its command, its run and its failures."""

import json
import shutil
import stat
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from helpers.toy_server import Manner, toy_server
from salient.core.errors import RequestError
from salient.core.progress import silent
from salient.loadtest.other_tools import run_vllm_bench, vllm_bench_command
from salient.loadtest.plan import LoadPlan, LoadStep, LoadTarget
from salient.loadtest.report import run_tool, to_report

PLAN = LoadPlan(
    steps=(LoadStep(1), LoadStep(2)), requests=3, warmups=0, prompt_tokens=8, output_tokens=4
)
SERVER = LoadTarget("http://x:1", "m")
RESULT = (Path(__file__).parent / "results" / "vllm_bench.json").read_text(encoding="utf-8")


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """An empty folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install_vllm(folder: Path, body: str) -> None:
    """A program named vllm that notes its arguments."""
    file = folder / "vllm"
    file.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"open({str(folder / 'argv')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n{body}"
    )
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def writes(result: str) -> str:
    return (
        "where = os.path.join(sys.argv[sys.argv.index('--result-dir') + 1],\n"
        "    sys.argv[sys.argv.index('--result-filename') + 1])\n"
        f"open(where, 'w').write({result!r})\n"
    )


def test_the_command_requests_what_its_result_is_read_by(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: f"/opt/{tool}")
    target = LoadTarget("http://localhost:8000/v1", "org/toy")
    plan = LoadPlan((LoadStep(8, rate=2.5),), requests=20, seed=3)
    argv = vllm_bench_command(target, plan, Path("out/r.json"), tokenizer="/m/toy")
    options = {a: b for a, b in pairwise(argv) if a.startswith("--")}
    assert argv[:3] == ["/opt/vllm", "bench", "serve"]
    assert options["--base-url"] + options["--endpoint"] == "http://localhost:8000/v1/completions"
    assert (options["--model"], options["--tokenizer"]) == ("org/toy", "/m/toy")
    assert options["--request-rate"] == "2.5"
    assert (options["--max-concurrency"], options["--num-prompts"]) == ("8", "20")
    assert options["--metric-percentiles"] == "50,90,99"
    assert (options["--result-dir"], options["--result-filename"]) == ("out", "r.json")
    assert "--ignore-eos" in argv


def test_every_step_runs_and_its_result_is_read(path):
    install_vllm(path, writes(RESULT))
    results = run_vllm_bench(SERVER, PLAN, silent, tokenizer="folder")
    assert [result.tool for result in results] == ["vllm bench serve"] * 2
    lines = (path / "argv").read_text().splitlines()
    assert ["--max-concurrency 1" in lines[0], "--max-concurrency 2" in lines[1]] == [True, True]
    assert all("--tokenizer folder" in line for line in lines)


@pytest.mark.parametrize(
    ("target", "plan", "message"),
    [
        (SERVER, LoadPlan((LoadStep(1),), None, 9.0), "not of seconds"),
        (LoadTarget("a", "m"), LoadPlan((LoadStep(1),)), "not an http or https address"),
        (SERVER, LoadPlan((LoadStep(0),)), "concurrency=0"),
    ],
)
def test_an_impossible_plan_is_refused(target, plan, message, path):
    install_vllm(path, "")
    with pytest.raises(RequestError, match=message):
        run_vllm_bench(target, plan, silent)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('boom', file=sys.stderr); sys.exit(3)", "ended with exit code 3: boom"),
        ("", "result of vllm bench serve cannot be read"),
        (writes("{"), "result of vllm bench serve cannot be read"),
        (
            writes(json.dumps({"completed": 1})),
            "result of vllm bench serve: 'duration' is not a number",
        ),
    ],
)
def test_a_failing_tool_is_an_error(body, message, path):
    install_vllm(path, body)
    with pytest.raises(RequestError, match=message):
        run_vllm_bench(SERVER, PLAN, silent)


def test_a_key_is_in_the_environment_and_not_in_the_arguments(path):
    body = f"open({str(path / 'key')!r}, 'w').write(os.environ['OPENAI_API_KEY'])\n"
    install_vllm(path, body + writes(RESULT))
    run_vllm_bench(LoadTarget("http://x:1", "m", api_key="sesame"), PLAN, silent)
    assert (path / "key").read_text() == "sesame"
    assert "sesame" not in (path / "argv").read_text()


def test_a_missing_or_unknown_tool_is_named(path):
    with pytest.raises(RequestError, match=r"No 'vllm' on PATH.*--tool salient"):
        run_tool("vllm", SERVER, PLAN, silent)
    for tool in ("wrk", "auto"):
        with pytest.raises(RequestError, match=f"No tool '{tool}' .* Known: salient, vllm, guide"):
            run_tool(tool, SERVER, PLAN, silent)


def test_the_tool_is_the_requested_one_and_in_the_report(path):
    install_vllm(path, writes(RESULT))
    report = to_report(*run_tool("vllm", SERVER, PLAN, silent))
    assert {step["tool"] for step in report.data["steps"]} == {"vllm bench serve"}
    assert any("Measured by vllm bench serve" in line for line in report.lines)
    with toy_server(Manner()) as server:
        report = to_report(*run_tool("salient", LoadTarget(server.url, "m"), PLAN, silent))
    assert {step["tool"] for step in report.data["steps"]} == {"salient"}
    assert any("Measured by salient" in line for line in report.lines)
