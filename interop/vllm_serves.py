"""Whether `salient serve --engine vllm` starts, watches and ends a real vLLM.

A port in use and a checkpoint that lacks one tensor, which vLLM would load without a word, must be
refused before vLLM starts. A sound checkpoint must be served: ready told, the kernel named, an
answer that our dequantized model gives too, no answer without the key. vLLM killed must be reported
in words with exit code 137, Ctrl-C must end it with 0, and neither may leave a process behind.
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

from checks import HERE, NEAR_TIE, Case, Outcome, environment, say, walk
from salient import api
from salient.core.model_files import SINGLE

KEY, NAME = "interop-key", "served"
PROMPT, TOKENS = "The capital of France is", 12
READY_SECONDS, END_SECONDS = 300, 60
STARTED = b"LLM API server version"  # vLLM's own first words
SETTINGS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",  # else small helpers wait for a C++ compiler
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(HERE / "vllm_shim"),
}


class Wrong(Exception):
    """Something is not as it must be."""


class Server:
    """`salient serve` as a process; what it says and vLLM's log go to one file."""

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

    def must_say(self, words: str) -> None:
        if words.encode() not in self.text:
            raise Wrong(f"{words!r} is not said (all of {self.log})")

    def wait_until_ready(self) -> float:
        """Seconds until it was."""
        began = time.monotonic()
        address = f"http://127.0.0.1:{self.port}"
        ready = [f"Ready: {address}".encode(), f"Serving {NAME} at {address}".encode()]
        while not any(words in self.text for words in ready):
            if self.process.poll() is not None or time.monotonic() > began + READY_SECONDS:
                raise Wrong(f"the server did not become ready (all of {self.log})")
            time.sleep(0.5)
        return time.monotonic() - began

    def must_end(self, code: int) -> None:
        try:
            ended = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            raise Wrong(f"it did not end within {END_SECONDS} s (all of {self.log})") from None
        if ended != code:
            raise Wrong(f"exit code {ended} where {code} is due (all of {self.log})")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def serves(case: Case) -> Outcome:
    """All of it, one after the other."""
    figures: dict[str, Any] = {}
    try:
        refused(case)
        figures |= answered(case)
        figures |= interrupted(case)
    except Wrong as error:
        return Outcome("serves", case.name, passed=False, said=str(error), figures=figures)
    said = (
        f"ready in {figures['ready_seconds']:.0f} s through {figures['kernel']}, "
        f"{figures['identical']} of {TOKENS} tokens identical, largest gap {figures['gap']:.3f}; a "
        f"kill told as 137, Ctrl-C ended it in {figures['end_seconds']:.0f} s, nothing left; "
        "port in use and missing tensor refused before the start"
    )
    return Outcome("serves", case.name, passed=True, said=said, figures=figures)


def refused(case: Case) -> None:
    """A port in use and a checkpoint without one tensor, each before vLLM starts."""
    say(f"{case.name}: serves, what must be refused")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        must_refuse(Server(case, case.folder, "port", port), f"Cannot listen on 127.0.0.1:{port}")
    broken = without_a_tensor(case)
    words = "would not load, or would compute wrong numbers"
    must_refuse(Server(case, broken, "checkpoint", free_port()), words)
    shutil.rmtree(broken)


def must_refuse(server: Server, words: str) -> None:
    try:
        server.must_end(2)
        server.must_say(words)
        if STARTED in server.text:
            raise Wrong(f"vLLM was started all the same (all of {server.log})")
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


def answered(case: Case) -> dict[str, Any]:
    """Start, ask, then kill vLLM's own process."""
    say(f"{case.name}: serves, started and killed")
    server = Server(case, case.folder, "killed", free_port())
    try:
        seconds = server.wait_until_ready()
        server.must_say("vLLM runs the quantized weights through ")
        kernel = server.text.partition(b"weights through ")[2].split(b".")[0].decode()
        figures = compared(case, asked(server))
        if status(server, None) != 401:
            raise Wrong("a request without the key was answered")
        child, family = processes(server)
        os.kill(child, signal.SIGKILL)
        server.must_end(128 + signal.SIGKILL)
        server.must_say("vLLM was killed by SIGKILL (exit code 137), and not by Salient.")
        must_be_gone(family)
    finally:
        server.close()
    return {"ready_seconds": seconds, "kernel": kernel, **figures}


def interrupted(case: Case) -> dict[str, Any]:
    """Start, and press Ctrl-C."""
    say(f"{case.name}: serves, started and interrupted")
    server = Server(case, case.folder, "interrupted", free_port())
    try:
        server.wait_until_ready()
        _, family = processes(server)
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        server.must_end(0)
        server.must_say("vLLM ended after SIGINT (exit code 0).")
        must_be_gone(family)
    finally:
        server.close()
    return {"end_seconds": time.monotonic() - began, "processes": len(family)}


def asked(
    server: Server, prompt: str = PROMPT, tokens: int = TOKENS, **more: Any
) -> dict[str, Any]:
    """A greedy answer with its token ids."""
    asked = {"model": NAME, "prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}
    asked |= {"ignore_eos": True, "return_token_ids": True}
    with urllib.request.urlopen(_request(server, KEY, asked), timeout=120) as answer:
        return json.load(answer)["choices"][0]


def status(server: Server, key: str | None) -> int:
    try:
        with urllib.request.urlopen(_request(server, key, {"prompt": PROMPT}), timeout=60) as got:
            return got.status
    except urllib.error.HTTPError as error:
        return error.code


def _request(server: Server, key: str | None, body: dict[str, Any]) -> urllib.request.Request:
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    url = f"http://127.0.0.1:{server.port}/v1/completions"
    return urllib.request.Request(url, json.dumps(body).encode(), headers)


def compared(case: Case, answer: dict[str, Any]) -> dict[str, Any]:
    """Each token must be the most likely one of our dequantized model, or a near tie with it."""
    model, tokenizer = api.load(str(case.folder), dtype="float32")
    prompt, tokens = tokenizer(PROMPT)["input_ids"], answer["token_ids"]
    gaps, _ = walk(model, prompt, tokens, [{}] * len(tokens))
    if len(tokens) != TOKENS or not max(gaps) < NEAR_TIE:
        raise Wrong(f"{answer['text']!r} is not what our model answers: gaps {gaps}")
    return {"text": answer["text"], "identical": gaps.count(0), "gap": max(gaps)}


def processes(server: Server) -> tuple[int, list[int]]:
    """vLLM's server, and it with all that it has started; the keeper of ours too."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(words[1])
    family = [server.process.pid]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    command = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family[1:]}
    return next(pid for pid in family[1:] if b"api_server" in command[pid]), family[1:]


def must_be_gone(pids: list[int]) -> None:
    """Within some seconds; one that waits for its parent to ask how it ended is gone."""
    last = time.monotonic() + 15
    while left := [pid for pid in pids if _lives(pid)]:
        if time.monotonic() > last:
            raise Wrong(f"processes {left} were left behind")
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
