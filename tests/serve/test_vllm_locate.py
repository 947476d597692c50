"""Where vLLM is, and how it is started."""

import os
import sys

import pytest

from helpers.vllm_process import stand_in
from salient.core.errors import RequestError
from salient.serve.options import ServeOptions
from salient.serve.vllm.launch import find_vllm, run_vllm

PYTHON = sys.executable


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A folder that is all of PATH, with no vLLM next to our own Python."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(
        "salient.serve.vllm.locate.sys.executable", str(tmp_path / "ours" / "python")
    )
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def script(folder, first_lines):
    path = folder / "vllm"
    path.write_text(first_lines + "\n")
    path.chmod(0o755)
    return str(path)


def test_a_missing_vllm_is_refused_with_the_ways_out(path, tmp_path):
    assert find_vllm(None) is None
    message = "pip install vllm.* --vllm-python .*--engine embedded"
    with pytest.raises(RequestError, match=message):
        run_vllm(ServeOptions(str(tmp_path)), print)


def test_vllm_on_path_is_started_by_its_command(path, tmp_path, monkeypatch):
    stand_in(tmp_path / "site", "vllm", "0.32.0+cu130")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    path_to_script = script(path, f"#!{PYTHON}")
    vllm = find_vllm(None)
    assert vllm.start == (path_to_script, "serve")
    assert (vllm.version, vllm.release, vllm.cpu) == ("0.32.0+cu130", (0, 32), False)


def test_a_script_with_a_long_python_path_is_parsed(path, tmp_path, monkeypatch):
    stand_in(tmp_path / "site", "vllm", "0.21.0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    script(path, f'''#!/bin/sh\n\'\'\'exec' "{PYTHON}" "$0" "$@"\n' \'\'\'''')
    assert find_vllm(None).release == (0, 21)


def test_a_wrapper_script_is_started_unchanged(path):
    path_to_script = script(path, "#!/bin/sh")
    vllm = find_vllm(None)
    assert (vllm.start, vllm.python, vllm.version) == ((path_to_script, "serve"), "", "")


def test_a_build_under_another_name_is_started_by_its_module(path, tmp_path, monkeypatch):
    """Its command asks for the metadata of "vllm" and would stop."""
    stand_in(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    script(path, f"#!{PYTHON}")
    vllm = find_vllm(None)
    assert vllm.start[1:] == ("-m", "vllm.entrypoints.openai.api_server", "--model")
    assert (vllm.version, vllm.cpu) == ("0.32.0", True)
    assert vllm.label == f"vLLM 0.32.0 ({PYTHON})"


def test_vllm_python_is_a_python_or_its_environment(path, tmp_path, monkeypatch):
    stand_in(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").symlink_to(PYTHON)
    monkeypatch.chdir(tmp_path)
    for name in ("env", "env/bin/python", str(tmp_path / "env")):
        assert find_vllm(name).python == str(tmp_path / "env" / "bin" / "python")


def test_a_python_without_vllm_is_refused(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(RequestError, match=f"--vllm-python {PYTHON} has no vLLM. Install"):
        find_vllm(PYTHON)


def test_a_missing_python_is_refused(tmp_path):
    with pytest.raises(RequestError, match="is not a Python that can be started"):
        find_vllm(str(tmp_path / "python"))


def test_a_folder_named_vllm_is_not_vllm(tmp_path, monkeypatch):
    (tmp_path / "vllm").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    with pytest.raises(RequestError, match="has no vLLM"):
        find_vllm(PYTHON)
