"""What is checked before vLLM starts: the address, the checkpoint's files, memory, the settings.

vLLM itself would find most of it after half a minute of imports, and some of it never: it loads a
checkpoint that lacks a tensor, and shares a port with another vLLM of the same user.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from salient.core.errors import CheckpointError, RequestError, ResourceError
from salient.diagnose.checkpoint.check import read_checkpoint
from salient.diagnose.engine_support import judge_kernel
from salient.diagnose.env_vars import relevant
from salient.diagnose.finding import Finding
from salient.diagnose.report import finding_lines
from salient.diagnose.serving.serving_rules import judge_settings
from salient.serve.http_server import bind

from .command import untracked
from .memory_fit import MemoryFit
from .target import LaunchContext
from .user_arguments import settings_of

TOLD = ("error", "slow", "warning")
REFUSED_MOST = 5  # findings that a refusal lists
# judged better by the plan, which knows what is free
_JUDGED_ELSEWHERE = ("context-no-room",)


@dataclass(frozen=True)
class Address:
    """Where the server will listen. path: of a Unix socket, "" where it is host and port"""

    host: str
    port: int
    path: str = ""

    @property
    def words(self) -> str:
        """ "http://127.0.0.1:8000"; of all addresses, the one to reach it by from here."""
        if self.path:
            return f"unix:{self.path}"
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"http://{host}:{self.port}"


def address_of(found: LaunchContext) -> Address | None:
    """Where this vLLM will listen; None where it will not: a further machine of several."""
    if found.given.values.get("headless"):
        return None
    given = found.given
    host, port = given.text("host", found.request.host), given.number("port", found.request.port)
    return Address(host, port, given.text("uds", ""))


def check_address(address: Address) -> None:
    """Raises RequestError where the address is taken or cannot be listened on."""
    if address.path:
        return
    try:
        bind(address.host.strip("[]"), address.port).close()
    except RequestError as error:
        raise RequestError(f"{error} vLLM was not started.") from None


def check_checkpoint(found: LaunchContext, said: Callable[[str], None]) -> None:
    """Look at every header, scale and zero. Raises CheckpointError for what would make wrong
    numbers or stop vLLM; ModelError where nothing can be read; says what is doubtful."""
    reading = read_checkpoint(found.folder)
    wrong = [
        one for one in reading.findings if one.level == "error" and one.certainty != "possible"
    ]
    if wrong:
        lines = [line for one in wrong[:REFUSED_MOST] for line in finding_lines(one)]
        more = len(wrong) - REFUSED_MOST
        lines += [f"and {more} more"] * (more > 0)
        raise CheckpointError(
            f"{found.folder} would not load, or would compute wrong numbers; vLLM was not started. "
            "Found:\n" + "\n".join(lines) + f"\nAll of it: salient doctor {found.folder}"
        )
    tell(reading.findings, said)
    if reading.modules:
        said(f"Checkpoint: {reading.modules} quantized linears, {reading.method}, no fault found.")
    gpu = found.place.gpu if found.place and found.place.gpu.vendor != "cpu" else None
    if gpu:
        version = found.version if found.vllm and found.vllm.version else None
        tell(judge_kernel(found.config, reading, gpu, found.tp, version), said)


def check_fit(fit: MemoryFit, said: Callable[[str], None]) -> None:
    """Raises ResourceError where the model cannot fit; says what was planned."""
    if fit.refused:
        raise ResourceError(f"{fit.refused}\nvLLM was not started.")
    for line in fit.said:
        said(line)


def check_settings(
    found: LaunchContext, command: list[str], variables: dict[str, str], said: Callable[[str], None]
) -> None:
    """Say what the arguments mean for speed and safety. None of it stops vLLM: it judges its own
    arguments, and knows more of them than we do."""
    start = len(found.vllm.start) if found.vllm else 2
    environment = relevant({**os.environ, **variables})
    settings = settings_of(["m", *command[start + 1 :]], environment)
    gpu = found.place.gpu if found.place else None
    version = found.version if found.vllm and found.vllm.version else None
    told = judge_settings(settings, gpu=gpu, version=version, config=found.config)
    tell((one for one in told if one.id not in _JUDGED_ELSEWHERE), said)
    if words := untracked(found):
        said(words)


def tell(findings: Iterable[Finding], said: Callable[[str], None]) -> None:
    """Say the findings that are bad or doubtful, the worst first."""
    for finding in findings:
        if finding.level in TOLD:
            for line in finding_lines(finding):
                said(line)
