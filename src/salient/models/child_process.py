"""Start a program of this package as a process of its own, for files of strangers.

The program imports neither Salient nor Transformers. It gets no environment but what it needs, and
a Ctrl-C is for its parent. Imports no torch.
"""

import os
import sys
from pathlib import Path
from typing import Any

from salient.core.errors import ModelError


def child_command(program: Path, *arguments: str) -> list[str]:
    """The words of the command that runs `program`."""
    return [sys.executable, "-s", "-P", str(program), *arguments]  # -P: not from its folder


def child_options(**environment: str) -> dict[str, Any]:
    """What subprocess starts it with, besides its pipes."""
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)
    return {"env": {**environment, "PYTHONPATH": path}, "start_new_session": True}


def no_process(purpose: str, error: OSError) -> ModelError:
    """The error that no process could be started to `purpose`."""
    return ModelError(
        f"No process could be started to {purpose} ({error}). Free memory, or raise the limit of "
        "processes (ulimit -u)."
    )
