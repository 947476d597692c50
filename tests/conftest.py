"""One thread a test process (tiny tensors only lose by more), the Hub switched off, and nothing
kept of a validation in the user's cache."""

import contextlib
import functools
import gc
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch

from helpers.toy_models import toy_folder, toy_text
from salient.kernels.cpu_library import NotBuilt, built_library

torch.set_num_threads(1)
# A shell in the background ignores SIGINT, nohup SIGHUP; child processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    """Build both kinds of the C++ kernels once for all workers."""
    if not hasattr(config, "workerinput"):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(build, ((), ("-DSALIENT_PLAIN",))))


def build(flags: tuple[str, ...]) -> None:
    with contextlib.suppress(NotBuilt):
        built_library(flags)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays in one process: what its tests share is made once. So do all files that fork
    commands from one server, which imports for seconds."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "commands" if uses_commands(config.rootpath / file) else file

    return Scheduling(config, log)


@functools.cache
def uses_commands(path: Path) -> bool:
    return "helpers.commands" in path.read_text(encoding="utf-8")


def pytest_collection_finish() -> None:
    """Leave the modules and tests out of garbage collection, which loading a model asks for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama's folder; do not change it."""
    return toy_folder(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file long enough for small runs."""
    return toy_text(tmp_path_factory.mktemp("text"))


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of 9 scales instead of 35, for laws of what is done with the scale."""
    exponents = (0.0, 0.5, 1.0)
    monkeypatch.setattr("salient.awq.search.COARSE", [(a, b) for a in exponents for b in exponents])
    monkeypatch.setattr("salient.awq.search.FINE", (0.0,))


@pytest.fixture(scope="session", autouse=True)
def parts_of_validations(tmp_path_factory: pytest.TempPathFactory):
    """Where validations keep their parts and digests. Built kernels stay where they are."""
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("salient.validate.cache.cache_folder", lambda: folder)
        patch.setattr("salient.core.text_places.cache_folder", lambda: folder)
        patch.setattr("salient.core.content_digest.cache_folder", lambda: folder)
        yield folder
