"""Servers for the benchmarks: Salient's own and vLLM's CPU build, as processes on this machine."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NAME = "served"
PORTS = {"salient": 8201, "vllm": 8200}
READY_SECONDS = 300
CORES = sorted(os.sched_getaffinity(0))
# `vllm bench serve` of the CPU build requires metadata that its package lacks.
SHIM = """
import importlib.metadata as metadata
_version = metadata.version
metadata.version = lambda name: "0.32.0+cpu" if name == "vllm" else _version(name)
"""


@dataclass(frozen=True)
class Setting:
    """The options of a server.

    vllm: the Python of vLLM's environment   threads, cores: of the server
    dtype: of vLLM's activations
    """

    context: int
    sequences: int
    vllm: str = ""
    threads: int = len(CORES)
    cores: tuple[int, ...] = tuple(CORES)
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class RunningServer:
    """A running server. pid: of its first process"""

    url: str
    pid: int


def write_shim(folder: Path) -> None:
    """Make `folder` a PYTHONPATH with the metadata that `vllm bench` requires."""
    (folder / "sitecustomize.py").write_text(SHIM)


@contextlib.contextmanager
def running_server(name: str, model: str, setting: Setting, work: Path) -> Iterator[RunningServer]:
    """Run the server `name` (salient, vllm) on `model` during the block.

    work: a folder for its log and the shim
    """
    write_shim(work)
    port = PORTS[name]
    command = COMMANDS[name](model, port, setting)
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": str(setting.threads),
        "PYTHONPATH": str(work),
    }
    path = work / f"{name}.log"
    with path.open("wb") as log:
        child = subprocess.Popen(
            _pinned(setting.cores, command), env=environment, stdout=log, stderr=log
        )
    try:
        _wait(f"http://127.0.0.1:{port}/v1/models", child, path)
        yield RunningServer(f"http://127.0.0.1:{port}", child.pid)
    finally:
        child.terminate()
        try:
            child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()


def _salient(model: str, port: int, setting: Setting) -> list[str]:
    command = [sys.executable, "-m", "salient", "serve", model, "--engine", "embedded"]
    command += ["--port", str(port), "--served-model-name", NAME]
    return [
        *command,
        "--concurrency",
        str(setting.sequences),
        "--context-length",
        str(setting.context),
    ]


def _vllm(model: str, port: int, setting: Setting) -> list[str]:
    command = [setting.vllm, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", NAME, "--port", str(port), "--dtype", setting.dtype]
    command += ["--max-model-len", str(setting.context), "--max-num-seqs", str(setting.sequences)]
    return [
        *command,
        "--enforce-eager",
        "--no-enable-prefix-caching",
    ]  # warm-up prompts


COMMANDS = {"salient": _salient, "vllm": _vllm}


def _pinned(cores: tuple[int, ...], command: list[str]) -> list[str]:
    if list(cores) == CORES or not shutil.which("taskset"):
        return command
    return ["taskset", "-c", ",".join(map(str, cores)), *command]


def _wait(url: str, child: subprocess.Popen, log: Path) -> None:
    last = time.monotonic() + READY_SECONDS
    while time.monotonic() < last and child.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.5)
    sys.exit(f"{url} did not start:\n{log.read_text(errors='replace')[-3000:]}")
