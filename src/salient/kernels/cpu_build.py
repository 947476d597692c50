"""Build the C++ kernels for this machine's processor, once, into the cache.

Built where they run, they use all instructions of the processor (AVX2, AVX-512 VNNI, NEON).
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from salient.core.system import cache_folder

SOURCES = Path(__file__).parent / "cpp"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-w")
# Tried in turn: Apple's clang has no OpenMP of its own, old compilers for Arm no -march=native.
TRIES = (
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-march=native",),
    ("-mcpu=native",),
    (),
)
LONGEST_BUILD = 300  # seconds


class NotBuilt(Exception):
    """The kernels cannot be built here, with the reason."""


@cache
def built_library(extra: tuple[str, ...] = ()) -> Path:
    """The shared library, built if it is not in the cache. `extra` flags are for tests.

    Raises NotBuilt.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None or shutil.which(compiler) is None:
        raise NotBuilt("no C++ compiler (c++, g++, clang++, or what CXX names) is installed")
    folder = cache_folder() / "kernels"
    library = folder / f"salient-{_key(compiler, extra)}.so"
    if not library.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _build(compiler, extra, library)
        except OSError as error:
            raise NotBuilt(f"{folder} cannot be written ({error})") from error
    return library


def _build(compiler: str, extra: tuple[str, ...], library: Path) -> None:
    message = ""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        output = Path(folder) / library.name
        for flags in TRIES:
            command = [compiler, *FLAGS, *flags, *extra]
            try:
                done = subprocess.run(
                    [*command, str(SOURCES / "native.cpp"), "-o", str(output)],
                    capture_output=True,
                    text=True,
                    timeout=LONGEST_BUILD,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise NotBuilt(f"{compiler} took more than {LONGEST_BUILD} s") from None
            if done.returncode == 0:
                output.replace(library)
                return
            errors = (line for line in done.stderr.splitlines() if "error" in line)
            message = message or next(errors, "")
    raise NotBuilt(f"{compiler} cannot build them ({message.strip() or 'no error message'})")


def _key(compiler: str, extra: tuple[str, ...]) -> str:
    """The cache key: a hash of sources, compiler, flags and processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    for text in (compiler, version.stdout, *FLAGS, *map(str, TRIES), *extra, _processor()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    features = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return "\n".join(sorted(features))
