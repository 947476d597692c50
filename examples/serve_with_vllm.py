"""Serve a checkpoint with vLLM, and query it as an OpenAI client.

    python examples/serve_with_vllm.py CHECKPOINT [VLLM_PYTHON]

VLLM_PYTHON is the Python of an environment that has vLLM; without it vLLM is searched for on PATH.
`salient serve` checks the checkpoint, memory and settings before vLLM starts, reports the kernel
that vLLM selects, and stops vLLM with itself. The package `openai` is needed.
"""

import contextlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

URL = "http://127.0.0.1:8000"


def serve_command(checkpoint: str, python: str = "", *options: str) -> list[str]:
    """The command line of the server; `options` are `salient serve`'s."""
    command = [sys.executable, "-m", "salient", "serve", checkpoint, "--engine", "vllm"]
    return [*command, *(["--vllm-python", python] if python else []), *options]


def wait_until_ready(server: subprocess.Popen[bytes], url: str = URL) -> None:
    """Wait for /health, or exit with the server's code if it ends first."""
    while server.poll() is None:
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"{url}/health"):
            return
        time.sleep(1)
    sys.exit(server.returncode)


def answer(question: str, url: str = URL) -> str:
    """The answer of the first model that the server lists."""
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    response = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": question}],
        max_tokens=64,
    )
    return response.choices[0].message.content or ""


def main(checkpoint: str, python: str = "") -> None:
    """Start the server, wait until it is ready, print an answer, and stop it."""
    with subprocess.Popen(serve_command(checkpoint, python)) as server:
        try:
            wait_until_ready(server)
            print(answer("Name three colours."))
        finally:
            server.send_signal(signal.SIGINT)


if __name__ == "__main__":
    main(*sys.argv[1:3])
