"""`salient serve --engine vllm` with a real vLLM: start, answers, and both ways to end it.

A port in use, and a checkpoint without one tensor, which vLLM would load silently, must be refused
before vLLM starts. A valid checkpoint must be served: the log says when the server is ready and
which kernel it uses, the answer agrees with our dequantized model, and requests without the key are
refused. A killed vLLM must be reported, with exit code 137; Ctrl-C must end it with exit code 0.
Neither may leave a process.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from checks import HERE, NEAR_TIE, Case, Outcome, environment, log_step, walk
from salient import api
from salient.core.model_files import SINGLE

KEY, NAME = "interop-key", "served"
PROMPT, TOKENS = "The capital of France is", 12
READY_SECONDS, END_SECONDS = 300, 60
STARTED = b"LLM API server version"  # in the first line that vLLM prints
SETTINGS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",  # else small functions are compiled by a C++ compiler
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(HERE / "vllm_shim"),
}


class ServeFault(Exception):
    """A requirement of this check is not met."""


class Server:
    """`salient serve` as a process; its output and vLLM's log are one file."""

    def __init__(
        self, case: Case, folder: Path, name: str, port: int, engine: str = "vllm"
    ) -> None:
        self.port, self.log = port, case.work / f"serves_{name}.log"
        command = [sys.executable, "-m", "salient", "serve", str(folder), "--engine", engine]
        command += ["--port", str(port), "--api-key", KEY, "--served-model-name", NAME]
        command += ["--context-length", "256", "--concurrency", "2"]
        if engine == "vllm":
            command += ["--vllm-python", environment("vllm"), "--dtype", case.dtype]
            command += ["--", "--enforce-eager"]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **SETTINGS},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def text(self) -> bytes:
        return self.log.read_bytes()

    def require_text(self, text: str) -> None:
        if text.encode() not in self.text:
            raise ServeFault(f"{text!r} is not in the output (log: {self.log})")

    def wait_until_ready(self) -> float:
        """Wait, at most READY_SECONDS; the seconds waited."""
        began = time.monotonic()
        address = f"http://127.0.0.1:{self.port}"
        ready = [f"Ready: {address}".encode(), f"Serving {NAME} at {address}".encode()]
        while not any(text in self.text for text in ready):
            if self.process.poll() is not None or time.monotonic() > began + READY_SECONDS:
                raise ServeFault(f"the server did not become ready (log: {self.log})")
            time.sleep(0.5)
        return time.monotonic() - began

    def require_exit(self, code: int) -> None:
        try:
            ended = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            raise ServeFault(f"it did not end within {END_SECONDS} s (log: {self.log})") from None
        if ended != code:
            raise ServeFault(f"exit code {ended}, expected {code} (log: {self.log})")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def serves(case: Case) -> Outcome:
    """Run the parts in order."""
    figures: dict[str, Any] = {}
    try:
        check_refusals(case)
        figures |= check_answers(case)
        figures |= check_interrupt(case)
    except ServeFault as error:
        return Outcome("serves", case.name, passed=False, summary=str(error), figures=figures)
    summary = (
        f"ready in {figures['ready_seconds']:.0f} s through {figures['kernel']}, "
        f"{figures['identical']} of {TOKENS} tokens identical, largest gap {figures['gap']:.3f}; a "
        f"kill exits with 137, Ctrl-C ends it in {figures['end_seconds']:.0f} s, no process left; "
        "port in use and missing tensor refused before the start"
    )
    return Outcome("serves", case.name, passed=True, summary=summary, figures=figures)


def check_refusals(case: Case) -> None:
    """A port in use and a checkpoint without one tensor must be refused before vLLM starts."""
    log_step(f"{case.name}: serves, refusals")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        require_refusal(
            Server(case, case.folder, "port", port), f"Cannot listen on 127.0.0.1:{port}"
        )
    broken = without_a_tensor(case)
    text = "would not load, or would compute wrong numbers"
    require_refusal(Server(case, broken, "checkpoint", free_port()), text)
    shutil.rmtree(broken)


