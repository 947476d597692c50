"""Where vLLM is, and by which words it is started."""

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
    """A folder that is all of PATH, with no vLLM beside our own Python."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(
        "salient.serve.vllm.locate.sys.executable", str(tmp_path / "ours" / "python")
    )
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def script(folder, first_lines):
    made = folder / "vllm"
    made.write_text(first_lines + "\n")
    made.chmod(0o755)
    return str(made)


def test_where_there_is_none_it_is_said_how_to_get_it_and_how_to_do_without(path, tmp_path):
    assert find_vllm(None) is None
    words = "pip install vllm.* --vllm-python .*--engine embedded"
    with pytest.raises(RequestError, match=words):
        run_vllm(ServeOptions(str(tmp_path)), print)


def test_on_path_it_is_started_by_its_command(path, tmp_path, monkeypatch):
    stand_in(tmp_path / "site", "vllm", "0.32.0+cu130")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    found = script(path, f"#!{PYTHON}")
    vllm = find_vllm(None)
    assert vllm.start == (found, "serve")
    assert (vllm.version, vllm.release, vllm.cpu) == ("0.32.0+cu130", (0, 32), False)


def test_a_script_with_a_long_path_to_its_python_is_understood(path, tmp_path, monkeypatch):
    stand_in(tmp_path / "site", "vllm", "0.21.0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    script(path, f'''#!/bin/sh\n\'\'\'exec' "{PYTHON}" "$0" "$@"\n' \'\'\'''')
    assert find_vllm(None).release == (0, 21)


def test_a_wrapper_of_somebodys_own_is_started_as_it_is(path):
    found = script(path, "#!/bin/sh")
    vllm = find_vllm(None)
    assert (vllm.start, vllm.python, vllm.version) == ((found, "serve"), "", "")


def test_a_build_under_another_name_is_started_by_its_module(path, tmp_path, monkeypatch):
    """Its command asks for the metadata of "vllm" and would stop."""
    stand_in(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    script(path, f"#!{PYTHON}")
    vllm = find_vllm(None)
    assert vllm.start[1:] == ("-m", "vllm.entrypoints.openai.api_server", "--model")
    assert (vllm.version, vllm.cpu) == ("0.32.0", True)
    assert vllm.words == f"vLLM 0.32.0 ({PYTHON})"


def test_a_python_or_the_folder_of_its_environment_may_be_named(path, tmp_path, monkeypatch):
    stand_in(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").symlink_to(PYTHON)
    monkeypatch.chdir(tmp_path)
    for name in ("env", "env/bin/python", str(tmp_path / "env")):
        assert find_vllm(name).python == str(tmp_path / "env" / "bin" / "python")


def test_a_python_without_vllm_is_refused_by_name(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(RequestError, match=f"--vllm-python {PYTHON} has no vLLM. Install"):
        find_vllm(PYTHON)


def test_what_is_no_python_is_refused(tmp_path):
    with pytest.raises(RequestError, match="is no Python that can be started"):
        find_vllm(str(tmp_path / "python"))


def test_a_folder_that_happens_to_be_called_vllm_is_none(tmp_path, monkeypatch):
    (tmp_path / "vllm").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    with pytest.raises(RequestError, match="has no vLLM"):
        find_vllm(PYTHON)
