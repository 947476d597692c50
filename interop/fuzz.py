"""Send invalid bodies to `salient serve`: it must answer each, and never with a server error.

    .venv/bin/python interop/fuzz.py CHECKPOINT
    .venv/bin/python interop/fuzz.py CHECKPOINT --bodies 1000 --examples 20

1. Mutations (`tests/helpers/mutations.py`): valid requests with random changes to bytes and values.
   200 and 4xx are expected, anything else is a fault.
2. schemathesis, in its own environment (`environment.sh`), generates requests from the server's
   OpenAPI document and looks for server errors.

At the end the server must give the same answer as at the beginning. Exit code 1 for a fault, 2 if
the server does not start.
"""

import argparse
import concurrent.futures
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "benchmarks")]
from helpers.mutations import mutated  # noqa: E402
from servers import Setting, running_server  # noqa: E402

REQUEST = {"prompt": "The capital of France is", "max_tokens": 16, "temperature": 0}
TOGETHER = 8
SECONDS = 120  # for one answer


def main() -> int:
    """Send, count, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--examples", type=int, default=50, help="of schemathesis, per operation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as work,
        running_server("salient", options.checkpoint, Setting(128, 16), Path(work)) as server,
    ):
        host = server.url.removeprefix("http://")
        before = post(host, "/v1/completions", json.dumps(REQUEST).encode())
        began = time.perf_counter()
        counts, faults = mutations(host, options.bodies, options.seed)
        print(f"{options.bodies} mutated bodies in {time.perf_counter() - began:.0f} s: {counts}")
        for fault in faults[:10]:
            print("fault:", *fault)
        clean = schemathesis(server.url, options.examples)
        after = post(host, "/v1/completions", json.dumps(REQUEST).encode())
        same = text_of(before) == text_of(after)
        print("The answer is the same as before." if same else f"The answer differs: {after!r}")
    return int(bool(faults) or not clean or not same)


def post(host: str, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of one request on a new connection."""
    connection = http.client.HTTPConnection(host, timeout=SECONDS)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def text_of(reply: tuple[int, bytes]) -> str:
    """The text of a completion."""
    return json.loads(reply[1])["choices"][0]["text"]


def mutations(host: str, count: int, seed: int) -> tuple[dict[int, int], list[tuple]]:
    """The number of answers by status, and those that are neither 200 nor 4xx."""
    counts: Counter[int] = Counter()
    faults = []

    def one(sent: tuple[str, bytes]) -> tuple[str, bytes, int, bytes]:
        try:
            return *sent, *post(host, *sent)
        except (OSError, http.client.HTTPException) as error:
            return *sent, 0, repr(error).encode()

    with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
        for path, body, status, reply in pool.map(one, mutated(count, seed)):
            counts[status] += 1
            if status != 200 and not 400 <= status < 500:
                faults.append((path, body[:300], status, reply[:300]))
    return dict(sorted(counts.items())), faults


def schemathesis(url: str, examples: int) -> bool:
    """Whether schemathesis finds no server error in the operations of the OpenAPI document."""
    command_line = [str(ROOT / "interop" / "environment.sh"), "schemathesis"]
    python = Path(
        subprocess.run(command_line, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    )
    command = [str(python.with_name("st")), "run", f"{url}/openapi.json"]
    command += ["--checks", "not_a_server_error", "--max-examples", str(examples)]
    command += ["--request-timeout", str(SECONDS), "--seed", "0", "--no-color"]
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