def require_refusal(server: Server, text: str) -> None:
    try:
        server.require_exit(2)
        server.require_text(text)
        if STARTED in server.text:
            raise ServeFault(f"vLLM was started (log: {server.log})")
    finally:
        server.close()


def without_a_tensor(case: Case) -> Path:
    """The checkpoint without the zero points, or else the scales, of one linear."""
    folder = case.work / "serves_broken"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(case.folder, folder)
    tensors = load_file(folder / SINGLE)
    ends = ("qzeros", "weight_zero_point", "weight_scale")
    name = next(name for end in ends for name in sorted(tensors) if name.endswith(end))
    del tensors[name]
    save_file(tensors, folder / SINGLE, {"format": "pt"})
    return folder


def check_answers(case: Case) -> dict[str, Any]:
    """Start, compare an answer, then kill vLLM's process."""
    log_step(f"{case.name}: serves, started and killed")
    server = Server(case, case.folder, "killed", free_port())
    try:
        seconds = server.wait_until_ready()
        server.require_text("vLLM runs the quantized weights through ")
        kernel = server.text.partition(b"weights through ")[2].split(b".")[0].decode()
        figures = compare_answer(case, completion(server))
        if status(server, None) != 401:
            raise ServeFault("a request without the key was answered")
        child, family = processes(server)
        os.kill(child, signal.SIGKILL)
        server.require_exit(128 + signal.SIGKILL)
        server.require_text("vLLM was killed by SIGKILL (exit code 137), and not by Salient.")
        require_gone(family)
    finally:
        server.close()
    return {"ready_seconds": seconds, "kernel": kernel, **figures}


def check_interrupt(case: Case) -> dict[str, Any]:
    """Start, and send SIGINT."""
    log_step(f"{case.name}: serves, started and interrupted")
    server = Server(case, case.folder, "interrupted", free_port())
    try:
        server.wait_until_ready()
        _, family = processes(server)
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        server.require_exit(0)
        server.require_text("vLLM ended after SIGINT (exit code 0).")
        require_gone(family)
    finally:
        server.close()
    return {"end_seconds": time.monotonic() - began, "processes": len(family)}


def completion(
    server: Server, prompt: str = PROMPT, tokens: int = TOKENS, **more: Any
) -> dict[str, Any]:
    """A greedy answer with its token ids."""
    body = {"model": NAME, "prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}
    body |= {"ignore_eos": True, "return_token_ids": True}
    with urllib.request.urlopen(_request(server, KEY, body), timeout=120) as answer:
        return json.load(answer)["choices"][0]


def status(server: Server, key: str | None) -> int:
    try:
        with urllib.request.urlopen(
            _request(server, key, {"prompt": PROMPT}), timeout=60
        ) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def _request(server: Server, key: str | None, body: dict[str, Any]) -> urllib.request.Request:
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    url = f"http://127.0.0.1:{server.port}/v1/completions"
    return urllib.request.Request(url, json.dumps(body).encode(), headers)


def compare_answer(case: Case, answer: dict[str, Any]) -> dict[str, Any]:
    """Each token must be the most likely one of our dequantized model, or a near tie."""
    model, tokenizer = api.load(str(case.folder), dtype="float32")
    prompt, tokens = tokenizer(PROMPT)["input_ids"], answer["token_ids"]
    gaps, _ = walk(model, prompt, tokens, [{}] * len(tokens))
    if len(tokens) != TOKENS or not max(gaps) < NEAR_TIE:
        raise ServeFault(f"{answer['text']!r} is not the answer of our model: gaps {gaps}")
    return {"text": answer["text"], "identical": gaps.count(0), "gap": max(gaps)}


def processes(server: Server) -> tuple[int, list[int]]:
    """The PID of vLLM's server, and the PIDs of all descendants of `salient serve`."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[1])
    family = [server.process.pid]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    command = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family[1:]}
    return next(pid for pid in family[1:] if b"api_server" in command[pid]), family[1:]


def require_gone(pids: list[int]) -> None:
    """The processes must end within 15 seconds; zombies count as ended."""
    last = time.monotonic() + 15
    while left := [pid for pid in pids if _lives(pid)]:
        if time.monotonic() > last:
            raise ServeFault(f"processes {left} still run")
        time.sleep(0.2)


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
