"""A load test by other tools: run as they are, read as they write, named when they fail."""

import json
import stat
import sys
from pathlib import Path

import pytest

from helpers.toy_server import Manner, toy_server
from salient.core.errors import RequestError
from salient.core.progress import silent
from salient.evals.load.plans import LoadPlan, Step, Target
from salient.evals.load.tools import run_with

PLAN = LoadPlan(steps=(Step(1), Step(2)), requests=3, warmups=0, prompt_tokens=8, output_tokens=4)
RESULTS = Path(__file__).parent / "load_results"


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """An empty folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def tool(folder: Path, name: str, body: str) -> None:
    """A program that is there under the name of a load test, and notes its arguments."""
    file = folder / name
    head = f"#!{sys.executable}\nimport json, os, sys\n"
    file.write_text(
        head
        + f"open({str(folder / 'asked')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        + body
    )
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def writes(result: str) -> str:
    return (
        "where = os.path.join(sys.argv[sys.argv.index('--result-dir') + 1],\n"
        "    sys.argv[sys.argv.index('--result-filename') + 1])\n"
        f"open(where, 'w').write({result!r})\n"
    )


def vllm_result() -> str:
    return next(iter(sorted(RESULTS.glob("*vllm*.json")))).read_text()


def test_a_tool_on_the_path_runs_every_step_and_its_result_is_read(path):
    tool(path, "vllm", writes(vllm_result()))
    results = run_with("vllm", Target("http://x:1", "m"), PLAN, silent, tokenizer="folder")
    assert [r.tool for r in results] == ["vllm bench serve"] * 2
    asked = (path / "asked").read_text().splitlines()
    assert ["--max-concurrency 1" in asked[0], "--max-concurrency 2" in asked[1]] == [True, True]
    assert all("--tokenizer folder" in line for line in asked)


def test_auto_takes_the_tool_that_is_there(path):
    tool(path, "vllm", writes(vllm_result()))
    results = run_with("auto", Target("http://x:1", "m"), PLAN, silent)
    assert {r.tool for r in results} == {"vllm bench serve"}


def test_auto_takes_the_built_in_client_where_no_other_is(path):
    with toy_server(Manner()) as server:
        results = run_with("auto", Target(server.url, "m"), PLAN, silent)
    assert [(r.tool, r.note) for r in results] == [("salient", "")] * 2


def test_auto_goes_on_without_a_tool_that_fails_and_says_so(path):
    tool(path, "vllm", "sys.exit('no torchvision here')")
    with toy_server(Manner()) as server:
        results = run_with("auto", Target(server.url, "m"), PLAN, silent)
    assert {r.tool for r in results} == {"salient"}
    assert all("vllm ended with exit code 1: no torchvision here" in r.note for r in results)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('boom', file=sys.stderr); sys.exit(3)", "ended with exit code 3: boom"),
        ("", "left no result that can be read"),
        (writes("{"), "left no result that can be read"),
        (writes(json.dumps({"completed": 1})), "result of vllm bench serve"),
    ],
)
def test_a_named_tool_that_fails_is_an_error_that_names_the_other_way(body, words, path):
    tool(path, "vllm", body)
    with pytest.raises(RequestError, match=words):
        run_with("vllm", Target("http://x:1", "m"), PLAN, silent)


def test_a_tool_that_is_not_there_or_not_known_is_said(path):
    with pytest.raises(RequestError, match="No 'guidellm' on PATH"):
        run_with("guidellm", Target("http://x:1", "m"), PLAN, silent)
    with pytest.raises(RequestError, match=r"No tool 'wrk' for load tests\. Known: auto, vllm"):
        run_with("wrk", Target("http://x:1", "m"), PLAN, silent)


def test_a_key_goes_by_the_environment_and_never_by_the_arguments(path):
    body = f"open({str(path / 'key')!r}, 'w').write(os.environ['OPENAI_API_KEY'])\n"
    tool(path, "vllm", body + writes(vllm_result()))
    run_with("vllm", Target("http://x:1", "m", api_key="sesame"), PLAN, silent)
    assert (path / "key").read_text() == "sesame"
    assert "sesame" not in (path / "asked").read_text()
